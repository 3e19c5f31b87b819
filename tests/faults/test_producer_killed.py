"""A producer that is killed at any moment: `producer resume` ends with what a run without a fault ends with."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tasks.celery import IMAGES, SHARDS
from tests.faults.harness import Arena, Site, Verdict
from tests.integration import parts

_SHARD = "100"


@pytest.fixture(scope="module")
def images(long: bool) -> int:
    """Give the length of the list."""
    return 5_000 if long else 1_000


@pytest.fixture(scope="module")
def undisturbed(pictures: Site, images: int, tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """Give what comes of the list without a fault."""
    with Arena(tmp_path_factory.mktemp("undisturbed"), pictures) as arena:
        arena.fleet.add(2)
        with arena.run(arena.list(images), "--shard-size", _SHARD) as run:
            assert run.wait(120).json()["success"] == images
        assert max(pictures.hits(arena.name).values()) == 1
        return arena.proven(None)


def killed(arena: Arena, run: parts.Background) -> None:
    """Kill a producer and nothing else."""
    run.process.kill()
    assert run.wait().code == -signal.SIGKILL
    arena.strike()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("percent", [1, 25, 50, 75, 99])
def test_run_that_is_resumed_is_the_same(arena: Arena, images: int, undisturbed: Verdict, percent: int) -> None:
    """The producer is killed when a part of the images is saved: the resumed run agrees with one without a fault."""
    arena.fleet.add(2)
    with arena.run(arena.list(images), "--shard-size", _SHARD, "--window", "4") as run:
        arena.until_saved(images * percent // 100, run)
        killed(arena, run)
    assert arena.resume().code == 0
    assert arena.proven(f"SIGKILL of the producer at {percent} %").facts() == undisturbed.facts()


@pytest.mark.timeout(300)
def test_killed_between_the_last_header_and_the_body(arena: Arena, images: int, undisturbed: Verdict) -> None:
    """The producer is killed when all images of its last shard are counted and the shard's body waits in its queue."""
    arena.fleet.add(2, "-Q", IMAGES)
    with arena.run(arena.list(images), "--shard-size", str(images)) as run:
        parts.eventually(lambda: arena.server.client.llen(SHARDS), "the body", 120)
        killed(arena, run)
    assert arena.saved() == images
    arena.fleet.end()
    arena.fleet.add(2)
    assert arena.resume().code == 0
    found = arena.proven("SIGKILL of the producer between the last header and the body")
    # Keys and paths tell the shards, and this one is larger.
    assert found.facts("key", "path") == undisturbed.facts("key", "path")


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
    assert f"{planned:,} rows" in parts.told(ended)[1]
    arena.urls = arena.urls[:planned]
    arena.proven("SIGKILL of the producer while standard input is open", state="failed")
