"""A producer that is killed at any moment: `producer resume` ends with what a run without a fault ends with."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tasks.celery import IMAGES, SHARDS
from tests.faults.harness import Arena
from tests.integration import parts

_SHARD = "100"


@pytest.fixture(scope="module")
def images(long: bool) -> int:
    """Give the length of the list."""
    return 5_000 if long else 1_000


def killed(arena: Arena, run: parts.Background) -> None:
    """Kill a producer and nothing else."""
    run.process.kill()
    assert run.wait().code == -signal.SIGKILL
    arena.strike()


@pytest.mark.timeout(600)
def test_run_that_is_resumed_is_the_same(arena: Arena, images: int) -> None:
    """The producer is killed when a part of the images is saved: the result is that of a run without a fault.

    The last one is killed between the last header and the body: all images of its last shard are counted then, and its
    body waits in its queue.
    """
    arena.fleet.add(2)
    with arena.run(arena.list(images), "--shard-size", _SHARD) as run:
        assert run.wait(120).json()["success"] == images
    assert max(arena.site.hits(arena.name).values()) == 1
    undisturbed = arena.proven(None).facts()
    for percent in (1, 25, 50, 75, 99):
        arena.anew(f"at-{percent}")
        with arena.run(arena.list(images), "--shard-size", _SHARD, "--window", "4") as run:
            arena.until_saved(images * percent // 100, run)
            killed(arena, run)
        assert arena.resume().code == 0
        assert arena.proven(f"SIGKILL of the producer at {percent} %").facts() == undisturbed
    arena.fleet.end()
    arena.anew("before-the-body")
    arena.fleet.add(2, "-Q", IMAGES)
    with arena.run(arena.list(images), "--shard-size", _SHARD, "--window", "1000") as run:
        bodies = images // int(_SHARD)
        parts.eventually(lambda: arena.server.client.llen(SHARDS) == bodies, "the bodies", 120)
        killed(arena, run)
    assert arena.saved() == images
    arena.fleet.end()
    arena.fleet.add(2)
    assert arena.resume().code == 0
    fault = "SIGKILL of the producer between the last header and the body"
    assert arena.proven(fault).facts() == undisturbed


@pytest.mark.timeout(300)
def test_killed_while_standard_input_is_open(arena: Arena) -> None:
    """What was planned by then is finished by the resumed run, which says how many rows that is and exits with 1."""
    count, planned = 1_050, 1_000
    lines = arena.list(count).read_bytes().splitlines(keepends=True)
    with arena.run("-", "--shard-size", _SHARD, stdin=subprocess.PIPE) as run:
        assert run.process.stdin is not None
        run.process.stdin.write(b"".join(lines))
        run.process.stdin.flush()
        plan = arena.out / ".plan"
        parts.eventually((plan / f"{planned // int(_SHARD) - 1:05d}.parquet").exists, "the plan")
        killed(arena, run)
    arena.fleet.add(2)
    ended = arena.resume()
    assert ended.code == 1
    assert f"{planned:,} rows" in parts.error_parts(ended)[1]
    arena.urls = arena.urls[:planned]
    arena.proven("SIGKILL of the producer while standard input is open", state="failed")
