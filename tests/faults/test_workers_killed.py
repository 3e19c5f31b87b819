"""Workers are killed repeatedly."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.harness import Arena

_WORKERS, _SLOTS = 3, 16


@pytest.mark.timeout(1500)
def test_survives_worker_kills_under_load(arena: Arena, long: bool) -> None:
    """Random workers of a busy fleet are killed by SIGKILL, one after another. Every image still gets its Outcome."""
    images, kills = (20_000, 50) if long else (1_500, 5)
    arena.fleet.add(_WORKERS, slots=_SLOTS)
    # Each image takes about a second. So a worker is downloading in all its slots when it is killed.
    with arena.run(arena.list(images, rate=2_000), "--shard-size", "250") as run:
        for kill in range(kills):
            arena.wait_until_saved(images * (kill + 1) // (kills + 2), run, 300)
            time.sleep(random.random())
            arena.count_fault()
            arena.fleet.kill_one()
        numbers = run.wait(900).json()
    assert numbers["success"] == images
    assert arena.fleet.deaths >= kills
    arena.verify("SIGKILL of a random worker")
