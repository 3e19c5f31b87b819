#!/bin/sh
# Whether this container's worker answers. Asking takes most of a second of CPU, so an answer counts for half a minute:
# a check every few seconds says soon that a worker is up, and costs next to nothing after that.
set -eu
answered=/tmp/worker-answered
if [ -e "$answered" ] && [ $(($(date +%s) - $(stat -c %Y "$answered"))) -lt 30 ]; then
    exit 0
fi
celery -A tasks inspect ping -d "worker@$(hostname)" -t 5
touch "$answered"
