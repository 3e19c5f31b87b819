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

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import redis

from config import limits
from tasks.broker import keys, poison
from tasks.broker.redis_errors import redis_problem

_log = logging.getLogger(__name__)
_REQUEUE = Path(__file__).with_name("requeue.lua").read_text(encoding="utf-8")
_FORGET_WORKER = Path(__file__).with_name("forget_worker.lua").read_text(encoding="utf-8")
#: Separates the parts of a worker's id; in no host name.
_SEPARATOR = "|"
#: Separates the parts of a binding, as kombu writes it.
_BINDING_SEPARATOR = "\x06\x16"
#: Seconds between two looks at what this worker holds, and at what is overdue.
_CHECK_INTERVAL_SECONDS = 10.0
#: The most overdue messages that one look gives back.
_MAX_OVERDUE = 100


@dataclass(frozen=True, slots=True)
class WorkerId:
    """A worker process: its Celery name, where it is, and what tells it from another with the same process id."""

    node: str
    host: str
    #: The boot and the process namespace: containers may share a host's name, and number their processes alike.
    namespace: str
    pid: int
    random: str

    @classmethod
    def current(cls, node: str) -> Self:
        """Return this process."""
        return cls(node, socket.gethostname(), _namespace(), os.getpid(), secrets.token_hex(4))

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return the worker with an id; None where it is none of ours."""
        parts = name.rsplit(_SEPARATOR, 4)
        if len(parts) != 5 or not parts[3].isdecimal():
            return None
        node, host, place, pid, random = parts
        return cls(node, host, place, int(pid), random)

    @property
    def name(self) -> str:
        """Its id."""
        return _SEPARATOR.join((self.node, self.host, self.namespace, str(self.pid), self.random))

    def has_seen_exit(self, other: WorkerId) -> bool:
        """Whether the other worker was a process of this one's host, and is no more."""
        if other == self or (other.host, other.namespace) != (self.host, self.namespace):
            return False
        return other.pid == self.pid or not _is_running(other.pid)


def _namespace() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")[:8]
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        # Only Linux has namespaces.
        return ""


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another user's.
        return True
    return True


@dataclass(slots=True)
class ContinuousContact:
    """For how long a process has heard Redis without a gap."""

    _since: float | None = None
    _last: float = 0.0

    def record_reply(self) -> None:
        """Note an answer."""
        now = time.monotonic()
        # Who was stopped for a while has missed what happened meanwhile.
        if self._since is None or now - self._last > limits.HEARTBEAT_TIMEOUT / 2:
            self._since = now
        self._last = now

    def record_failure(self) -> None:
        """Note that there was none."""
        self._since = None

    @property
    def is_long_enough(self) -> bool:
        """Whether a sign of life that is not there means anything."""
        return self._since is not None and self._last - self._since >= limits.HEARTBEAT_TIMEOUT


def unacked_hashes(server: redis.Redis) -> list[str]:
    """Return the names of all hashes with unacknowledged messages: kombu's own first, then each worker's."""
    workers = cast("set[str]", server.smembers(keys.WORKERS))
    return [keys.UNACKED, *(keys.worker_key(keys.UNACKED, worker) for worker in sorted(workers))]


def worker_liveness(server: redis.Redis) -> dict[str, bool]:
    """Return by its id, for each worker that has not stopped, whether its sign of life stands.

    Args:
        server: a client that decodes what it reads.

    Raises:
        redis.RedisError: Redis is away.
    """
    names = sorted(cast("set[str]", server.smembers(keys.WORKERS)))
    with server.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.exists(keys.heartbeat(name))
        return dict(zip(names, map(bool, pipe.execute()), strict=True))


def requeue_from_dead_workers(server: redis.Redis, known_dead: Collection[str] = ()) -> int:
    """Give back all that workers without a sign of life hold; return how many messages.

    Only for who was in `ContinuousContact` for long enough. Two who do it at once give each message back once.

    Args:
        server: a client that decodes what it reads.
        known_dead: ids of workers that are dead though their sign of life may stand; others are not looked at then.

    Raises:
        redis.RedisError: not all could be given back; whoever does it next finds the rest.
    """
    dead = sorted(known_dead) or [name for name, lives in worker_liveness(server).items() if not lives]
    return sum(_remove_dead_worker(server, worker, bool(known_dead)) for worker in dead)


