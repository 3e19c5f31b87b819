"""Only images that kill their worker fail. If a shard kills every worker that collects it, the run ends."""

from __future__ import annotations

import time

import pytest

from tasks.broker.poison import ABANDON_AFTER_CRASHES
from tests.faults import table
from tests.faults.harness import Arena
from tests.integration import processes

_POISONS = (300, 301, 777)


@pytest.mark.timeout(400)
def test_only_images_that_kill_workers_fail(arena: Arena) -> None:
    """Within three minutes, 997 of 1,000 images are saved, and the 3 images that kill workers fail as ``crashed``."""
    source = arena.list(1_000)
    for index in _POISONS:
        arena.urls[index] += "&poison"
    source.write_text("".join(f"{url}\n" for url in arena.urls))
    arena.fleet.add(2, app="tests.faults.crashing_worker")
    started = time.monotonic()
    with arena.run(source) as run:
        numbers = run.wait(300).json()
    seconds = time.monotonic() - started
    assert (numbers["success"], numbers["reasons"]) == (997, {"crashed": 3})
    found = arena.verify(None, success=997)
    assert tuple(number for number, row in enumerate(found.rows) if row["reason"] == "crashed") == _POISONS
    twice = sum(times - 1 for times in arena.site.hits(arena.name).values())
    table.rows.append(
        table.Row(
            "poison: 3 images that kill their worker", arena.fleet.deaths, 1_000, found.outcomes, 0, twice, seconds
        )
    )
    assert seconds < 180


@pytest.mark.timeout(300)
def test_shard_that_kills_its_workers_ends_the_run(arena: Arena) -> None:
    """The run ends with an error instead of killing workers forever. After a resume, other workers complete the run."""
    arena.fleet.add(1, app="tests.faults.deadly_body")
    with arena.run(arena.list(100)) as run:
        ended = run.wait(200)
    deaths = arena.fleet.deaths
    assert ended.code == 1
    what, why, todo = processes.error_parts(ended)
    assert what == "Shard 00000 could not be collected"
    assert f"{ABANDON_AFTER_CRASHES} workers died" in why
    assert f"producer resume {arena.out}" in todo
    assert deaths == 1 + ABANDON_AFTER_CRASHES
    arena.fleet.end(0.0)
    arena.count_fault()
    arena.fleet.add(1)
    assert arena.resume().code == 0
    arena.verify("poison: a shard that kills every worker collecting it")
    assert max(arena.site.hits(arena.name).values()) == 1
