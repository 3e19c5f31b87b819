"""Workers that are killed, again and again."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.harness import Arena

_WORKERS, _SLOTS = 3, 16


@pytest.mark.timeout(1500)
def test_random_workers_are_killed_under_load(arena: Arena, long: bool) -> None:
    """A worker after the other is killed by SIGKILL while the fleet is busy: every image has its Outcome."""
    images, kills = (20_000, 50) if long else (1_500, 5)
    arena.fleet.add(_WORKERS, slots=_SLOTS)
    # Each picture takes about a second, so that every worker that is killed is at as many as it has slots.
    with arena.run(arena.list(images, rate=2_000), "--shard-size", "250") as run:
        for kill in range(kills):
            arena.until_saved(images * (kill + 1) // (kills + 2), run, 300)
            time.sleep(random.random())
            arena.strike()
            arena.fleet.kill_one()
        numbers = run.wait(900).json()
    assert numbers["success"] == images
    assert arena.fleet.deaths >= kills
    arena.proven("SIGKILL of a random worker")
