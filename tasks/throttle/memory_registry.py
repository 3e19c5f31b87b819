"""The registry of a single process, for the baselines: the same rules as in Redis.

Nothing here can lose data, so this registry never settles. It knows no workers, so a lease ends only when it is
released or expires. Operators can limit only the hosts of a fleet.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from tasks.throttle.memory_host import Host
from tasks.throttle.registry import NO_ANSWERS, Answers, Grant, Renewal, Report, Rest
from tasks.throttle_options import HostLimit

#: The number of hosts from which idle hosts are forgotten.
_MANY_HOSTS = 10_000


class MemoryRegistry:
    """The hosts' state in the memory of this process; see `Registry` for the methods."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Create the registry; ``clock`` returns the time in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}
        self._swept = _MANY_HOSTS
        self._rests: queue.SimpleQueue[Rest] = queue.SimpleQueue()

    def acquire(self, key: str, limit: HostLimit, holder: str, want: int, adaptive: bool, returned: int = 0) -> Grant:
        """Ask for permits; see `Registry.acquire`."""
        with self._lock:
            now = self._clock()
            return self._host(key, now).acquire(holder, limit, want, adaptive, returned, now)

    def renew(
        self, holder: str, held: Mapping[str, int], answers: Mapping[str, Answers] | None = None
    ) -> Mapping[str, Renewal]:
        """Renew leases; see `Registry.renew`."""
        renewals = {}
        with self._lock:
            now = self._clock()
            for key, permits in held.items():
                good = (answers or {}).get(key, NO_ANSWERS)
                host = self._host(key, now)
                if good.ok:
                    host.report(holder, Report(good.ok, good.latency), good.adaptive, now)
                renewals[key] = host.renew(holder, permits, now)
        return renewals

    def report(self, key: str, holder: str, report: Report, adaptive: bool) -> Rest | None:
        """Record observations; see `Registry.report`."""
        with self._lock:
            now = self._clock()
            host = self._host(key, now)
            changed = host.report(holder, report, adaptive, now)
            resting = host.resting(now)
            rest = Rest(key, resting, host.given_up) if resting else None
            if changed and rest is not None:
                self._rests.put(rest)
            return rest

    def forget(self, holder: str, hosts: Iterable[str]) -> None:
        """Remove leases; see `Registry.forget`."""
        with self._lock:
            for key in hosts:
                if key in self._hosts:
                    self._hosts[key].leases.pop(holder, None)

    def next_rest(self, timeout: float) -> Rest | None:
        """Return the next rest; see `Registry.next_rest`."""
        try:
            return self._rests.get(timeout=timeout)
        except queue.Empty:
            return None

    def _host(self, key: str, now: float) -> Host:
        if key not in self._hosts and len(self._hosts) >= self._swept:
            self._hosts = {name: host for name, host in self._hosts.items() if not host.is_idle(now)}
            self._swept = max(_MANY_HOSTS, 2 * len(self._hosts))
        return self._hosts.setdefault(key, Host())
