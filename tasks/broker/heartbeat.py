"""Renew a worker's heartbeat in Redis, and requeue the messages of dead workers.

The set of all workers contains the id of each worker process. Each process also renews a key that expires soon. With
each heartbeat, the process looks for workers without a heartbeat. It immediately requeues all messages of these workers
(`tasks.broker.requeue`). A worker first waits until its own contact with Redis has lasted long enough
(`tasks.broker.liveness`). It does not wait if the dead process ran on the same host.

If a reply from Redis is lost, the worker's hash contains messages that never reached the worker. Therefore each worker
checks its own hash of messages. If two checks in a row find a message that the worker does not know, the worker
requeues the message. An unnecessary requeue is harmless, because the task only runs twice, and all our tasks are
idempotent.
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
#: Seconds between two checks for lost and overdue messages.
_CHECK_INTERVAL_SECONDS = 10.0


@dataclass(slots=True)
class Heartbeat:
    """The heartbeat of this process, renewed by a thread."""

    worker: WorkerId
    #: Returns a client that decodes responses and does not retry.
    connect: Callable[[], redis.Redis]
    #: Returns the delivery tags known to this process.
    known_tags: Callable[[], Collection[str]]
    #: The names of the queues consumed by this process.
    queues: Collection[str] = ()
    _contact: ContinuousContact = field(default_factory=ContinuousContact)
    _checked_at: float = 0.0
    _unknown: frozenset[str] = frozenset()
    #: The number of checks so far. Each check looks for overdue messages in the hash of the next worker.
    _checks: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, which sends the first heartbeat as soon as Redis is reachable."""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Requeue all messages of this process, and forget this worker.

        If Redis is unreachable, other workers requeue the messages later.
        """
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(limits.HEARTBEAT_INTERVAL)
        name = self.worker.name
        with suppress(redis.RedisError), self.connect() as server:
            # This process has finished its tasks, so its tasks must not be counted as crashes.
            server.delete(keys.running(name))
            requeue_all(server, name, is_gone=True)

    def beat(self, server: redis.Redis) -> None:
        """Send a heartbeat. Requeue overdue and lost messages, and all messages of dead workers.

        Raises:
            redis.RedisError: Redis is unreachable or full.
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
        if dead := [other for other in workers if self._has_seen_exit(other)]:
            requeue_from_dead_workers(server, dead)
        if self._contact.is_long_enough:
            requeue_from_dead_workers(server)
        if time.monotonic() - self._checked_at >= _CHECK_INTERVAL_SECONDS:
            self._requeue_lost_and_overdue(server, sorted(workers))

    def _has_seen_exit(self, name: str) -> bool:
        other = WorkerId.parse(name)
        return other is not None and self.worker.has_seen_exit(other)

    def _requeue_lost_and_overdue(self, server: redis.Redis, workers: list[str]) -> None:
        own_unacked, own_index = unacked_keys(self.worker.name)
        # Ask Redis before reading the known tags. In this order, the known tags include messages that are delivered
        # between the two reads.
        recorded = cast("list[str]", server.hkeys(own_unacked))
        unknown = frozenset(recorded).difference(self.known_tags())
        if lost := unknown & self._unknown:
            requeued = requeue_tags(server, own_unacked, own_index, lost)
            _log.warning("requeued %d tasks lost on the way from Redis to this worker", requeued)
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
                _log.warning("could not send a heartbeat: %s. %s", problem.text.rstrip("."), problem.hint)
            except Exception:  # noqa: BLE001  # without heartbeats, others would treat this worker as dead
                _log.exception("internal error while sending a heartbeat")
            self._stopped.wait(limits.HEARTBEAT_INTERVAL)
