"""Watch the hosts of a run: for the progress display, and for the run's report."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace

import redis

from producer.dispatch.host_report import HostCondition, HostReport
from tasks.throttle.hosts import list_hosts_since
from tasks.throttle.parking import Parking

#: The maximum number of hosts in a report.
_MOST_HOSTS = 5
#: The number of hosts that are read for the display. A run may use more hosts than can be read every few seconds.
_DISPLAYED_HOSTS = 300
#: A host for which images waited this many seconds is in the report.
_LONG_WAIT_SECONDS = 10.0
#: Conditions that stop images of this run, even if the trouble began before the run.
_FAILING = frozenset({HostCondition.GIVEN_UP, HostCondition.RESTS, HostCondition.PROBED})


class HostWatch:
    """The hosts that a run waits for, or has waited for."""

    def __init__(self, server: redis.Redis) -> None:
        """Take a client with `decode_responses`."""
        self._server, self._parking = server, Parking(server)
        #: The start of the run: on Redis's clock, and on this process's monotonic clock.
        self._started: float | None = None
        self._began = 0.0
        self._looked_at: float | None = None
        self._waited: defaultdict[str, float] = defaultdict(float)
        #: The host with the most parked images, and the number of hosts with parked images; empty and 0 without any.
        self.busiest, self.busy = "", 0

    def start(self) -> None:
        """Note the time of Redis's clock at the start of the run; later calls change nothing.

        Raises:
            redis.RedisError: Redis is unreachable.
        """
        if self._started is None:
            self._began = time.monotonic()
            seconds, microseconds = self._server.time()
            self._started = seconds + microseconds / 1e6

    def refresh(self, has_parked: bool) -> None:
        """Find the host with the most parked images.

        Args:
            has_parked: whether the run has parked images.

        Raises:
            redis.RedisError: Redis is unreachable.
        """
        now = time.monotonic()
        if self.busiest and self._looked_at is not None:
            self._waited[self.busiest] += now - self._looked_at
        self._looked_at = now
        parked = self._parking.parked_at_hosts() if has_parked else {}
        self.busiest, self.busy = max(parked, key=parked.__getitem__, default=""), len(parked)

    def notable_hosts(self) -> tuple[list[HostReport], list[HostReport]]:
        """Return the resting hosts, and the other hosts with a known latency: the worst first, and the slowest first.

        Only the 300 hosts that were used last are considered. At a broker, hosts of other runs may be among them.

        Raises:
            redis.RedisError: Redis is unreachable.
        """
        if self._started is None:
            return [], []
        states = list_hosts_since(self._server, self._started, latest=_DISPLAYED_HOSTS)
        reports = [HostReport.from_state(state) for state in states]
        resting = [report for report in reports if report.condition in _FAILING]
        timed = [
            (report.latency, report)
            for report in reports
            if report.latency is not None and report.condition not in _FAILING
        ]
        slowest = [report for _, report in sorted(timed, key=lambda pair: -pair[0])]
        return sorted(resting, key=lambda report: report.urgency), slowest

    def troubled_hosts(self) -> list[HostReport]:
        """Return the hosts that rested, were slow or kept images waiting during the run: at most five, the worst first.

        At a broker, the hosts of other runs at the same time may be among them.

        Raises:
            redis.RedisError: Redis is unreachable.
        """
        if self._started is None:
            return []
        found = []
        for state in list_hosts_since(self._server, self._started):
            waited = self._waited.get(state.key, 0.0)
            has_had_trouble = state.troubled is not None and state.troubled <= time.monotonic() - self._began
            # Trouble before the run does not explain why images waited during the run.
            known = state if has_had_trouble else replace(state, troubled=None)
            report = HostReport.from_state(known, waited if waited >= _LONG_WAIT_SECONDS else 0.0)
            if report.waited or has_had_trouble or report.condition in _FAILING:
                found.append(report)
        return sorted(found, key=lambda report: report.urgency)[:_MOST_HOSTS]
