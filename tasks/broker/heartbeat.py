"""A worker's presence: its sign of life in Redis, by which others know whether what it holds is to be given back.

Each worker process has an id, stands with it in a set, and renews a key that expires soon. What its transport was given
and has not acknowledged stands in a hash of its own (``Channel.holder``). In each beat it looks for workers without a
sign of life, and gives back all that they hold, at once. That a message is given back when its visibility timeout is
over stays, for what a worker holds that lives and never ends it.

After Redis was away all signs of life have expired, though all live. So nobody judges by them who was not in unbroken
contact himself for as long as they last. A process of the same host that is no more is known without waiting.

An answer of Redis that is lost on the way leaves messages in a worker's hash that it never saw. It looks for these too:
what it does not know twice in a row is given back. To give back too much costs that a task is done twice, which every
task of ours bears.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import redis

from config import limits
from tasks.broker import keys
from tasks.broker.liveness import ContinuousContact, WorkerId
from tasks.broker.redis_errors import redis_problem
from tasks.broker.requeue import (
    requeue_all,
    requeue_from_dead_workers,
    requeue_overdue,
    requeue_tags,
    unacked_keys,
)

_log = logging.getLogger(__name__)
#: Seconds between two looks at what this worker holds, and at what is overdue.
_CHECK_INTERVAL_SECONDS = 10.0


@dataclass(slots=True)
class Heartbeat:
    """The presence of this process, kept up by a thread."""

    worker: WorkerId
    #: Gives a client that decodes what it reads and does not try again.
    connect: Callable[[], redis.Redis]
    #: Tells the delivery tags that this process knows of.
    known_tags: Callable[[], Collection[str]]
    #: The names of the queues that this process takes from.
    queues: Collection[str] = ()
    _contact: ContinuousContact = field(default_factory=ContinuousContact)
    _checked_at: float = 0.0
    _unknown: frozenset[str] = frozenset()
    #: Counts the looks: each is at what another worker has overdue.
    _checks: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Give the first sign of life, as soon as Redis is there, and go on."""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give back what is still held, and be gone; without Redis, others do so later."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(limits.HEARTBEAT_INTERVAL)
        name = self.worker.name
        with suppress(redis.RedisError), self.connect() as server:
            # What this process had begun it has ended, and nobody is to be accused of it.
            server.delete(keys.running(name))
            requeue_all(server, name, is_gone=True)

    def beat(self, server: redis.Redis) -> None:
        """Give a sign of life, and look for what is to be given back.

        Raises:
            redis.RedisError: Redis is away, or full.
        """
        name = self.worker.name
        try:
            with server.pipeline() as pipe:
                pipe.set(keys.heartbeat(name), ",".join(self.queues), ex=limits.HEARTBEAT_TIMEOUT)
                pipe.sadd(keys.WORKERS, name)
                pipe.smembers(keys.WORKERS)
                workers = pipe.execute()[-1]
        except redis.RedisError:
            self._contact.record_failure()
            raise
        self._contact.record_reply()
        if ended := [other for other in workers if self._has_seen_exit(other)]:
            requeue_from_dead_workers(server, ended)
        if self._contact.is_long_enough:
            requeue_from_dead_workers(server)
        if time.monotonic() - self._checked_at >= _CHECK_INTERVAL_SECONDS:
            self._requeue_lost_and_overdue(server, sorted(workers))

    def _has_seen_exit(self, name: str) -> bool:
        other = WorkerId.parse(name)
        return other is not None and self.worker.has_seen_exit(other)

    def _requeue_lost_and_overdue(self, server: redis.Redis, workers: list[str]) -> None:
        held = unacked_keys(self.worker.name)
        # Redis first: what is delivered meanwhile is known by then.
        recorded = cast("list[str]", server.hkeys(held[0]))
        unknown = frozenset(recorded).difference(self.known_tags())
        if lost := unknown & self._unknown:
            given = requeue_tags(server, *held, lost)
            _log.warning("%d tasks that Redis gave to this worker did not arrive, and are given back", given)
        self._unknown, self._checked_at = unknown, time.monotonic()
        self._checks += 1
        for unacked, index in {(keys.UNACKED, keys.UNACKED_INDEX), unacked_keys(workers[self._checks % len(workers)])}:
            requeue_overdue(server, unacked, index)

    def _run(self) -> None:
        server = self.connect()
        while not self._stopped.is_set():
            try:
                self.beat(server)
            except redis.RedisError as error:
                problem = redis_problem(error)
                _log.warning("no heartbeat could be sent: %s. %s", problem.text, problem.hint)
            except Exception:  # noqa: BLE001  # a worker without it would be taken for dead
                _log.exception("a fault of ours while a sign of life was given")
            self._stopped.wait(limits.HEARTBEAT_INTERVAL)
