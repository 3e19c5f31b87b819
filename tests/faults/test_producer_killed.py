"""If a producer is killed at any moment, `producer resume` gives the same result as a run without a fault."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE
from tests.faults.harness import Arena
from tests.integration import processes

_SHARD = "100"


@pytest.fixture(scope="module")
def images(long: bool) -> int:
    """Return the length of the list."""
    return 5_000 if long else 1_000


def kill_producer(arena: Arena, run: processes.Background) -> None:
    """Kill only the producer."""
    run.process.kill()
    assert run.wait().code == -signal.SIGKILL
    arena.count_fault()


@pytest.mark.timeout(600)
def test_resumed_run_equals_an_undisturbed_run(arena: Arena, images: int) -> None:
    """If a run is resumed after its producer was killed, its result is the same as that of a run without a fault.

    The producer is killed when some of the images are saved. In the last case, the producer is killed when all images
    are counted but the chord bodies are still queued.
    """
    arena.fleet.add(2)
    with arena.run(arena.list(images), "--shard-size", _SHARD) as run:
        assert run.wait(120).json()["success"] == images
    assert max(arena.site.hits(arena.name).values()) == 1
    undisturbed = arena.verify(None).facts()
    for percent in (1, 25, 50, 75, 99):
        arena.prepare_run(f"at-{percent}")
        with arena.run(arena.list(images), "--shard-size", _SHARD, "--window", "4") as run:
            arena.wait_until_saved(images * percent // 100, run)
            kill_producer(arena, run)
        assert arena.resume().code == 0
        assert arena.verify(f"SIGKILL of the producer at {percent} %").facts() == undisturbed
    arena.fleet.end()
    arena.prepare_run("before-the-body")
    arena.fleet.add(2, "-Q", IMAGE_QUEUE)
    with arena.run(arena.list(images), "--shard-size", _SHARD, "--window", "1000") as run:
        bodies = images // int(_SHARD)
        processes.eventually(lambda: arena.server.client.llen(SHARD_QUEUE) == bodies, "the bodies", 120)
        kill_producer(arena, run)
    assert arena.saved() == images
    arena.fleet.end()
    arena.fleet.add(2)
    assert arena.resume().code == 0
    fault = "SIGKILL of the producer between the last image task and the collect task"
    assert arena.verify(fault).facts() == undisturbed


@pytest.mark.timeout(300)
def test_resume_completes_the_planned_part_of_stdin(arena: Arena) -> None:
    """After a kill with stdin open, resume completes the planned rows, reports their number and exits with status 1."""
    count, planned = 1_050, 1_000
    lines = arena.list(count).read_bytes().splitlines(keepends=True)
    with arena.run("-", "--shard-size", _SHARD, stdin=subprocess.PIPE) as run:
        assert run.process.stdin is not None
        run.process.stdin.write(b"".join(lines))
        run.process.stdin.flush()
        plan = arena.out / ".plan"
        processes.eventually((plan / f"{planned // int(_SHARD) - 1:05d}.parquet").exists, "the plan")
        kill_producer(arena, run)
    arena.fleet.add(2)
    ended = arena.resume()
    assert ended.code == 1
    assert f"{planned:,} rows" in processes.error_parts(ended)[1]
    arena.urls = arena.urls[:planned]
    arena.verify("SIGKILL of the producer while standard input is open", state="failed")
