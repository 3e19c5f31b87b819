"""Hold a process's permits, and ask the fleet for more.

The fleet counts permits for each host in Redis (`tasks.throttle.registry`). A process keeps the permits it got, and
uses them for its next images of the same host. So most requests need no round trip. A host with a rate is different:
each of its requests needs a booking.

If no permit is free, the slot waits for a moment, but only if a permit is likely to become free within the gate's
patience. Otherwise the gate raises `HostBusy`, so that the slot can fetch an image of another host.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import inf
from time import monotonic

import redis

from tasks.deadline import Deadline
from tasks.errors import FetchError
from tasks.request_gate import Answer
from tasks.throttle.host_key import HostKeys
from tasks.throttle.host_permits import HostPermits
from tasks.throttle.policy import LEASE_SECONDS
from tasks.throttle.registry import NO_ANSWERS, Answers, Grant, Registry, Renewal, Report, Rest, Retry, Why, call_once
from tasks.throttle_options import HostLimit, Target, ThrottleOptions

_log = logging.getLogger(__name__)
#: The longest wait for a permit, in seconds, during which an image keeps its slot.
SHORT_WAIT_SECONDS = 0.5
#: Seconds before the end of a lease from which a process no longer uses its permits. The margin covers the time
#: between a check and the request.
_LEASE_MARGIN_SECONDS = 2.0
#: A booking that is used later than this is not used, because the next requests of the host may already be due.
_BOOKING_TOLERANCE_SECONDS = 0.25
#: Seconds between two rounds of the gate's thread.
_TICK_SECONDS = 0.25
#: Seconds between two renewals of the permits.
_RENEW_SECONDS = 1.0
#: The number of hosts to renew in one round trip. Slots that need permits of these hosts wait for its end.
_RENEWED_AT_ONCE = 100
#: Seconds after which an unused host without permits and waiting slots is forgotten. A list may have a million hosts,
#: and a host takes 1.5 KB.
_FORGET_SECONDS = 10.0


class HostPermit:
    """A permit in use."""

    __slots__ = ("_adaptive", "_gate", "_host", "_is_booking", "_started")

    def __init__(self, gate: HostGate, host: HostPermits, adaptive: bool, is_booking: bool = False) -> None:
        self._gate, self._host, self._started = gate, host, monotonic()
        self._adaptive, self._is_booking = adaptive, is_booking

    @property
    def is_probe(self) -> bool:
        """Whether the request probes the host after a rest."""
        return self._host.is_probing

    def end(self, answer: Answer | None) -> float | None:
        """Give the permit back, report the answer, and return the seconds for which the host rests."""
        seconds = monotonic() - self._started
        return self._gate.end(self._host, answer, seconds, self._adaptive, self._is_booking)


class HostGate:
    """The gate of one process; thread-safe."""

    def __init__(
        self,
        registry: Registry,
        holder: str,
        keys: HostKeys,
        patience: float = SHORT_WAIT_SECONDS,
        serve: Callable[[], object] | None = None,
        retry: Retry = call_once,
    ) -> None:
        """Create the gate. Its threads start with `start`, or with the first request.

        Args:
            registry: the fleet's state of hosts.
            holder: the name of this process in the registry.
            keys: finds the key of a request's host.
            patience: the longest wait for a permit, in seconds; infinite for a process that can't fetch other images
                meanwhile.
            serve: sends the parked tasks of free hosts back to the queue; called a few times a second.
            retry: calls a function of the registry, and calls it again while Redis is unreachable.
        """
        self._registry, self._holder, self._keys, self.patience = registry, holder, keys, patience
        self._serve, self._retry = serve, retry
        self._lock = threading.Lock()
        self._hosts: dict[str, HostPermits] = {}
        #: The hosts with permits, answers or news for the fleet. A process knows many more hosts.
        self._active: dict[str, HostPermits] = {}
        self._renewed_at = self._swept_at = monotonic()
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def enter(self, target: Target, throttle: ThrottleOptions, deadline: Deadline) -> HostPermit:
        """Wait for the permission for a request, at most `patience` seconds. The wait extends the deadline.

        Raises:
            HostBusy: the host has no permit within this time.
            HostRestingError: the host rested too often in a row.
            DnsError: the limit is for addresses, and the host has none.
        """
        key = self._keys.key(target, throttle.scope)
        limit = throttle.limit_for(target.host, target.port)
        with self._lock:
            host = self._hosts.get(key)
            if host is None:
                host = self._hosts[key] = HostPermits(key, threading.Condition(self._lock), throttle.adaptive)
                self._start()
            # A host that was just used is not forgotten.
            host.adaptive, host.used_at = throttle.adaptive, monotonic()
            if limit.rate is None and host.has_free_permit(host.used_at, throttle.adaptive):
                host.use()
                return HostPermit(self, host, throttle.adaptive)
        started = monotonic()
        try:
            return self._wait(host, limit, throttle.adaptive, started)
        finally:
            deadline.extend(monotonic() - started)

    def _wait(self, host: HostPermits, limit: HostLimit, adaptive: bool, started: float) -> HostPermit:
        has_asked = False
        while True:
            with self._lock:
                now = monotonic()
                if limit.rate is None and host.has_free_permit(now, adaptive):
                    host.use()
                    return HostPermit(self, host, adaptive)
                patience = started + self.patience - now
                if adaptive and host.given_up and now < host.resting_until:
                    raise host.resting_error()
                next_change = host.next_change(now, adaptive)
                ask = not host.asking and (host.must_ask or next_change == inf) and (patience > 0 or not has_asked)
                if ask:
                    host.asking, host.must_ask = True, False
                else:
                    wait = host.expected_wait(now, adaptive)
                    # While the fleet is being asked, the expected wait is unknown.
                    is_known = not host.asking or next_change < inf or patience <= 0
                    if is_known and wait > patience:
                        raise host.busy(wait)
                    host.wait(min(max(next_change, 0.01), max(patience, 0.01), 1.0))
            if ask:
                has_asked = True
                if (permit := self._ask(host, limit, adaptive)) is not None:
                    return permit

    def _ask(self, host: HostPermits, limit: HostLimit, adaptive: bool) -> HostPermit | None:
        """Ask the fleet for permits; return a permit, or None if there is none now."""
        sent = monotonic()
        # With a rate, the fleet gives one permit at a time, with the time of the request.
        want = 1 if limit.rate is not None else host.waiting + 1
        grant: Grant | None = None
        with self._lock:
            returned, host.surplus = host.surplus, 0

        def acquire() -> Grant:
            nonlocal returned
            # If the reply is lost, the next try must not return the same permits again.
            once, returned = returned, 0
            return self._registry.acquire(host.key, limit, self._holder, want, adaptive, once)

        try:
            grant = self._retry(acquire)
        finally:
            with self._lock:
                host.asking = False
                if grant is None:
                    self._active[host.key], host.is_uncertain = host, True
                else:
                    self._record(host, grant, sent)
                host.changed.notify_all()
        if grant.why is Why.GIVEN_UP:
            raise host.resting_error()
        if not grant.permits:
            return None
        if limit.rate is None:
            return HostPermit(self, host, adaptive)
        return self._use_booking(host, grant.wait, sent, adaptive)

    def _record(self, host: HostPermits, grant: Grant, sent: float) -> None:
        """Record a reply of the fleet, and use one of the granted permits."""
        now = monotonic()
        self._active[host.key] = host
        if grant.permits:
            host.held += grant.permits
            host.share = max(host.share, host.held)
            host.use()
            host.expires = sent + LEASE_SECONDS - _LEASE_MARGIN_SECONDS
            host.refused_until, host.refusals = 0.0, 0
            host.is_probing, host.given_up = grant.why is Why.HALF_OPEN, False
        else:
            host.refuse(grant, now)
            if grant.why in (Why.RESTING, Why.GIVEN_UP):
                host.rest(now + grant.wait, grant.why is Why.GIVEN_UP)

    def _use_booking(self, host: HostPermits, wait: float, sent: float, adaptive: bool) -> HostPermit | None:
        """Wait until the booked time and return the permit; None if the booked time has passed."""
        permit = HostPermit(self, host, adaptive, is_booking=True)
        try:
            time.sleep(wait)
        except BaseException:
            permit.end(None)
            raise
        if monotonic() - sent - wait > _BOOKING_TOLERANCE_SECONDS or (adaptive and monotonic() < host.resting_until):
            permit.end(None)
            return None
        return permit

    def end(
        self, host: HostPermits, answer: Answer | None, seconds: float, adaptive: bool, is_booking: bool
    ) -> float | None:
        """Take a permit back after its use; return the seconds for which the host rests from now, or None."""
        bad = answer is not None and (answer.refused or answer.failed)
        with self._lock:
            if adaptive and answer is not None and answer.refused:
                # The host will rest. No slot may use this permit before the fleet has decided that.
                host.share = 0
            host.end_use(seconds, is_kept=not is_booking)
            is_urgent = host.surplus or host.lends(monotonic())
            if answer is not None and answer.latency is not None and not bad:
                host.answered += 1
                host.latencies += answer.latency
            probed = host.is_probing and answer is not None
            report = None
            if probed and not bad:
                good = host.take_answers()
                report = Report(ok=good.ok, latency=good.latency)
            host.is_probing = host.is_probing and not probed
        if is_urgent:
            self._woken.set()
        if bad and answer is not None:
            report = Report(slow=int(answer.failed), refused=answer.refused, retry_after=answer.retry_after)
        return None if report is None else self.report(host.key, report, adaptive)

    def report(self, key: str, report: Report, adaptive: bool) -> float | None:
        """Report answers or failures of a host; return the seconds for which the host rests from now, or None.

        For a run that is not adaptive, no host rests. If the process ends while Redis is unreachable, the report is
        lost.
        """
        try:
            rest = self._retry(lambda: self._registry.report(key, self._holder, report, adaptive))
        except redis.RedisError:
            return None
        if rest is None or not adaptive:
            return None
        self._record_rest(rest)
        return rest.seconds

    def _record_rest(self, rest: Rest) -> None:
        """Send no request to a host until the end of its rest. A rest of 0 s ends the rest."""
        with self._lock:
            host = self._hosts.get(rest.key)
            if host is not None:
                host.rest(monotonic() + rest.seconds, rest.given_up)
                host.why, host.refused_until = Why.RESTING, 0.0
                host.changed.notify_all()
        self._woken.set()

    def report_unreachable(self, target: Target, throttle: ThrottleOptions) -> float | None:
        """Report an image without a response, after the host's good answers.

        Return how long the host rests, or None if it does not rest or is given up.
        """
        try:
            key = self._keys.key(target, throttle.scope)
        except FetchError:
            # The limit is for addresses, and the host has no address any more.
            return None
        with self._lock:
            host = self._hosts.get(key)
            # Only failures in a row let a host rest, so the fleet must know of the good answers between them.
            good = NO_ANSWERS if host is None else host.take_answers()
        report = Report(ok=good.ok, latency=good.latency, unreachable=True)
        seconds = self.report(key, report, throttle.adaptive)
        with self._lock:
            host = self._hosts.get(key)
            return None if host is not None and host.given_up else seconds

    def stop(self) -> None:
        """Give all permits back, because this process ends; if Redis is unreachable, they expire."""
        self._stopped.set()
        self._woken.set()
        with self._lock:
            hosts = list(self._active)
        with suppress(redis.RedisError):
            self._registry.forget(self._holder, hosts)

    def start(self) -> None:
        """Start the threads. A worker that has no task yet must serve parked tasks, too."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        """Start the threads, unless they run already. The caller holds the lock."""
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._repeat, args=(step,), name=f"host-gate-{step.__name__}", daemon=True)
                for step in (self._maintain, self._listen)
            ]
            for thread in self._threads:
                thread.start()

    def _repeat(self, step: Callable[[], None]) -> None:
        """Repeat a step until this process ends. An outage of Redis is logged once."""
        is_logged = False
        while not self._stopped.is_set():
            try:
                step()
                is_logged = False
            except redis.RedisError as error:
                if not is_logged:
                    _log.warning("the limits of hosts can't be renewed while Redis is unreachable: %s", error)
                is_logged = True
                self._stopped.wait(_RENEW_SECONDS)
            except Exception:  # noqa: BLE001  # without these threads, permits would expire
                _log.exception("internal error while renewing the permits for hosts")
                self._stopped.wait(_RENEW_SECONDS)

    def _maintain(self) -> None:
        self._woken.wait(_TICK_SECONDS)
        self._woken.clear()
        if self._stopped.is_set():
            # A renewal now would restore the leases that `stop` removes.
            return
        self.tick()
        if self._serve is not None:
            self._serve()

    def _listen(self) -> None:
        """Wait for the rests that other processes cause."""
        rest = self._registry.next_rest(_RENEW_SECONDS)
        if rest is not None:
            self._record_rest(rest)

    def tick(self) -> None:
        """Give back unused permits, and once a second report the answers and renew the remaining permits.

        Raises:
            redis.RedisError: Redis is unreachable. Permits that were not given back expire.
        """
        sent = monotonic()
        is_due = sent - self._renewed_at >= _RENEW_SECONDS
        with self._lock:
            hosts = list(self._active.values())
        for start in range(0, len(hosts), _RENEWED_AT_ONCE):
            self._renew(hosts[start : start + _RENEWED_AT_ONCE], is_due)
        if is_due:
            self._renewed_at = sent
        if sent - self._swept_at > _FORGET_SECONDS / 2:
            with self._lock:
                self._swept_at = sent
                self._hosts = {key: host for key, host in self._hosts.items() if self._is_needed(host, sent)}

    def _renew(self, hosts: Iterable[HostPermits], is_due: bool) -> None:
        """Renew the permits of those hosts for which the fleet must know something.

        While the call is under way, no slot asks for permits of these hosts. Otherwise, the renewal would replace the
        number of permits in Redis by a number without the new permits.
        """
        held: dict[str, int] = {}
        answers: dict[str, Answers] = {}
        sent = monotonic()
        with self._lock:
            for host in hosts:
                if host.asking:
                    continue
                if host.take_unused(sent, is_due) or (is_due and (host.held or host.is_uncertain or host.answered)):
                    held[host.key] = host.held
                    if host.answered:
                        answers[host.key] = host.take_answers()
                    host.asking = True
                elif host.is_settled():
                    del self._active[host.key]
        renewals: Mapping[str, Renewal] = {}
        try:
            if held:
                renewals = self._registry.renew(self._holder, held, answers)
        finally:
            with self._lock:
                for key in held:
                    host = self._active[key]
                    host.asking, host.is_uncertain = False, True
                    if key in renewals:
                        self._record_renewal(host, renewals[key], sent)
                    host.changed.notify_all()

    def _record_renewal(self, host: HostPermits, renewal: Renewal, sent: float) -> None:
        host.wanted, host.is_uncertain = renewal.wanted, False
        host.expires = sent + LEASE_SECONDS - _LEASE_MARGIN_SECONDS
        if renewal.resting and host.adaptive and host.resting_until < sent:
            # The message about this rest was lost, so it is unknown whether the host is given up.
            host.rest(sent + renewal.resting, False)
            host.why, host.must_ask = Why.RESTING, True
        elif not renewal.resting:
            # The rest may have begun after the renewal.
            is_resting = host.adaptive and host.resting_until >= sent
            host.share = min(host.share, renewal.share) if is_resting else renewal.share

    def _is_needed(self, host: HostPermits, now: float) -> bool:
        return host.key in self._active or host.waiting > 0 or host.asking or now - host.used_at < _FORGET_SECONDS
