"""Describe the hosts of a fleet in words and figures, for an operator and for the report of a run. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from config import limits
from producer.formatting import pluralized
from tasks.throttle.hosts import HostState
from tasks.throttle.registry import Cause, Why
from tasks.throttle_options import HostLimit

#: Remaining times above this many seconds are shown in minutes.
_MINUTES_FROM_SECONDS = 120


class HostCondition(StrEnum):
    """How a host does, the worst first."""

    #: The host rested too often in a row. Its images fail as ``host_resting`` until a probe succeeds.
    GIVEN_UP = "given up"
    #: The host gets no requests for some time.
    RESTS = "rests"
    #: The host has rested, and one request probes it.
    PROBED = "probed"
    #: The fleet has reduced the host's limit.
    REDUCED = "reduced"
    #: Images wait, because the host has reached its limit.
    FULL = "full"
    WORKS = "works"
    #: The host has no open requests, and no image waits for it.
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class HostReport:
    """What an operator should know of a host. JSON can encode the value. Times are in seconds."""

    host: str
    condition: HostCondition
    #: The reason for the condition, in words.
    reason: str
    #: The number of open requests, and how many are allowed now; None if the limit is unknown.
    open: int
    limit: int | None
    #: The number of requests allowed per second; None for no maximum.
    rate: float | None
    #: The number of images that wait for the host.
    parked: int
    #: The numbers of good answers, of timeouts after an answer had begun, of answers with 429 or 503, and of failed
    #: connections.
    ok: int
    slow: int
    refused: int
    unreachable: int
    #: The smoothed and the best latency; None before the first good answer.
    latency: float | None
    best_latency: float | None
    #: The remaining time of the rest; 0 for a host that does not rest.
    resting: float
    #: For the report of a run: how long this host was the one with most waiting images.
    waited: float = 0.0

    @classmethod
    def from_state(cls, state: HostState, waited: float = 0.0) -> Self:
        """Create the report from the fleet's state of a host."""
        condition = _condition(state)
        return cls(
            host=state.key,
            condition=condition,
            reason=_reason(state, condition, waited),
            open=state.permits,
            limit=state.open_limit,
            rate=state.rate,
            parked=state.parked,
            ok=state.ok,
            slow=state.slow,
            refused=state.refused,
            unreachable=state.unreachable,
            latency=state.latency,
            best_latency=state.best_latency,
            resting=round(state.resting, 3),
            waited=round(waited, 1),
        )

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Create the report from decoded JSON."""
        return cls(**{**facts, "condition": HostCondition(facts["condition"])})

    @property
    def urgency(self) -> tuple[int, int, float, int, float]:
        """A key to sort by: the worst condition first, then the host with the most waiting images."""
        place = list(HostCondition).index(self.condition)
        return place, -self.parked, -self.waited, -self.open, -(self.latency or 0.0)


def _condition(state: HostState) -> HostCondition:
    if state.why is Why.GIVEN_UP:
        return HostCondition.GIVEN_UP
    if state.resting > 0:
        return HostCondition.RESTS
    if state.rests > 0:
        return HostCondition.PROBED
    if state.adaptive_limit is not None:
        return HostCondition.REDUCED
    if state.parked:
        return HostCondition.FULL
    return HostCondition.WORKS if state.permits else HostCondition.IDLE


def _reason(state: HostState, condition: HostCondition, waited: float) -> str:
    texts = []
    cause = "it refused requests (429 or 503)" if state.cause is Cause.REFUSED else "it did not answer"
    if condition is HostCondition.GIVEN_UP:
        texts.append(f"{cause}, {pluralized(state.rests, 'rest')} in a row")
        texts.append(f"next probe in {_duration(state.resting)}" if state.resting else "the next request probes it")
    elif condition is HostCondition.RESTS:
        texts += [cause, f"{_duration(state.resting)} left"]
    elif condition is HostCondition.PROBED:
        texts += [cause, "one request probes it after its rest"]
    elif condition is HostCondition.REDUCED:
        texts.append("it was slow, refused requests or did not answer")
    elif condition is HostCondition.FULL:
        # The host may have a free permit for a moment, until one of the waiting images gets it.
        texts.append("its limit is reached" if state.rate is None else "its limit or its rate is reached")
    elif state.troubled is not None:
        texts.append(f"it works again; it rested or was slow {_duration(state.troubled)} ago")
    elif waited and state.open_limit is not None:
        texts.append(f"its limit was reached ({describe_limit(HostLimit(state.open_limit, state.rate))})")
    if waited:
        texts.append(f"images waited for it for {_duration(waited)}")
    if state.operator_limit is not None:
        texts.append("an operator has limited it")
    return "; ".join(texts)


def describe_limit(limit: HostLimit) -> str:
    """Return a limit in words, such as ``2 open requests and 0.5 requests per second``.

    The greatest number of open requests is left out if there is a rate.
    """
    texts = []
    if limit.rate is None or limit.concurrency != limits.HOST_CONCURRENCY.greatest:
        texts.append(pluralized(limit.concurrency, "open request"))
    if limit.rate is not None:
        texts.append(f"{limit.rate:g} request{'' if limit.rate == 1 else 's'} per second")
    return " and ".join(texts)


def _duration(seconds: float) -> str:
    if seconds > _MINUTES_FROM_SECONDS:
        return f"{seconds / 60:.0f} min"
    return f"{max(seconds, 1):.0f} s"
