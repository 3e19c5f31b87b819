#!/bin/sh
# Runs a command as the owner of the folder that holds the images, so that the files belong to whoever owns it on the
# host. Needs root with the capabilities SETUID, SETGID and SETPCAP for that; without root it runs the command as it is.
set -eu
folder=${IMAGEFLEET_OWNED_BY:-}
if [ "$(id -u)" -eq 0 ] && [ -n "$folder" ]; then
    owner=$(stat -c %u "$folder")
    group=$(stat -c %g "$folder")
    # The bounding set goes too: not even a root owner keeps a capability.
    exec setpriv --reuid "$owner" --regid "$group" --clear-groups \
        --inh-caps=-all --bounding-set=-all --no-new-privs -- "$@"
fi
exec "$@"
