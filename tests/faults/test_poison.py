"""Images that kill whoever fetches them: they alone are given up. A shard that does it ends its run."""

from __future__ import annotations

import time

import pytest

from tasks.suspects import BODY_CRASHES
from tests.faults import table
from tests.faults.harness import Arena
from tests.integration import parts

_POISONS = (300, 301, 777)


@pytest.mark.timeout(400)
def test_three_of_a_thousand_kill_their_worker(arena: Arena) -> None:
    """997 images are saved and 3 have ``crashed``, within three minutes."""
    source = arena.list(1_000)
    for index in _POISONS:
        arena.urls[index] += "&poison"
    source.write_text("".join(f"{url}\n" for url in arena.urls))
    arena.fleet.add(2, app="tests.faults.poisoned")
    started = time.monotonic()
    with arena.run(source) as run:
        numbers = run.wait(300).json()
    seconds = time.monotonic() - started
    assert (numbers["success"], numbers["reasons"]) == (997, {"crashed": 3})
    found = arena.proven(None, success=997)
    assert tuple(number for number, row in enumerate(found.rows) if row["reason"] == "crashed") == _POISONS
    twice = sum(times - 1 for times in arena.site.hits(arena.name).values())
    table.rows.append(
        table.Row(
            "poison: 3 images that kill their worker", arena.fleet.deaths, 1_000, found.outcomes, 0, twice, seconds
        )
    )
    assert seconds < 180


@pytest.mark.timeout(300)
def test_shard_kills_whoever_collects_it(arena: Arena) -> None:
    """The run ends with an error that says so, and not with workers that die for ever; others complete it."""
    arena.fleet.add(1, app="tests.faults.deadly_body")
    with arena.run(arena.list(100)) as run:
        ended = run.wait(200)
    deaths = arena.fleet.deaths
    assert ended.code == 1
    what, why, todo = parts.error_parts(ended)
    assert what == "Shard 00000 could not be collected"
    assert f"{BODY_CRASHES} workers died" in why
    assert f"producer resume {arena.out}" in todo
    assert deaths == 1 + BODY_CRASHES
    arena.fleet.end(0.0)
    arena.strike()
    arena.fleet.add(1)
    assert arena.resume().code == 0
    arena.proven("poison: a shard that kills whoever collects it")
    assert max(arena.site.hits(arena.name).values()) == 1
