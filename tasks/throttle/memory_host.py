"""The state of one host in memory, by the same rules as the Lua scripts of this folder.

The fields have the same meaning as in ``host.lua``. None stands for an absent field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tasks.throttle import policy
from tasks.throttle.registry import Cause, Grant, Renewal, Report, Why
from tasks.throttle_options import HostLimit


@dataclass(slots=True)
class Lease:
    """The permits of one holder."""

    permits: int = 0
    renewed: float = 0.0
    refused: float | None = None
    doubted: float | None = None

    def renew(self, permits: int, now: float) -> None:
        """Set the number of permits."""
        self.permits, self.renewed, self.doubted = permits, now, None

    def is_waiting(self, now: float) -> bool:
        """Return whether the holder was refused a moment ago."""
        return self.refused is not None and now - self.refused <= policy.CLAIM_SECONDS

    def is_valid(self, now: float) -> bool:
        """Return whether the holder still has permits or waits."""
        self.renewed = min(self.renewed, now)
        if self.refused is not None and self.refused > now:
            self.refused = None
        if self.doubted is None:
            self.doubted = now if now - self.renewed >= policy.LEASE_SECONDS else None
        else:
            self.doubted = min(self.doubted, now)
            if now - self.doubted >= policy.DOUBT_SECONDS:
                self.permits = 0
        return self.permits > 0 or self.is_waiting(now)


@dataclass(slots=True)
class Host:
    """A host's limit, rests and leases."""

    limit: int = 0
    adaptive: int | None = None
    threshold: int = 0
    good: int = 0
    reduced: float | None = None
    booked: float = -math.inf
    rests: int = 0
    until: float = 0.0
    rest: float = 0.0
    given_up: bool = False
    probe: str | None = None
    failures: int = 0
    latency: float | None = None
    best: float = math.inf
    leases: dict[str, Lease] = field(default_factory=dict)

    def lease(self, holder: str, now: float) -> Lease:
        """Remove all expired leases, and return the holder's lease."""
        self.leases = {name: lease for name, lease in self.leases.items() if lease.is_valid(now)}
        return self.leases.setdefault(holder, Lease())

    def is_idle(self, now: float) -> bool:
        """Return whether this state says no more than a new one, except about the latency."""
        waits = any(lease.is_valid(now) for lease in self.leases.values())
        return not (waits or self.rests or self.failures or self.adaptive or self.booked > now)

    def resting(self, now: float) -> float:
        """Return how long the host still rests. A clock that jumped back does not prolong the rest."""
        self.until = min(self.until, now + self.rest)
        return max(0.0, self.until - now)

    def acquire(self, holder: str, limit: HostLimit, want: int, adaptive: bool, returned: int, now: float) -> Grant:
        """Return the grant, as ``acquire.lua`` does."""
        self.limit = limit.concurrency
        own = self.lease(holder, now)
        own.renew(max(0, own.permits - returned), now)
        own.refused = None
        contended = self._claimants(holder, now) > 1
        granted, wait, why = self._grant(holder, limit.rate, want, adaptive, now)
        own.permits += granted
        if granted and why is Why.HALF_OPEN:
            self.probe = holder
        return Grant(granted, wait, why, self.rests, contended, self.latency or 0.0)

    def renew(self, holder: str, held: int, now: float) -> Renewal:
        """Return the renewal, as ``renew.lua`` does."""
        self.lease(holder, now).renew(held, now)
        resting = self.resting(now)
        if resting:
            share = 0
        elif self.rests:
            share = int(self.probe == holder)
        elif self.limit:
            share = _fair_share(self._effective_limit(True), self._claimants(holder, now))
        else:
            share = held
        wanted = any(lease.is_waiting(now) for name, lease in self.leases.items() if name != holder)
        return Renewal(min(held, share), wanted, resting)

    def report(self, holder: str, report: Report, adaptive: bool, now: float) -> bool:
        """Record a report, as ``report.lua`` does; return whether the host's rest began or became longer."""
        if report.ok:
            self._smooth(report)
        if report.ok or report.slow or report.refused:
            self.failures = 0
        if report.unreachable:
            self.failures += 1
        if not adaptive:
            return False
        if self.resting(now):
            return self._observe_resting(report, now)
        if self.rests:
            return self._observe_probe(holder, report, now)
        return self._observe_working(report, now)

    def _grant(self, holder: str, rate: float | None, want: int, adaptive: bool, now: float) -> tuple[int, float, Why]:
        resting = self.resting(now)
        if adaptive and resting:
            return 0, resting, Why.GIVEN_UP if self.given_up else Why.RESTING
        half_open = adaptive and self.rests > 0
        limit = 1 if half_open else self._effective_limit(adaptive)
        own, in_use = self.leases[holder], sum(lease.permits for lease in self.leases.values())
        if half_open and in_use:
            # Perhaps the host answers the probe, so its images wait, even if it is given up.
            return 0, policy.PROBE_WAIT_SECONDS, Why.HALF_OPEN
        share = _fair_share(limit, self._claimants(holder, now))
        # With a rate, each permit is given back after its request, so no holder keeps more than its share.
        wanted = min(want, share - own.permits) if rate is None else min(1, share + 1 - own.permits)
        granted = max(0, min(wanted, limit - in_use))
        if granted < wanted:
            own.refused = now
        if not granted:
            return 0, policy.FULL_WAIT_SECONDS, Why.FULL
        wait = 0.0
        if rate is not None:
            possible, wait = self._book(rate, now)
            if not possible:
                own.refused = now
                return 0, wait, Why.RATE
        return granted, wait, Why.HALF_OPEN if half_open else Why.GRANTED

    def _claimants(self, holder: str, now: float) -> int:
        others = (lease for name, lease in self.leases.items() if name != holder)
        return 1 + sum(lease.permits > 0 or lease.is_waiting(now) for lease in others)

    def _effective_limit(self, adaptive: bool) -> int:
        return min(self.limit, self.adaptive) if adaptive and self.adaptive is not None else self.limit

    def _book(self, rate: float, now: float) -> tuple[bool, float]:
        """Book the next request; return whether this was possible, and the time until it is due or possible."""
        interval = 1 / rate
        time = min(max(self.booked, now), now + policy.MAX_BOOKING_SECONDS + interval)
        possible = time - now <= policy.MAX_BOOKING_SECONDS
        self.booked = time + interval if possible else time
        return possible, time - now if possible else time - now - policy.MAX_BOOKING_SECONDS

    def _smooth(self, report: Report) -> None:
        old = report.latency if self.latency is None else self.latency
        self.latency = old + (1 - (1 - policy.LATENCY_WEIGHT) ** report.ok) * (report.latency - old)
        self.best = min(self.best, report.latency)

    def _observe_resting(self, report: Report, now: float) -> bool:
        if not report.refused or report.retry_after is None:
            return False
        requested = _requested_rest(report.retry_after)
        if requested <= self.resting(now):
            return False
        self._rest_for(requested, now)
        return True

    def _observe_probe(self, holder: str, report: Report, now: float) -> bool:
        if holder != self.probe:
            return False
        if report.refused or report.unreachable:
            self._begin_rest(Cause.REFUSED if report.refused else Cause.UNREACHABLE, report.retry_after, now)
            return True
        if report.ok or report.slow:
            self.rests, self.until, self.rest, self.given_up, self.probe = 0, 0.0, 0.0, False, None
            self._grow(min(report.ok, 1))
        return False

    def _observe_working(self, report: Report, now: float) -> bool:
        if report.refused or self.failures >= policy.FAILURES_BEFORE_REST:
            self._begin_rest(Cause.REFUSED if report.refused else Cause.UNREACHABLE, report.retry_after, now)
            return True
        if report.slow or (report.ok and self._is_slow()):
            self._reduce(1 if report.slow else self.limit // 2, now)
        else:
            self._grow(report.ok)
        return False

    def _begin_rest(self, cause: Cause, retry_after: float | None, now: float) -> None:
        if not self.rests:
            self.threshold = max(1, self._current_limit() // 2)
        refused = cause is Cause.REFUSED
        first = policy.FIRST_REFUSED_REST_SECONDS if refused else policy.FIRST_UNREACHABLE_REST_SECONDS
        doubled = first * 2.0 ** min(self.rests, 30)
        self.adaptive, self.good, self.failures, self.probe = 1, 0, 0, None
        self.rests += 1
        if self.rests >= (policy.REFUSED_RESTS if refused else policy.UNREACHABLE_RESTS):
            self.given_up = True
        if cause is Cause.REFUSED and retry_after is not None:
            self._rest_for(_requested_rest(retry_after), now)
        else:
            self._rest_for(min(policy.LONGEST_REST_SECONDS, doubled), now)

    def _rest_for(self, seconds: float, now: float) -> None:
        self.until, self.rest = now + seconds, seconds
        if seconds > policy.LONGEST_REST_SECONDS:
            self.given_up = True

    def _current_limit(self) -> int:
        limit = max(1, self.limit)
        return limit if self.adaptive is None else min(limit, self.adaptive)

    def _is_slow(self) -> bool:
        # Latency alone never halves the limit twice.
        is_reduced = self._current_limit() <= self.limit / 2
        latency = self.latency or 0.0
        return not is_reduced and latency > policy.SLOW_SECONDS and latency > policy.SLOW_FACTOR * self.best

    def _reduce(self, least: int, now: float) -> None:
        if self.reduced is None or not 0 <= now - self.reduced < policy.REDUCTION_SECONDS:
            self.adaptive = self.threshold = max(1, least, self._current_limit() // 2)
            self.good, self.reduced = 0, now

    def _grow(self, ok: int) -> None:
        if self.adaptive is None:
            return
        start = max(0, min(ok, self.threshold - self.adaptive))
        self.adaptive += start
        self.good += ok - start
        while self.good >= self.adaptive < self.limit:
            self.good -= self.adaptive
            self.adaptive += 1
        if self.adaptive >= self.limit:
            self.adaptive, self.good, self.threshold = None, 0, 0


def _fair_share(limit: int, claimants: int) -> int:
    return max(1, math.ceil(limit / claimants))


def _requested_rest(retry_after: float) -> float:
    return min(max(retry_after, policy.SHORTEST_RETRY_AFTER_SECONDS), policy.LONGEST_RETRY_AFTER_SECONDS)
