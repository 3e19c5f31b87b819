"""The state of the hosts that the whole fleet shares: permits, rates and rests.

A process asks the registry for permits, keeps them for its next requests to the same host, and renews them every
second. A permit is the right to have one request open. All permits of a process for a host are its lease.

The registry has two implementations, which the same tests check: `RedisRegistry` for a fleet, and `MemoryRegistry` for
the baselines, which are single processes. All times are in seconds by the registry's clock. Replies contain durations,
so the clocks of the workers do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from tasks.throttle_options import HostLimit

_T = TypeVar("_T")


class Why(StrEnum):
    """Why a holder got permits or none."""

    GRANTED = "granted"
    #: All permits are in use, or the holder has its share already.
    FULL = "full"
    #: The next request that the host's rate allows is too far ahead.
    RATE = "rate"
    #: The host rests: it gets no requests.
    RESTING = "resting"
    #: The host has rested, and one request probes it. With a permit: this request is the probe.
    HALF_OPEN = "half_open"
    #: The host rested too often in a row. Its images fail until a probe succeeds.
    GIVEN_UP = "given_up"
    #: The registry has lost data and waits until all holders have renewed their leases.
    SETTLING = "settling"


class Cause(StrEnum):
    """Why a host rests."""

    #: It answered with 429 or 503.
    REFUSED = "refused"
    #: Several connections in a row failed.
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Grant:
    """The reply to a holder that asked for permits."""

    #: The number of new permits.
    permits: int
    #: With a permit: how long its request must wait, because of a rate. Without: when to ask again.
    wait: float
    why: Why
    #: The number of the host's rests in a row; 0 for a host that works.
    rested: int
    #: Whether other holders have permits of this host or wait for them.
    contended: bool
    #: The host's smoothed latency, as the fleet has observed it; 0 if it is unknown.
    latency: float = 0.0


@dataclass(frozen=True, slots=True)
class Renewal:
    """The reply to a holder that renewed its lease of a host."""

    #: How many permits the holder may keep. It releases the others as soon as their requests end.
    share: int
    #: Whether other holders wait for permits, or tasks are parked. If so, the holder releases its idle permits.
    wanted: bool
    #: How long the host still rests; 0 for a host that does not rest.
    resting: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a process has observed of a host since its last report."""

    #: The number of good answers. Each answer is good that neither refuses nor fails, so a 404 is good.
    ok: int = 0
    #: Their mean latency: from the request to the first byte of the answer.
    latency: float = 0.0
    #: The number of requests that timed out after the host had begun to answer.
    slow: int = 0
    #: Whether the host answered with 429 or 503.
    refused: bool = False
    #: The wait that this answer asked for (Retry-After).
    retry_after: float | None = None
    #: Whether a connection failed: no DNS answer, no connection, no TLS, or no byte before the timeout. To be reported
    #: once for each image, because one bad URL is no reason to rest.
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Answers:
    """The good answers of a host to a process since its last renewal."""

    ok: int = 0
    #: Their mean latency, as in `Report`.
    latency: float = 0.0
    #: Whether the answers may change the host's limit and its rests.
    adaptive: bool = True


NO_ANSWERS = Answers()


@dataclass(frozen=True, slots=True)
class Rest:
    """A time during which a host gets no requests."""

    key: str
    #: The remaining time; 0 if the host may be used again.
    seconds: float
    given_up: bool = False


class Retry(Protocol):
    """Calls a method of a registry, and calls it again if it failed for a reason that may pass."""

    def __call__(self, step: Callable[[], _T]) -> _T:
        """Return the result of the method."""


def call_once(step: Callable[[], _T]) -> _T:
    """Call a method of a registry, and return its result."""
    return step()


class Registry(Protocol):
    """The shared state of all hosts.

    Each method may raise a `redis.RedisError` if the registry can't be reached. Methods are thread-safe. ``key`` is the
    text that a limit counts for: a name, a registrable domain or an address. ``holder`` is the id of a process.
    """

    def acquire(self, key: str, limit: HostLimit, holder: str, want: int, adaptive: bool, returned: int = 0) -> Grant:
        """Ask for up to ``want`` permits of a host, and release ``returned`` permits in the same step.

        A holder gets at most its fair share: the limit divided by the number of holders that have permits or wait. With
        a rate, it gets at most one permit, and the permit's request starts after ``Grant.wait``.

        Args:
            key: the host.
            limit: the limit of the holder's run.
            holder: the process.
            want: the number of wanted permits; at least 1.
            adaptive: whether the host's rests and its reduced limit count.
            returned: the number of permits that the holder no longer uses.
        """

    def renew(
        self, holder: str, held: Mapping[str, int], answers: Mapping[str, Answers] | None = None
    ) -> Mapping[str, Renewal]:
        """Set the numbers of a holder's permits, and renew its leases; to be called every second.

        A lower number than before gives permits back, and 0 gives all back. Leases that Redis has lost are restored.

        Args:
            holder: the process.
            held: the number of the holder's permits for each host. Leave out a host while an `acquire` of this host is
                under way, because the number would be wrong by then.
            answers: the good answers of these hosts. If the reply is lost, they may count twice or not at all.
        """

    def report(self, key: str, holder: str, report: Report, adaptive: bool) -> Rest | None:
        """Record what a process has observed; return the host's rest if the host rests now.

        Refusals, failed connections and the answer to a probe are reported at once. Other good answers go with the
        renewals.

        Args:
            key: the host.
            holder: the process. While a host is probed, only the report of the probe's holder decides.
            report: the observations.
            adaptive: whether the observations may reduce the host's limit and let the host rest.
        """

    def forget(self, holder: str, hosts: Iterable[str]) -> None:
        """Remove a stopping process's leases of these hosts."""

    def next_rest(self, timeout: float) -> Rest | None:
        """Return the next rest that any process caused, or None if there is none; for one thread only.

        Args:
            timeout: how long to wait at most, in seconds.
        """
