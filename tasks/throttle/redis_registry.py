"""The registry of a fleet: the state of all hosts in Redis, changed by one atomic script for each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import redis

from tasks.throttle import keys
from tasks.throttle.registry import NO_ANSWERS, Answers, Grant, Renewal, Report, Rest, Why
from tasks.throttle.scripts import CLOCK, call_each, script
from tasks.throttle_options import HostLimit


class RedisRegistry:
    """The hosts' state in a Redis server; see `Registry` for the methods."""

    def __init__(self, server: redis.Redis, clock: str = CLOCK) -> None:
        """Create the registry; it connects when the first method is called.

        Args:
            server: a client that decodes responses.
            clock: the Lua function that reads the clock, so that tests can set the time.
        """
        self._server = server
        self._acquire, self._renew, self._report = (
            server.register_script(script(step, clock)) for step in ("acquire", "renew", "report")
        )
        self._rests: Any = None

    def prepare(self) -> None:
        """Note that an empty server is new, so that the first permits are granted at once.

        A producer calls this before it sends images. Without the call, the registry can't tell a new server from a
        server that lost its data, and waits until all holders have renewed their leases.
        """
        info: Any = self._server.info("server")
        with self._server.pipeline() as pipe:
            pipe.hsetnx(keys.THROTTLE, "run_id", info["run_id"])
            pipe.hsetnx(keys.THROTTLE, "since", "0")
            pipe.execute()

    def acquire(self, key: str, limit: HostLimit, holder: str, want: int, adaptive: bool, returned: int = 0) -> Grant:
        """Ask for permits; see `Registry.acquire`."""
        places = (keys.host(key), keys.leases(key), keys.HOST_LIMITS, keys.THROTTLE, keys.WORKERS, keys.HOSTS)
        rate = "" if limit.rate is None else limit.rate
        arguments = (key, holder, want, returned, limit.concurrency, rate, int(adaptive))
        permits, wait, why, rested, contended, latency = self._acquire(places, arguments)
        return Grant(permits, float(wait), Why(why), rested, bool(contended), float(latency))

    def renew(
        self, holder: str, held: Mapping[str, int], answers: Mapping[str, Answers] | None = None
    ) -> Mapping[str, Renewal]:
        """Renew leases in one round trip; see `Registry.renew`."""
        calls = []
        for key, permits in held.items():
            good = (answers or {}).get(key, NO_ANSWERS)
            places = keys.host(key), keys.leases(key), keys.HOST_LIMITS, keys.parked(key)
            observed = good.ok, good.latency, int(good.adaptive), keys.RESTS
            calls.append((places, (key, holder, permits, *observed)))
        replies = call_each(self._server, self._renew, calls)
        return {
            key: Renewal(share, bool(wanted), float(resting))
            for key, (share, wanted, resting) in zip(held, replies, strict=True)
        }

    def report(self, key: str, holder: str, report: Report, adaptive: bool) -> Rest | None:
        """Record observations; see `Registry.report`."""
        retry_after = "" if report.retry_after is None else report.retry_after
        counts = (report.ok, report.latency, report.slow)
        troubles = (int(report.refused), retry_after, int(report.unreachable))
        arguments = (key, holder, *counts, *troubles, int(adaptive), keys.RESTS)
        resting, given_up = self._report((keys.host(key),), arguments)
        seconds = float(resting)
        return Rest(key, seconds, bool(given_up)) if seconds > 0 else None

    def forget(self, holder: str, hosts: Iterable[str]) -> None:
        """Remove leases in one round trip; see `Registry.forget`."""
        with self._server.pipeline(transaction=False) as pipe:
            for key in hosts:
                pipe.hdel(keys.leases(key), holder)
            pipe.execute()

    def next_rest(self, timeout: float) -> Rest | None:
        """Return the next published rest; see `Registry.next_rest`.

        The first call subscribes. After a lost connection, the next call subscribes again. Rests that are published
        meanwhile are lost, but `renew` reports them.
        """
        if self._rests is None:
            # redis-py has no type annotations for this method.
            untyped: Any = self._server
            rests = untyped.pubsub(ignore_subscribe_messages=True)
            rests.subscribe(keys.RESTS)
            self._rests = rests
        message = self._rests.get_message(timeout=timeout)
        return None if message is None else Rest(**orjson.loads(message["data"]))

    def close(self) -> None:
        """End the subscription."""
        if self._rests is not None:
            self._rests.close()
