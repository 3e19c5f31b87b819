"""Watch the workers of a run, and the hosts that slow it down, for the progress of the run."""

from __future__ import annotations

import time
from contextlib import suppress

import redis

from producer.dispatch.host_watch import HostWatch
from producer.dispatch.progress import FleetCondition
from tasks.broker.liveness import worker_liveness

#: Seconds between two looks.
_LOOK_INTERVAL_SECONDS = 3.0
#: The maximum number of resting hosts, and of slow hosts, in the condition of a fleet.
_MOST_HOSTS = 3


class FleetWatch:
    """Looks at the fleet of a run every few seconds."""

    def __init__(self, server: redis.Redis, hosts: HostWatch) -> None:
        """Take a client with `decode_responses`, and the watch of the run's hosts."""
        self._server, self._hosts = server, hosts
        self._looked_at: float | None = None
        self._condition = FleetCondition()

    def look(self) -> FleetCondition:
        """Return the condition of the fleet, as found by a look in the last seconds.

        While Redis is unreachable, return the last condition.
        """
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at >= _LOOK_INTERVAL_SECONDS:
            self._looked_at = now
            with suppress(redis.RedisError):
                self._condition = self._read()
        return self._condition

    def _read(self) -> FleetCondition:
        alive = list(worker_liveness(self._server).values())
        resting, slowest = self._hosts.notable_hosts()
        return FleetCondition(
            workers=sum(alive),
            lost_workers=alive.count(False),
            resting=tuple(resting[:_MOST_HOSTS]),
            resting_hosts=len(resting),
            slowest=tuple(slowest[:_MOST_HOSTS]),
        )
