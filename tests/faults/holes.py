"""The holes through which a chord loses something, each with the fault that opens it.

A hole is opened in a run of `IMAGES` images, and left with good workers at work: what is missing then is for the
producer to find. Its command is the arena's: one that repairs, or one that does not, to see what that is good for.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from tasks.celery import IMAGES as IMAGES_QUEUE
from tasks.celery import SHARDS
from tests.faults import broken_producer
from tests.faults.harness import Arena
from tests.integration import parts

IMAGES = 100
_LOST = 7
#: Bytes a second for pictures that take a second each, so that a fault can strike while they come.
_SLOWLY = 4_000
#: Seconds for which Celery claims a body, at most: `RedisBackend._chord_publish_claim_expires`.
_CLAIM_LASTS = 70.0


@dataclass(frozen=True)
class Hole:
    """One of them; ``open`` gives the command that is at the run when the fault has struck."""

    name: str
    fault: str
    open: Callable[[Arena], AbstractContextManager[parts.Background]]
    #: How many images a producer that repairs has to send again; None where that depends on the moment.
    repaired: int | None = None
    #: Seconds for which something may hold the run up that goes by itself.
    lasts: float = 0.0


@contextmanager
def _message(arena: Arena) -> Iterator[parts.Background]:
    """Take messages out of their queue, as a worker does that dies at that moment."""
    with arena.run(arena.list(IMAGES)) as run:
        parts.eventually(lambda: arena.server.client.llen(IMAGES_QUEUE) == IMAGES, "all messages")
        arena.server.client.rpop(IMAGES_QUEUE, _LOST)
        arena.strike()
        arena.fleet.add(1)
        yield run


@contextmanager
def _broken(app: str, arena: Arena) -> Iterator[parts.Background]:
    """Let the work be done by a worker that is broken at one line, once."""
    arena.fleet.add(1, app=f"tests.faults.{app}")
    with arena.run(arena.list(IMAGES)) as run:
        parts.eventually((arena.folder / "once").exists, "the fault")
        arena.strike()
        yield run


@contextmanager
def _body(arena: Arena) -> Iterator[parts.Background]:
    """Take a chord's body out of its queue."""
    arena.fleet.add(1, "-Q", IMAGES_QUEUE)
    with arena.run(arena.list(IMAGES)) as run:
        parts.eventually(lambda: arena.server.client.rpop(SHARDS), "the body")
        arena.strike()
        arena.fleet.add(1)
        yield run


@contextmanager
def _last_header(arena: Arena) -> Iterator[parts.Background]:
    """Let the producer die before it has sent its last header."""
    argv = ["run", arena.list(IMAGES), "--out", arena.out, "--broker", arena.server.url, "--json"]
    command = [sys.executable, "-m", broken_producer.__spec__.name, *map(str, argv)]
    with parts.started("run", command, arena.folder) as run:
        assert run.wait().code == -signal.SIGKILL, run.err
    arena.strike()
    assert 0 < int(str(arena.server.client.llen(IMAGES_QUEUE))) < broken_producer.DIES_AT
    arena.fleet.add(1)
    with arena.resumed() as run:
        yield run


@contextmanager
def _stranger(arena: Arena) -> Iterator[parts.Background]:
    """Let a worker that knows no such task drop all messages."""
    arena.fleet.add(1, app="tests.faults.stranger")
    with arena.run(arena.list(IMAGES)) as run:
        parts.eventually(lambda: arena.fleet.said().count("unregistered task") >= IMAGES, "what it drops")
        arena.fleet.end()
        arena.strike()
        arena.fleet.add(1)
        yield run


@contextmanager
def _given_up(arena: Arena) -> Iterator[parts.Background]:
    """Complete a chord by tasks that find no run any more, and go on with that run while its body waits."""
    with arena.run(arena.list(IMAGES)) as run:
        parts.eventually(lambda: arena.server.client.llen(IMAGES_QUEUE) == IMAGES, "all messages")
        run.process.kill()
    client = arena.server.client
    client.delete(*client.scan_iter("imagefleet:run:*"))
    arena.fleet.add(1, "-Q", IMAGES_QUEUE)
    parts.eventually(lambda: client.llen(SHARDS), "the body")
    arena.fleet.end()
    with arena.resumed() as run:
        parts.eventually(lambda: list(client.scan_iter("imagefleet:run:*")), "the run's record")
        arena.strike()
        arena.fleet.add(1)
        yield run


@contextmanager
def _redis(app: str, forget: bool, arena: Arena) -> Iterator[parts.Background]:
    """Kill Redis while images come, and start it again while more have come."""
    arena.fleet.add(1, app=app)
    with arena.run(arena.list(IMAGES, rate=_SLOWLY)) as run:
        arena.until_saved(IMAGES // 4, run)
        arena.strike()
        arena.server.kill(forget)
        time.sleep(2)
        arena.server.start()
        yield run


#: Those of a chord; the last argument is how many images have to be sent again.
OF_CHORDS = (
    Hole("message", "a message lost", _message, _LOST),
    Hole("part", "a part lost", partial(_broken, "broken_count"), 1),
    Hole("failure", "a part counted as failed", partial(_broken, "broken_header"), 1),
    Hole("claim", "the claim of a body lost", partial(_broken, "broken_claim"), lasts=_CLAIM_LASTS),
    # Celery forgets a chord's parts when it sends the body.
    Hole("body", "the body lost", _body, IMAGES),
    Hole("header", "the producer dead before its last header", _last_header),
    Hole("stranger", "a worker that knows no such task", _stranger, IMAGES),
    Hole("given-up", "a body of a run that was given up", _given_up),
)
#: Those of a Redis that restarts. A worker of ours waits for it, and loses no part.
OF_REDIS = (
    Hole("restart", "a part not counted while Redis restarts", partial(_redis, "tests.faults.broken_patience", False)),
    Hole("empty", "Redis replaced by an empty one", partial(_redis, "tasks", True)),
)
