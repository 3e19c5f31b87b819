"""A run in a Compose fleet completes although services restart and workers are added and removed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, clone, need_engine, up
from tests.integration import processes
from tests.waiting import wait_for

pytestmark = pytest.mark.timeout(900)
_IMAGES = 2_000
#: Timeout of a disturbed run in seconds. An undisturbed run takes about 60 seconds.
_LONG = 400


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start a stack with one worker. An ordinary user owns the stack's clone, and the workers run as this user."""
    need_engine()
    folder = clone(tmp_path_factory.mktemp("disturbed") / "clone", owner=12345)
    (folder / "lists" / "many.txt").write_text(
        "".join(f"http://demo:8765/images/{index}.jpg?latency=0.5\n" for index in range(_IMAGES))
    )
    with up(folder, workers=1, FLOWER_PORT=str(processes.free_port())) as found:
        yield found


def test_survives_restarts_of_every_service(stack: Stack, tmp_path: Path) -> None:
    """Every image gets its Outcome although Redis, the workers, Flower and the image server restart in turn."""
    stack.compose("up", "-d", "--wait", "--scale", "worker=2")
    log = tmp_path / "log"
    with stack.start_producer(log, "run", "/lists/many.txt", "--out", "/images/restarted") as producer:
        for done, service in ((200, "flower"), (300, "redis"), (600, "worker"), (1_000, "demo")):
            wait_for(lambda done=done: _saved(stack, "restarted") >= done, _LONG)  # type: ignore[misc]
            stack.compose("restart", service)
        output, _ = producer.communicate(timeout=_LONG)
    assert producer.returncode == 0, log.read_text()
    numbers = json.loads(output)
    assert numbers["total"] == _IMAGES
    rows = processes.rows(stack.folder / "images" / "restarted")
    assert len(rows) == _IMAGES
    # The image server was unreachable for a moment. Downloads can only have failed if they were in progress at that
    # moment.
    assert set(numbers["reasons"]) <= {"connect", "timeout", "truncated", "dns"}
    assert numbers["success"] >= _IMAGES - 100


def test_survives_changes_of_the_worker_count(stack: Stack, tmp_path: Path) -> None:
    """Scaling from one worker to four workers and back loses no image and fetches no image twice."""
    stack.compose("up", "-d", "--wait", "--scale", "worker=1")
    before = stack.hits()
    log = tmp_path / "log"
    with stack.start_producer(log, "run", "/lists/many.txt", "--out", "/images/scaled") as producer:
        wait_for(lambda: _saved(stack, "scaled") >= 200, _LONG)
        stack.compose("up", "-d", "--wait", "--no-recreate", "--scale", "worker=4")
        wait_for(lambda: _saved(stack, "scaled") >= 700, _LONG)
        stack.compose("up", "-d", "--wait", "--no-recreate", "--scale", "worker=1")
        output, _ = producer.communicate(timeout=_LONG)
    assert producer.returncode == 0, log.read_text()
    numbers = json.loads(output)
    assert (numbers["total"], numbers["success"]) == (_IMAGES, _IMAGES)
    rows = processes.rows(stack.folder / "images" / "scaled")
    assert len({row["worker"] for row in rows}) == 4
    assert Counter(row["attempts"] for row in rows) == {1: _IMAGES}
    assert stack.hits() - before == _IMAGES


def _saved(stack: Stack, out: str) -> int:
    """Return the number of saved images of a run.

    This searches only the shards' folders, because the folder of temporary files is deleted at the end of the run.
    """
    return sum(1 for _ in (stack.folder / "images" / out).glob("[0-9]*/*.jpg"))