def _remove_dead_worker(server: redis.Redis, worker: str, known_dead: bool) -> int:
    # First the counts: whoever gets a message that is given back looks at them.
    poison.count_crashes(server, worker)
    given = _requeue_all(server, worker, known_dead)
    _log.warning("worker %s is gone; %d tasks that it held are given back", worker, given)
    return given


def _requeue_all(server: redis.Redis, worker: str, is_gone: bool) -> int:
    """Give back all that a worker holds, and forget it; unless it is gone for sure, only without a sign of life."""
    held = _unacked_keys(worker)
    given = _requeue(server, *held, cast("dict[str, str | None]", server.hgetall(held[0])))
    places = keys.WORKERS, keys.heartbeat(worker), keys.running(worker), held[0]
    server.eval(_FORGET_WORKER, len(places), *places, worker, str(int(is_gone)))
    return given


def _unacked_keys(worker: str) -> tuple[str, str]:
    return keys.worker_key(keys.UNACKED, worker), keys.worker_key(keys.UNACKED_INDEX, worker)


def _requeue(server: redis.Redis, unacked: str, index: str, records: Mapping[str, str | None]) -> int:
    """Give messages back, marked as kombu marks them; return how many were still there."""
    bindings: dict[str, list[list[str]]] = {}
    with server.pipeline(transaction=False) as pipe:
        for tag, record in records.items():
            queues, message = _redelivery(server, record, bindings) if record else ([], "")
            pipe.eval(_REQUEUE, 2 + len(queues), unacked, index, *queues, tag, message)
        return sum(pipe.execute())


def _redelivery(server: redis.Redis, record: str, bindings: dict[str, list[list[str]]]) -> tuple[list[str], str]:
    """Return the queues of a record's message, and the message, marked as one that was delivered before."""
    try:
        message, exchange, key = json.loads(record)
        with suppress(KeyError):
            message["headers"]["redelivered"] = True
            message["properties"]["delivery_info"]["redelivered"] = True
    except (ValueError, TypeError):
        return [keys.DEAD_LETTER], record
    if not exchange:
        return [key], json.dumps(message)
    if exchange not in bindings:
        bound = cast("set[str]", server.smembers(f"_kombu.binding.{exchange}"))
        bindings[exchange] = [binding.split(_BINDING_SEPARATOR) for binding in bound]
    queues = [queue for bound_key, _, queue in bindings[exchange] if bound_key == key]
    return queues or [key], json.dumps(message)


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
            _requeue_all(server, name, is_gone=True)

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
        held = _unacked_keys(self.worker.name)
        # Redis first: what is delivered meanwhile is known by then.
        recorded = cast("list[str]", server.hkeys(held[0]))
        unknown = frozenset(recorded).difference(self.known_tags())
        if lost := unknown & self._unknown:
            given = _requeue(server, *held, _read_records(server, held[0], lost))
            _log.warning("%d tasks that Redis gave to this worker did not arrive, and are given back", given)
        self._unknown, self._checked_at = unknown, time.monotonic()
        self._checks += 1
        for unacked, index in {(keys.UNACKED, keys.UNACKED_INDEX), _unacked_keys(workers[self._checks % len(workers)])}:
            _requeue_overdue(server, unacked, index)

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


def _requeue_overdue(server: redis.Redis, unacked: str, index: str) -> None:
    """Give back what was delivered before the visibility timeout, as kombu does for what its own consumers hold."""
    latest = time.time() - limits.VISIBILITY_TIMEOUT
    overdue = cast("list[str]", server.zrangebyscore(index, 0, latest, start=0, num=_MAX_OVERDUE))
    if overdue:
        _requeue(server, unacked, index, _read_records(server, unacked, overdue))


def _read_records(server: redis.Redis, unacked: str, tags: Iterable[str]) -> dict[str, str | None]:
    tags = list(tags)
    with server.pipeline(transaction=False) as pipe:
        for tag in tags:
            pipe.hget(unacked, tag)
        found: list[Any] = pipe.execute()
    return dict(zip(tags, found, strict=True))
