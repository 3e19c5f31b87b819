"""Redis is killed and restarted. It restarts either empty or with the data of its append-only file."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.harness import Arena


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("forget", [False, True], ids=["append-only", "empty"])
def test_survives_redis_kills_under_load(arena: Arena, long: bool, forget: bool) -> None:
    """If Redis is killed repeatedly, no image is lost or fails, whether Redis restarts empty or with its data."""
    kills = (5 if forget else 20) if long else (2 if forget else 4)
    images = 10_000 if long else 1_500
    arena.fleet.add(2, slots=16)
    with arena.run(arena.list(images, rate=4_000), "--shard-size", "250") as run:
        for kill in range(kills):
            arena.wait_until_saved(images * (kill + 1) // (kills + 2), run, 300)
            time.sleep(random.random())
            arena.count_fault()
            arena.server.kill(forget)
            time.sleep(random.random())
            arena.server.start()
        assert run.wait(600).json()["success"] == images
    arena.verify("Redis replaced by an empty one" if forget else "SIGKILL of Redis, append-only file on")
