"""What a process knows of a host: its permits, the slots that wait for one, and the host's rest."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from math import inf
from time import monotonic

from tasks.errors import HostRestingError
from tasks.retry_later import HostBusy
from tasks.throttle.registry import Answers, Grant, Why

#: The weight of the last request in the smoothed time of a request.
_SMOOTHING = 0.2
_TEXTS = {
    Why.FULL: "has all its permits in use",
    Why.RATE: "has reached its rate",
    Why.RESTING: "rests, because it refused requests or did not answer",
    Why.HALF_OPEN: "is being probed after a rest",
    Why.GIVEN_UP: "refused requests or did not answer, again and again",
    Why.SETTLING: "waits until the fleet has counted its requests again",
}
#: Seconds after a wait for which a process keeps its unused permits.
_SCARCE_SECONDS = 0.05
#: The longest time between two questions to the fleet while permits of this process become free soon.
_LONGEST_PAUSE_SECONDS = 1.0


@dataclass(slots=True)
class HostPermits:
    """What this process knows of a host. Times are seconds of the monotonic clock."""

    key: str
    changed: threading.Condition
    #: Whether the run of the latest request lets the host rest.
    adaptive: bool
    #: The permits of this process, and the permits in use.
    held: int = 0
    used: int = 0
    #: The number of permits that this process may keep.
    share: float = inf
    #: Whether other processes or parked tasks wait for permits.
    wanted: bool = False
    #: The number of slots that wait here, and whether a call to the fleet about the permits is under way.
    waiting: int = 0
    asking: bool = False
    #: When a slot last began to wait, and how often in a row the fleet had no more permits for this process.
    waited_at: float = -inf
    refusals: int = 0
    #: The end of the permits, unless they are renewed.
    expires: float = 0.0
    #: The end of the host's rest, and the end of the wait that the fleet asked for.
    resting_until: float = 0.0
    refused_until: float = 0.0
    why: Why = Why.FULL
    #: Whether the fleet may have a wrong number of permits: a call failed, or its reply was lost. This process also
    #: doubts the number if it got no permits, because the missing permits may be its own.
    is_uncertain: bool = False
    #: Whether images fail while the host rests, and whether this is unknown.
    given_up: bool = False
    must_ask: bool = False
    #: The smoothed seconds for which a request uses a permit.
    hold_seconds: float = 0.0
    #: The host's latency in seconds, as the fleet has observed it.
    latency: float = 0.0
    #: The smallest number of unused permits since the last renewal, and permits that this process gives back.
    spare: int = 0
    surplus: int = 0
    #: The time of the last request.
    used_at: float = field(default_factory=monotonic)
    #: Whether the request in flight is the probe after a rest.
    is_probing: bool = False
    #: Answers since the last report: their number, and the sum of their latencies in seconds.
    answered: int = 0
    latencies: float = 0.0

    def busy(self, wait: float) -> HostBusy:
        """Return the exception for a host without a permit; ``wait`` is the expected wait in seconds."""
        return HostBusy(self.key, _TEXTS[self.why], wait)

    def resting_error(self) -> HostRestingError:
        """Return the error for an image of a host that is given up."""
        return HostRestingError(f"{self.key} {_TEXTS[Why.GIVEN_UP]}, so this image is not tried now")

    def has_free_permit(self, now: float, adaptive: bool) -> bool:
        """Return whether a request can start at once; ``adaptive`` tells whether the host's rest counts."""
        is_free = self.used < min(self.held, self.share)
        return is_free and now < self.expires and not (adaptive and now < self.resting_until)

    def expected_wait(self, now: float, adaptive: bool) -> float:
        """Return the seconds until the next waiting slot is likely to get a permit."""
        if adaptive and now < self.resting_until:
            return self.resting_until - now
        asked = max(self.refused_until - now, 0.0)
        if not self.held:
            # Another process has all permits, and keeps each of them for at least this time.
            return max(asked, self.latency)
        own = self.hold_seconds * (self.waiting + 1) / self.held
        return own if self.used >= self.held else asked

    def next_change(self, now: float, adaptive: bool) -> float:
        """Return the seconds until the fleet may give permits, unless a permit is given back here before."""
        until = max(self.resting_until, self.refused_until) if adaptive else self.refused_until
        return until - now if until > now else inf

    def wait(self, seconds: float) -> None:
        """Wait until something changes, at most this long. The caller holds the gate's lock."""
        self.waiting, self.waited_at = self.waiting + 1, monotonic()
        try:
            self.changed.wait(seconds)
        finally:
            self.waiting -= 1

    def refuse(self, grant: Grant, now: float) -> None:
        """Record that the fleet gave no permits."""
        # If the waiting slots will get permits of this process sooner, the fleet is asked less and less often.
        is_brief = grant.why is Why.FULL and self.held and self.hold_seconds * self.waiting / self.held < grant.wait
        self.refusals = self.refusals + 1 if is_brief else 0
        wait = max(grant.wait, min(grant.wait * 2**self.refusals, _LONGEST_PAUSE_SECONDS))
        self.why, self.refused_until, self.latency = grant.why, now + wait, grant.latency
        self.is_uncertain = True

    def rest(self, until: float, given_up: bool) -> None:
        """Record the host's rest. Permits from before the rest are not used after it, because they are no probes."""
        self.resting_until, self.given_up = until, given_up
        if self.adaptive and until > monotonic():
            self.share, self.is_probing = 0, False

    def use(self) -> None:
        """Take a free permit."""
        self.used += 1
        self.spare = min(self.spare, self.held - self.used)
        self.used_at = monotonic()

    def end_use(self, seconds: float, is_kept: bool) -> None:
        """Give a permit back to this process, or to the fleet if it is not kept."""
        self.used -= 1
        self.hold_seconds += _SMOOTHING * (seconds - self.hold_seconds) if self.hold_seconds else seconds
        if not is_kept or self.held > self.share:
            self.held -= 1
            self.surplus += 1
            if self.why is Why.FULL:
                # The fleet has a free permit as soon as it gets this one back, so a waiting slot asks again at once.
                self.refused_until = 0.0
        self.changed.notify()

    def lends(self, now: float) -> bool:
        """Return whether unused permits go to others at once.

        If slots waited here a moment ago, they need the permits themselves. Otherwise permits would go to and fro.
        """
        return self.wanted and not self.waiting and now - self.waited_at > _SCARCE_SECONDS

    def take_unused(self, now: float, is_due: bool) -> bool:
        """Stop counting the permits to give back now; return whether there are any.

        Unused permits are given back at once if others want them or if they exceed the share, and else if they were
        unused since the last renewal.
        """
        unused = 0 if self.waiting else self.held - self.used if self.lends(now) else self.spare if is_due else 0
        unused = min(max(unused, self.held - max(self.used, int(min(self.share, self.held)))), self.held - self.used)
        self.held -= unused
        released, self.surplus = unused + self.surplus, 0
        if is_due:
            self.spare = self.held - self.used
        return released > 0

    def is_settled(self) -> bool:
        """Return whether the fleet knows all of this host's permits and answers, and there are no permits."""
        return not (self.held or self.surplus or self.answered or self.is_uncertain or self.asking)

    def take_answers(self) -> Answers:
        """Return the good answers since the last call."""
        latency = self.latencies / self.answered if self.answered else 0.0
        answers = Answers(self.answered, latency, self.adaptive)
        self.answered, self.latencies = 0, 0.0
        return answers
