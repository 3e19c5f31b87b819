"""After a loss in a chord, a producer with repair completes the run. Without repair, the run stalls forever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.faults import blind_producer, table
from tests.faults.harness import Arena, Site
from tests.faults.loss_scenarios import CHORD_LOSSES, IMAGES, REDIS_LOSSES, LossScenario
from tests.integration import processes

_LOSSES = (*CHORD_LOSSES, *REDIS_LOSSES)
#: Number of concurrent runs without repair. Many of these runs fit on a machine because they mostly wait.
_CONCURRENT_RUNS = 5


@pytest.mark.timeout(200)
@pytest.mark.parametrize("loss", CHORD_LOSSES, ids=[loss.name for loss in CHORD_LOSSES])
def test_resends_only_lost_images(arena: Arena, loss: LossScenario) -> None:
    """The run completes, reports the number of resent images, and fetches no image twice."""
    with loss.start(arena) as run:
        numbers = run.wait(120).json()
    arena.verify(loss.fault)
    if loss.repaired is not None:
        assert numbers["repaired"] == loss.repaired
    assert max(arena.site.hits(arena.name).values()) == 1


def _stays_idle(arena: Arena) -> bool:
    """Return whether nothing is in flight for a second. While a message changes its place, one look can miss it."""
    for _ in range(5):
        if not arena.is_idle():
            return False
        time.sleep(0.2)
    return arena.is_idle()


def run_without_repair(loss: LossScenario, arena: Arena, seconds: float) -> table.StalledRun:
    """Cause a loss in a run without repair, check that the run stalls, kill its producer, and resume the run."""
    arena.module = blind_producer.__spec__.name
    with loss.start(arena) as run:
        processes.eventually(lambda: _stays_idle(arena), "the end of all tasks in flight", 120)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
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
    found = arena.verify(None)
    arena.fleet.end(0.0)
    return table.StalledRun(loss.fault, IMAGES, saved, len(manifests), seconds, found.outcomes)


@pytest.fixture(scope="module")
def runs(
    site: Site, tmp_path_factory: pytest.TempPathFactory, long: bool
) -> Iterator[dict[str, Future[table.StalledRun]]]:
    """Run all scenarios without repair, some of them concurrently, and provide the result of each scenario."""
    with ExitStack() as stack:
        arenas = {
            loss: stack.enter_context(Arena(tmp_path_factory.mktemp(f"left-{loss.name}"), site)) for loss in _LOSSES
        }
        with ThreadPoolExecutor(_CONCURRENT_RUNS) as pool:
            yield {
                loss.name: pool.submit(run_without_repair, loss, arena, max(30.0, loss.delay) if long else 10.0)
                for loss, arena in arenas.items()
            }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("loss", _LOSSES, ids=[loss.name for loss in _LOSSES])
def test_run_stalls_without_repair(runs: dict[str, Future[table.StalledRun]], loss: LossScenario) -> None:
    """Without repair, the run stalls: all other tasks are done, but its manifest is missing.

    `resume` completes the run.
    """
    table.stalled_runs.append(runs[loss.name].result())
