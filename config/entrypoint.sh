#!/bin/sh
# Run a command as the owner of the image folder, so that new files belong to the folder's owner on the host. To change
# the user, this script needs root with the capabilities SETUID, SETGID and SETPCAP. Without root, it runs the command
# as the current user.
set -eu
folder=${IMAGEFLEET_OWNED_BY:-}
if [ "$(id -u)" -eq 0 ] && [ -n "$folder" ]; then
    owner=$(stat -c %u "$folder")
    group=$(stat -c %g "$folder")
    # Drop the bounding set too, because otherwise the command would keep capabilities if the folder's owner is root.
    exec setpriv --reuid "$owner" --regid "$group" --clear-groups \
        --inh-caps=-all --bounding-set=-all --no-new-privs -- "$@"
fi
exec "$@"
