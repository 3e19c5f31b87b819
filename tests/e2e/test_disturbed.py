"""A Compose fleet that is disturbed while a run goes on: services restart, workers come and go."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conditions import wait_for
from tests.e2e.stack import Stack, clone, need_engine, up
from tests.integration import parts

pytestmark = pytest.mark.timeout(900)
_IMAGES = 2_000
#: Seconds for a run that is disturbed; undisturbed it takes about 60.
_LONG = 400


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Give a stack with one worker; its clone is an ordinary user's, whom the workers become."""
    need_engine()
    folder = clone(tmp_path_factory.mktemp("disturbed") / "clone", owner=12345)
    (folder / "lists" / "many.txt").write_text(
        "".join(f"http://demo:8765/images/{index}.jpg?latency=0.5\n" for index in range(_IMAGES))
    )
    with up(folder, workers=1, FLOWER_PORT=str(parts.free_port())) as found:
        yield found


def test_every_service_restarts(stack: Stack, tmp_path: Path) -> None:
    """Redis, the workers, Flower and the image server restart in turn, and every image has its Outcome."""
    stack.compose("up", "-d", "--wait", "--scale", "worker=2")
    log = tmp_path / "log"
    with stack.producing(log, "run", "/lists/many.txt", "--out", "/images/restarted") as producer:
        for done, service in ((200, "flower"), (300, "redis"), (600, "worker"), (1_000, "demo")):
            wait_for(lambda done=done: _saved(stack, "restarted") >= done, _LONG)  # type: ignore[misc]
            stack.compose("restart", service)
        answer, _ = producer.communicate(timeout=_LONG)
    assert producer.returncode == 0, log.read_text()
    numbers = json.loads(answer)
    assert numbers["total"] == _IMAGES
    rows = parts.rows(stack.folder / "images" / "restarted")
    assert len(rows) == _IMAGES
    # The image server was away for a moment, so what was at it then may have failed; nothing else may.
    assert set(numbers["reasons"]) <= {"connect", "timeout", "truncated", "dns"}
    assert numbers["success"] >= _IMAGES - 100


def test_workers_come_and_go(stack: Stack, tmp_path: Path) -> None:
    """From one worker to four and back to one: no image is lost, and none is fetched a second time."""
    stack.compose("up", "-d", "--wait", "--scale", "worker=1")
    before = stack.hits()
    log = tmp_path / "log"
    with stack.producing(log, "run", "/lists/many.txt", "--out", "/images/scaled") as producer:
        wait_for(lambda: _saved(stack, "scaled") >= 200, _LONG)
        stack.compose("up", "-d", "--wait", "--no-recreate", "--scale", "worker=4")
        wait_for(lambda: _saved(stack, "scaled") >= 700, _LONG)
        stack.compose("up", "-d", "--wait", "--no-recreate", "--scale", "worker=1")
        answer, _ = producer.communicate(timeout=_LONG)
    assert producer.returncode == 0, log.read_text()
    numbers = json.loads(answer)
    assert (numbers["total"], numbers["success"]) == (_IMAGES, _IMAGES)
    rows = parts.rows(stack.folder / "images" / "scaled")
    assert len({row["worker"] for row in rows}) == 4
    assert Counter(row["attempts"] for row in rows) == {1: _IMAGES}
    assert stack.hits() - before == _IMAGES


def _saved(stack: Stack, out: str) -> int:
    """Return how many images of a run are there.

    Only the shards' folders are looked into: that of temporary files goes while the run ends.
    """
    return sum(1 for _ in (stack.folder / "images" / out).glob("[0-9]*/*.jpg"))
