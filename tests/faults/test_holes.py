"""Each hole through which a chord can lose something, opened on purpose: without repair the run stands still for ever.

With it, the run is completed, and says how much it has sent again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.faults import blind_producer, table
from tests.faults.harness import Arena, Site
from tests.faults.holes import IMAGES, OF_CHORDS, OF_REDIS, Hole
from tests.integration import parts

_HOLES = (*OF_CHORDS, *OF_REDIS)
#: Holes whose runs are left to themselves at a time; they wait more than they work.
_AT_A_TIME = 5


@pytest.mark.timeout(200)
@pytest.mark.parametrize("hole", OF_CHORDS, ids=[hole.name for hole in OF_CHORDS])
def test_what_is_lost_is_sent_again(arena: Arena, hole: Hole) -> None:
    """The run is completed, says how many images it has sent again, and asks for no picture twice."""
    with hole.open(arena) as run:
        numbers = run.wait(120).json()
    arena.proven(hole.fault)
    if hole.repaired is not None:
        assert numbers["repaired"] == hole.repaired
    assert max(arena.site.hits(arena.name).values()) == 1


def left_alone(hole: Hole, arena: Arena, seconds: float) -> table.Standstill:
    """Open a hole in a run whose producer does not repair; see it stand still, kill it, and let another one go on."""
    arena.module = blind_producer.__spec__.name
    with hole.open(arena) as run:
        parts.eventually(arena.is_idle, "the end of all that is under way", 120)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            assert run.process.poll() is None, run.err
            assert arena.is_idle()
            time.sleep(0.5)
        saved, manifests = arena.saved(), list(arena.out.glob("*.parquet"))
        assert manifests == []
        run.process.kill()
        run.wait()
    arena.module = "producer"
    ended = arena.resume()
    assert ended.code == 0, ended.err
    found = arena.proven(None)
    arena.fleet.end(0.0)
    return table.Standstill(hole.fault, IMAGES, saved, len(manifests), seconds, found.outcomes)


@pytest.fixture(scope="module")
def runs(
    pictures: Site, tmp_path_factory: pytest.TempPathFactory, long: bool
) -> Iterator[dict[str, Future[table.Standstill]]]:
    """Leave runs with all holes to themselves, some at a time; give what came of each."""
    with ExitStack() as stack:
        arenas = {
            hole: stack.enter_context(Arena(tmp_path_factory.mktemp(f"left-{hole.name}"), pictures)) for hole in _HOLES
        }
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            yield {
                hole.name: pool.submit(left_alone, hole, arena, max(30.0, hole.lasts) if long else 10.0)
                for hole, arena in arenas.items()
            }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("hole", _HOLES, ids=[hole.name for hole in _HOLES])
def test_without_repair_it_stays_lost(runs: dict[str, Future[table.Standstill]], hole: Hole) -> None:
    """When all else is done, a run that is not repaired stands still, without its manifest; `resume` completes it."""
    table.standstills.append(runs[hole.name].result())
