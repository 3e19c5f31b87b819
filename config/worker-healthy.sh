#!/bin/sh
# Check whether this container's worker answers a ping. A ping takes most of a second of CPU time, so a successful ping
# counts for half a minute. Compose runs this check every few seconds, so it soon reports a new worker as healthy. Most
# later checks find a recent ping, and cost almost nothing.
set -eu
answered=/tmp/worker-answered
if [ -e "$answered" ] && [ $(($(date +%s) - $(stat -c %Y "$answered"))) -lt 30 ]; then
    exit 0
fi
celery -A tasks inspect ping -d "worker@$(hostname)" -t 5
touch "$answered"
