"""Scenarios in which a fault makes a chord lose a message, a part or its body.

A scenario causes its fault in a run of `IMAGE_QUEUE` images. After this fault, the workers work without a fault. The
producer has to find the loss. `Arena.module` is the producer's command: the real producer, or a control producer that
makes no repairs.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from tasks.celery import IMAGE_QUEUE as IMAGES_QUEUE
from tasks.celery import SHARD_QUEUE
from tests.faults import broken_producer
from tests.faults.harness import Arena
from tests.integration import processes

IMAGES = 100
_LOST = 7
#: Bytes per second. Each image takes a second, so a fault can occur while images are downloaded.
_SLOW_RATE = 4_000
#: Longest time in seconds for which Celery keeps the claim of a body: `RedisBackend._chord_publish_claim_expires`.
_CLAIM_SECONDS = 70.0


@dataclass(frozen=True)
class LossScenario:
    """A scenario of a loss; ``start`` is a context manager that yields the producer's command after the fault."""

    name: str
    fault: str
    start: Callable[[Arena], AbstractContextManager[processes.Background]]
    #: Number of images that a repairing producer resends, or None if this number depends on timing.
    repaired: int | None = None
    #: Longest time in seconds by which the fault delays the run without a repair.
    delay: float = 0.0


@contextmanager
def _message(arena: Arena) -> Iterator[processes.Background]:
    """Remove messages from their queue. A worker that dies at this moment loses messages in the same way."""
    with arena.run(arena.list(IMAGES)) as run:
        processes.eventually(lambda: arena.server.client.llen(IMAGES_QUEUE) == IMAGES, "all messages")
        arena.server.client.rpop(IMAGES_QUEUE, _LOST)
        arena.count_fault()
        arena.fleet.add(1)
        yield run


@contextmanager
def _broken(app: str, arena: Arena) -> Iterator[processes.Background]:
    """Use a worker with one fault that occurs only once."""
    arena.fleet.add(1, app=f"tests.faults.{app}")
    with arena.run(arena.list(IMAGES)) as run:
        processes.eventually((arena.folder / "once").exists, "the fault")
        arena.count_fault()
        yield run


@contextmanager
def _body(arena: Arena) -> Iterator[processes.Background]:
    """Remove a chord's body from its queue."""
    arena.fleet.add(1, "-Q", IMAGES_QUEUE)
    with arena.run(arena.list(IMAGES)) as run:
        processes.eventually(lambda: arena.server.client.rpop(SHARD_QUEUE), "the body")
        arena.count_fault()
        arena.fleet.add(1)
        yield run


@contextmanager
def _last_header(arena: Arena) -> Iterator[processes.Background]:
    """Let the producer die before it sends its last header task."""
    argv = ["run", arena.list(IMAGES), "--out", arena.out, "--broker", arena.server.url, "--json"]
    command = [sys.executable, "-m", broken_producer.__spec__.name, *map(str, argv)]
    with processes.started("run", command, arena.folder) as run:
        assert run.wait().code == -signal.SIGKILL, run.err
    arena.count_fault()
    assert 0 < int(str(arena.server.client.llen(IMAGES_QUEUE))) < broken_producer.DIES_AT
    arena.fleet.add(1)
    with arena.start_resume() as run:
        yield run


@contextmanager
def _foreign_worker(arena: Arena) -> Iterator[processes.Background]:
    """Let a worker without our tasks drop all messages."""
    arena.fleet.add(1, app="tests.faults.foreign_worker")
    with arena.run(arena.list(IMAGES)) as run:
        processes.eventually(lambda: arena.fleet.logs().count("unregistered task") >= IMAGES, "dropped messages")
        arena.fleet.end()
        arena.count_fault()
        arena.fleet.add(1)
        yield run


@contextmanager
def _expired_run(arena: Arena) -> Iterator[processes.Background]:
    """Let tasks complete a chord after their run's record is gone, and resume the run while the body is queued."""
    with arena.run(arena.list(IMAGES)) as run:
        processes.eventually(lambda: arena.server.client.llen(IMAGES_QUEUE) == IMAGES, "all messages")
        run.process.kill()
    client = arena.server.client
    client.delete(*client.scan_iter("imagefleet:run:*"))
    arena.fleet.add(1, "-Q", IMAGES_QUEUE)
    processes.eventually(lambda: client.llen(SHARD_QUEUE), "the body")
    arena.fleet.end()
    with arena.start_resume() as run:
        processes.eventually(lambda: list(client.scan_iter("imagefleet:run:*")), "the run's record")
        arena.count_fault()
        arena.fleet.add(1)
        yield run


@contextmanager
def _redis(app: str, forget: bool, arena: Arena) -> Iterator[processes.Background]:
    """Kill Redis during downloads, and restart it after further downloads have finished."""
    arena.fleet.add(1, app=app)
    with arena.run(arena.list(IMAGES, rate=_SLOW_RATE)) as run:
        arena.wait_until_saved(IMAGES // 4, run)
        arena.count_fault()
        arena.server.kill(forget)
        time.sleep(2)
        arena.server.start()
        yield run


#: Losses in a chord. The last argument of each scenario is the number of images to resend.
CHORD_LOSSES = (
    LossScenario("message", "a lost message", _message, _LOST),
    LossScenario("part", "a lost chord part", partial(_broken, "broken_count"), 1),
    LossScenario("failure", "a chord part counted as failed", partial(_broken, "broken_header"), 1),
    LossScenario(
        "claim",
        "a worker killed after claiming the collect task",
        partial(_broken, "broken_claim"),
        delay=_CLAIM_SECONDS,
    ),
    # Celery deletes a chord's parts when it sends the body.
    LossScenario("body", "a lost collect task", _body, IMAGES),
    LossScenario("header", "a producer killed before its last image task", _last_header),
    LossScenario("foreign-worker", "a worker without our tasks", _foreign_worker, IMAGES),
    LossScenario("expired-run", "a collect task of an expired run", _expired_run),
)
#: Losses in a restarting Redis. An unmodified worker waits for Redis and loses no chord part.
REDIS_LOSSES = (
    LossScenario(
        "restart",
        "a chord part not counted during a Redis restart",
        partial(_redis, "tests.faults.no_redis_retry", False),
    ),
    LossScenario("empty", "Redis replaced by an empty one", partial(_redis, "tasks", True)),
)
