"""The limits per host hold for a whole fleet, whatever happens to workers and Redis.

A server in the test's process counts the requests by its own clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.counting_server import CountingServer, Reply, Served, most_in_a_second, most_open
from tests.faults.harness import Arena, verify_output
from tests.integration import processes

_OPEN, _RATE = 8, 20
#: A booking may be used a quarter of a second late, so a second may have the requests of a quarter more.
_BURST = _RATE // 4
_LIMITS = ("--per-host-concurrency", str(_OPEN), "--per-host-rate", str(_RATE))
#: The server answers for four seconds so fast that the rate limits the requests, and then for four seconds so slowly
#: that the number of open requests limits them.
_PERIOD_SECONDS, _FAST_SECONDS, _SLOW_SECONDS = 4.0, 0.05, 0.7
#: After Redis was away, workers connect again within a second, and get no booking until the fleet has settled.
_RECONNECT_SECONDS, _SETTLE_SECONDS = 1.0, 2.5
#: A killed worker is removed from the fleet within three seconds, and its leases end 2.5 seconds later.
_WORKERS, _LEASE_SECONDS = 4, 5.5
#: With a rate, a worker gets at most one permit more than its share.
_SHARE = _OPEN // _WORKERS + 1


@dataclass
class Schedule:
    """When the server was fast and slow, when Redis was away, and when workers were killed."""

    began: float = field(default_factory=time.monotonic)
    away: list[tuple[float, float]] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)

    def reply(self, now: float) -> Reply:
        """Return the answer to a request that starts now."""
        return Reply(seconds=self._seconds(now))

    def allowed(self, start: float, end: float) -> float:
        """Return how many requests the limits allow in this time.

        The time in which Redis was away does not count, because each request needs a booking from Redis. The permits of
        a killed worker do not count until its lease has ended.
        """
        step, total = 0.01, 0.0
        for place in range(int((end - start) / step)):
            now = start + place * step
            if not self.is_away(now):
                lost = sum(kill <= now < kill + _LEASE_SECONDS for kill in self.kills)
                total += step * min(_RATE, max(_OPEN - lost * _SHARE, 0) / self._seconds(now))
        return total

    def is_away(self, now: float) -> bool:
        """Return whether Redis was away, or was just back."""
        return any(start <= now < end for start, end in self.away)

    def _seconds(self, now: float) -> float:
        return _SLOW_SECONDS if (now - self.began) // _PERIOD_SECONDS % 2 else _FAST_SECONDS


@contextmanager
def _redis_away(schedule: Schedule) -> Iterator[None]:
    """Count the time of the block, and the time until bookings are possible again, as time without Redis."""
    start = time.monotonic()
    yield
    schedule.away.append((start, time.monotonic() + _RECONNECT_SECONDS + _SETTLE_SECONDS))


def _write_list(folder: Path, urls: list[str]) -> Path:
    source = folder / "list.txt"
    source.write_text("".join(f"{url}\n" for url in urls))
    return source


def _use(schedule: Schedule, requests: list[Served], until: float) -> float:
    """Return the used share of what the limits allowed, from the first request until this time."""
    start = requests[0].started
    used = sum(one.started < until and not schedule.is_away(one.started) for one in requests)
    return used / schedule.allowed(start, until)


@pytest.mark.timeout(400)
def test_fleet_keeps_the_limits_of_a_host(arena: Arena, long: bool) -> None:
    """Four workers together keep 8 open requests and 20 per second, while workers, Redis and its data are lost.

    They also use nine tenths of what is allowed (see `Schedule.allowed`). Eight tenths are enough in the short form,
    which runs beside other tests. After Redis has lost its data, it has no tasks until the producer has sent them
    again, so this time counts only for the limits.
    """
    rounds = 3 if long else 1
    schedule = Schedule()
    with CountingServer(arena.site.originals[0], schedule.reply) as server:
        urls = [f"{server.url}/{number}.png" for number in range(1_150 if long else 380)]
        arena.fleet.add(_WORKERS, slots=16)
        with arena.run(_write_list(arena.folder, urls), "--shard-size", "100", *_LIMITS) as run:
            processes.eventually(lambda: server.requests, "the first request")
            for _ in range(rounds):
                for _ in range(2):
                    time.sleep(_PERIOD_SECONDS)
                    schedule.kills.append(time.monotonic())
                    arena.fleet.kill_one()
                time.sleep(_PERIOD_SECONDS)
                with _redis_away(schedule):
                    arena.server.kill()
                    time.sleep(random.random())
                    arena.server.start()
                time.sleep(1.5 * _PERIOD_SECONDS)
            emptied = time.monotonic()
            arena.server.client.flushall()
            assert run.wait(300).json()["success"] == len(urls)
        requests = server.served()
    verify_output(arena.out, arena.site, urls)
    assert most_open(requests) <= _OPEN
    assert most_in_a_second(requests) <= _RATE + _BURST
    assert _use(schedule, requests, emptied) >= (0.9 if long else 0.8)
