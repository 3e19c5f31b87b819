"""A Redis that is killed: with its append-only file it comes back as it was, without it it comes back empty."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.harness import Arena


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("forget", [False, True], ids=["append-only", "empty"])
def test_redis_is_killed_under_load(arena: Arena, long: bool, forget: bool) -> None:
    """Redis is killed and started again, with what it held or with nothing: no image is lost, and none fails."""
    kills = (5 if forget else 20) if long else (2 if forget else 4)
    images = 10_000 if long else 1_500
    arena.fleet.add(2, slots=16)
    with arena.run(arena.list(images, rate=4_000), "--shard-size", "250") as run:
        for kill in range(kills):
            arena.until_saved(images * (kill + 1) // (kills + 2), run, 300)
            time.sleep(random.random())
            arena.strike()
            arena.server.kill(forget)
            time.sleep(random.random())
            arena.server.start()
        assert run.wait(600).json()["success"] == images
    arena.proven("Redis replaced by an empty one" if forget else "SIGKILL of Redis, append-only file on")
