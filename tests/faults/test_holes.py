"""Each hole through which a chord can lose something, opened on purpose: the run is repaired, and says so."""

from __future__ import annotations

import signal
import sys

import pytest

from tasks.celery import IMAGES, SHARDS
from tests.faults import broken_producer
from tests.faults.harness import Arena
from tests.integration import parts

_IMAGES = 100


def finished(arena: Arena, run: parts.Background, fault: str) -> int:
    """Wait for the end of a run, prove it, and return how many images were sent again."""
    numbers = run.wait(120).json()
    arena.proven(fault)
    return int(numbers["repaired"])


@pytest.mark.timeout(200)
def test_message_is_lost(arena: Arena) -> None:
    """Messages that are taken out of their queue, as by a worker that dies at that moment, are sent again."""
    with arena.run(arena.list(_IMAGES)) as run:
        parts.eventually(lambda: arena.server.client.llen(IMAGES) == _IMAGES, "all messages")
        arena.server.client.rpop(IMAGES, 7)
        arena.strike()
        arena.fleet.add(1)
        assert finished(arena, run, "a message lost") == 7


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("app", "fault", "repaired"),
    [
        ("broken_count", "a part lost", 1),
        ("broken_header", "a part counted as failed", 1),
        ("broken_claim", "the claim of a body lost", None),
    ],
)
def test_worker_breaks_the_chord(arena: Arena, app: str, fault: str, repaired: int | None) -> None:
    """A worker that is broken at one line, once: what is missing is sent again, and nothing is lost."""
    arena.fleet.add(1, app=f"tests.faults.{app}")
    with arena.run(arena.list(_IMAGES)) as run:
        parts.eventually((arena.folder / "once").exists, "the fault")
        arena.strike()
        again = finished(arena, run, fault)
        assert repaired in (None, again), again
    if app == "broken_count":
        assert max(arena.site.hits(arena.name).values()) == 1


@pytest.mark.timeout(200)
def test_body_is_lost(arena: Arena) -> None:
    """A body that is taken out of its queue is made anew from what is saved: no picture is asked for twice."""
    arena.fleet.add(1, "-Q", IMAGES)
    with arena.run(arena.list(_IMAGES)) as run:
        parts.eventually(lambda: arena.server.client.rpop(SHARDS), "the body")
        arena.strike()
        arena.fleet.add(1)
        # Celery forgets a chord's parts when it sends the body.
        assert finished(arena, run, "the body lost") == _IMAGES
    assert max(arena.site.hits(arena.name).values()) == 1


@pytest.mark.timeout(200)
def test_producer_dies_before_its_last_header(arena: Arena) -> None:
    """A chord that is sent in part is completed by the resumed run."""
    argv = ["run", arena.list(_IMAGES), "--out", arena.out, "--broker", arena.server.url, "--json"]
    command = [sys.executable, "-m", broken_producer.__spec__.name, *map(str, argv)]
    with parts.started("run", command, arena.folder) as run:
        assert run.wait().code == -signal.SIGKILL, run.err
    arena.strike()
    assert 0 < int(str(arena.server.client.llen(IMAGES))) < broken_producer.DIES_AT
    arena.fleet.add(1)
    assert arena.resume().code == 0
    arena.proven("the producer dead before its last header")
    assert max(arena.site.hits(arena.name).values()) == 1


@pytest.mark.timeout(200)
def test_worker_knows_no_such_task(arena: Arena) -> None:
    """What a worker of another kind has dropped is sent again, once others are there."""
    arena.fleet.add(1, app="tests.faults.stranger")
    with arena.run(arena.list(_IMAGES)) as run:
        parts.eventually(lambda: arena.fleet.said().count("unregistered task") >= _IMAGES, "what it drops")
        arena.fleet.end()
        arena.strike()
        arena.fleet.add(1)
        assert finished(arena, run, "a worker that knows no such task") == _IMAGES


@pytest.mark.timeout(200)
def test_body_is_of_a_run_that_was_given_up(arena: Arena) -> None:
    """A chord that was completed by tasks that found no run any more is none of the resumed run's: it is done anew."""
    with arena.run(arena.list(_IMAGES)) as run:
        parts.eventually(lambda: arena.server.client.llen(IMAGES) == _IMAGES, "all messages")
        run.process.kill()
    client = arena.server.client
    client.delete(*client.scan_iter("imagefleet:run:*"))
    arena.fleet.add(1, "-Q", IMAGES)
    parts.eventually(lambda: client.llen(SHARDS), "the body")
    arena.fleet.end()
    with arena.resumed() as run:
        parts.eventually(lambda: list(client.scan_iter("imagefleet:run:*")), "the run's record")
        arena.strike()
        arena.fleet.add(1)
        ended = run.wait(120)
    assert ended.code == 0, ended.err
    arena.proven("a body of a run that was given up")
