"""List the hosts of a fleet, and let an operator limit them while runs go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Self, cast

import orjson
import redis

from tasks.throttle import keys, policy
from tasks.throttle.registry import Cause, Why
from tasks.throttle.scripts import CLOCK, call_each, script
from tasks.throttle_options import HostLimit

#: The number of hosts that are read in one round trip.
_BATCH = 500
#: The fields of a host's state that end when an operator lifts its limits.
_LIFTED = ("adaptive", "threshold", "good", "rests", "until", "rest", "given_up", "cause", "probe", "failures")


@dataclass(frozen=True, slots=True)
class HostState:
    """What the fleet knows of a host. Times are in seconds."""

    key: str
    #: Why the host gets no more requests now. ``granted`` stands for a host with free permits.
    why: Why
    #: The cause of the host's rest; None for a host that works.
    cause: Cause | None
    #: The limit of the latest run that used the host; None if it is lost.
    limit: HostLimit | None
    #: The reduced number of open requests; None if it is not reduced.
    adaptive_limit: int | None
    #: The limit that an operator has set.
    operator_limit: HostLimit | None
    #: The number of permits that the fleet holds.
    permits: int
    #: How long the host still rests; 0 for a host that does not rest.
    resting: float
    #: The number of rests in a row.
    rests: int
    #: The numbers of good answers, of timeouts after an answer had begun, of answers with 429 or 503, and of failed
    #: connections.
    ok: int
    slow: int
    refused: int
    unreachable: int
    #: The smoothed and the best latency; None before the first good answer.
    latency: float | None
    best_latency: float | None
    #: The number of parked tasks, which wait in Redis until the host is free.
    parked: int = 0
    #: The seconds since the latest rest began or the limit was last halved; None if neither has happened.
    troubled: float | None = None

    @property
    def open_limit(self) -> int | None:
        """The number of requests that may be open now; None if the run's limit is lost."""
        if self.limit is None:
            return None
        if self.resting > 0:
            return 0
        if self.rests > 0:
            return 1
        operator = self.operator_limit.concurrency if self.operator_limit else self.limit.concurrency
        return min(self.limit.concurrency, operator, self.adaptive_limit or self.limit.concurrency)

    @property
    def rate(self) -> float | None:
        """The number of requests that may begin per second; None for no maximum."""
        rates = [limit.rate for limit in (self.limit, self.operator_limit) if limit and limit.rate is not None]
        return min(rates, default=None)

    @classmethod
    def from_json(cls, key: str, value: Mapping[str, Any]) -> Self:
        """Create the value from the decoded JSON of ``describe.lua``."""
        state = value["state"]
        rests = int(state.get("rests", 0))
        found = cls(
            key=key,
            why=Why.GRANTED,
            cause=Cause(state["cause"]) if rests else None,
            limit=_run_limit(state),
            adaptive_limit=int(state["adaptive"]) if "adaptive" in state else None,
            operator_limit=HostLimit.from_json(orjson.loads(value["set"])) if "set" in value else None,
            permits=value["permits"],
            resting=value["resting"],
            rests=rests,
            **{name: int(state.get(name, 0)) for name in ("ok", "slow", "refused", "unreachable")},
            latency=float(state["latency"]) if "latency" in state else None,
            best_latency=float(state["best"]) if "best" in state else None,
            parked=value["parked"],
            troubled=value.get("troubled"),
        )
        return replace(found, why=_why(found, "given_up" in state))


def list_hosts(server: redis.Redis, clock: str = CLOCK) -> Iterator[HostState]:
    """Yield the state of each host that the fleet has used in the last hour, the longest unused first.

    Hosts that rested or have a reduced limit are kept for a day. Hosts with a limit of an operator are always kept.

    Raises:
        redis.RedisError: Redis is unreachable.
    """
    used = cast("list[str]", server.zrange(keys.HOSTS, 0, -1))
    limited = cast("list[str]", server.hkeys(keys.HOST_LIMITS))
    yield from _describe(server, dict.fromkeys([*used, *limited]), clock)


def list_hosts_since(server: redis.Redis, since: float, latest: int | None = None) -> Iterator[HostState]:
    """Yield the state of each host that the fleet has used since a time, which is a Unix time of Redis's clock.

    A host that was used up to a minute earlier may be among them. ``latest`` limits the hosts to those used last.

    Raises:
        redis.RedisError: Redis is unreachable.
    """
    least = since - policy.KEEP_SECONDS
    if latest is None:
        used = cast("list[str]", server.zrangebyscore(keys.HOSTS, least, "+inf"))
    else:
        scored = cast("list[tuple[str, float]]", server.zrange(keys.HOSTS, -latest, -1, withscores=True))
        used = [host for host, score in scored if score >= least]
    yield from _describe(server, used, CLOCK)


def find_host(server: redis.Redis, key: str) -> HostState | None:
    """Return the state of a host; None if the fleet does not know the host.

    Raises:
        redis.RedisError: Redis is unreachable.
    """
    return next(_describe(server, [key], CLOCK), None)


def _describe(server: redis.Redis, hosts: Iterable[str], clock: str) -> Iterator[HostState]:
    """Yield the states of hosts. Hosts without a state and without a limit are left out."""
    describe = server.register_script(script("describe", clock))
    found = iter(hosts)
    while batch := list(islice(found, _BATCH)):
        calls = [((keys.host(key), keys.leases(key), keys.HOST_LIMITS, keys.parked(key)), (key,)) for key in batch]
        replies = [orjson.loads(reply) for reply in call_each(server, describe, calls)]
        for key, reply in zip(batch, replies, strict=True):
            # The index also contains hosts whose state has expired.
            if reply["state"] or "set" in reply:
                yield HostState.from_json(key, reply)


def set_limit(server: redis.Redis, key: str, limit: HostLimit) -> None:
    """Limit a host for all runs. A run's own limit still applies if it is lower.

    The limit applies to the next permits, and to permits in use at their next renewal.
    """
    server.hset(keys.HOST_LIMITS, key, orjson.dumps(asdict(limit)).decode())


def lift(server: redis.Redis, key: str) -> None:
    """Remove an operator's limit of a host. Also end the host's rest, and restore a reduced limit."""
    with server.pipeline() as pipe:
        pipe.hdel(keys.HOST_LIMITS, key)
        pipe.hdel(keys.host(key), *_LIFTED)
        pipe.publish(keys.RESTS, orjson.dumps({"key": key, "seconds": 0, "given_up": False}))
        pipe.execute()


def _run_limit(state: Mapping[str, str]) -> HostLimit | None:
    if "limit" not in state:
        return None
    return HostLimit(int(state["limit"]), float(state["rate"]) if state["rate"] else None)


def _why(host: HostState, given_up: bool) -> Why:
    if given_up:
        return Why.GIVEN_UP
    if host.resting > 0:
        return Why.RESTING
    if host.rests > 0:
        return Why.HALF_OPEN
    limit = host.open_limit
    return Why.FULL if limit is not None and host.permits >= limit else Why.GRANTED
