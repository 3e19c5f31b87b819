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
_GIVE_BACK = Path(__file__).with_name("requeue.lua").read_text(encoding="utf-8")
_BURY = Path(__file__).with_name("forget_worker.lua").read_text(encoding="utf-8")
#: Separates the parts of a worker's id; in no host name.
_SEPARATOR = "|"
#: Separates the parts of a binding, as kombu writes it.
_BOUND = "\x06\x16"
#: Seconds between two looks at what this worker holds, and at what is overdue.
_LOOK = 10.0
#: The most overdue messages that one look gives back.
_OVERDUE = 100


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process: its Celery name, where it is, and what tells it from another with the same process id."""

    node: str
    host: str
    #: The boot and the process namespace: containers may share a host's name, and number their processes alike.
    place: str
    pid: int
    random: str

    @classmethod
    def here(cls, node: str) -> Self:
        """Return this process."""
        return cls(node, socket.gethostname(), _place(), os.getpid(), secrets.token_hex(4))

    @classmethod
    def of(cls, name: str) -> Self | None:
        """Return the worker with an id; None where it is none of ours."""
        parts = name.rsplit(_SEPARATOR, 4)
        if len(parts) != 5 or not parts[3].isdecimal():
            return None
        node, host, place, pid, random = parts
        return cls(node, host, place, int(pid), random)

    @property
    def name(self) -> str:
        """Its id."""
        return _SEPARATOR.join((self.node, self.host, self.place, str(self.pid), self.random))

    def sees_the_end_of(self, other: Worker) -> bool:
        """Whether the other worker was a process of this one's host, and is no more."""
        if other == self or (other.host, other.place) != (self.host, self.place):
            return False
        return other.pid == self.pid or not _runs(other.pid)


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")[:8]
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        # Only Linux has namespaces.
        return ""


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another user's.
        return True
    return True


@dataclass(slots=True)
class Contact:
    """For how long a process has heard Redis without a gap."""

    _since: float | None = None
    _last: float = 0.0

    def heard(self) -> None:
        """Note an answer."""
        now = time.monotonic()
        # Who was stopped for a while has missed what happened meanwhile.
        if self._since is None or now - self._last > limits.WORKER_LIFETIME / 2:
            self._since = now
        self._last = now

    def lost(self) -> None:
        """Note that there was none."""
        self._since = None

    @property
    def long_enough(self) -> bool:
        """Whether a sign of life that is not there means anything."""
        return self._since is not None and self._last - self._since >= limits.WORKER_LIFETIME


def holders(server: redis.Redis) -> list[str]:
    """Return the names of all hashes with unacknowledged messages: kombu's own first, then each worker's."""
    workers = cast("set[str]", server.smembers(keys.WORKERS))
    return [keys.UNACKED, *(keys.held(keys.UNACKED, worker) for worker in sorted(workers))]


def signs_of_life(server: redis.Redis) -> dict[str, bool]:
    """Return by its id, for each worker that has not stopped, whether its sign of life stands.

    Args:
        server: a client that decodes what it reads.

    Raises:
        redis.RedisError: Redis is away.
    """
    names = sorted(cast("set[str]", server.smembers(keys.WORKERS)))
    with server.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.exists(keys.alive(name))
        return dict(zip(names, map(bool, pipe.execute()), strict=True))


def hand_back_of_the_dead(server: redis.Redis, seen_dead: Collection[str] = ()) -> int:
    """Give back all that workers without a sign of life hold; return how many messages.

    Only for who was in `Contact` for long enough. Two who do it at once give each message back once.

    Args:
        server: a client that decodes what it reads.
        seen_dead: ids of workers that are dead though their sign of life may stand; others are not looked at then.

    Raises:
        redis.RedisError: not all could be given back; whoever does it next finds the rest.
    """
    dead = sorted(seen_dead) or [name for name, lives in signs_of_life(server).items() if not lives]
    return sum(_bury(server, worker, bool(seen_dead)) for worker in dead)


def _bury(server: redis.Redis, worker: str, seen_dead: bool) -> int:
    # First the counts: whoever gets a message that is given back looks at them.
    poison.count_crashes(server, worker)
    given = _dissolve(server, worker, seen_dead)
    _log.warning("worker %s is gone; %d tasks that it held are given back", worker, given)
    return given


def _dissolve(server: redis.Redis, worker: str, gone: bool) -> int:
    """Give back all that a worker holds, and forget it; unless it is gone for sure, only without a sign of life."""
    held = _held(worker)
    given = _give_back(server, *held, cast("dict[str, str | None]", server.hgetall(held[0])))
    places = keys.WORKERS, keys.alive(worker), keys.begun(worker), held[0]
    server.eval(_BURY, len(places), *places, worker, str(int(gone)))
    return given


def _held(worker: str) -> tuple[str, str]:
    return keys.held(keys.UNACKED, worker), keys.held(keys.UNACKED_INDEX, worker)


def _give_back(server: redis.Redis, unacked: str, index: str, records: Mapping[str, str | None]) -> int:
    """Give messages back, marked as kombu marks them; return how many were still there."""
    bindings: dict[str, list[list[str]]] = {}
    with server.pipeline(transaction=False) as pipe:
        for tag, record in records.items():
            queues, message = _addressed(server, record, bindings) if record else ([], "")
            pipe.eval(_GIVE_BACK, 2 + len(queues), unacked, index, *queues, tag, message)
        return sum(pipe.execute())


def _addressed(server: redis.Redis, record: str, bindings: dict[str, list[list[str]]]) -> tuple[list[str], str]:
    """Return the queues of a record's message, and the message, marked as one that was delivered before."""
    try:
        message, exchange, key = json.loads(record)
        with suppress(KeyError):
            message["headers"]["redelivered"] = True
            message["properties"]["delivery_info"]["redelivered"] = True
    except (ValueError, TypeError):
        return [keys.PUT_ASIDE], record
    if not exchange:
        return [key], json.dumps(message)
    if exchange not in bindings:
        bound = cast("set[str]", server.smembers(f"_kombu.binding.{exchange}"))
        bindings[exchange] = [binding.split(_BOUND) for binding in bound]
    queues = [queue for bound_key, _, queue in bindings[exchange] if bound_key == key]
    return queues or [key], json.dumps(message)


@dataclass(slots=True)
class Presence:
    """The presence of this process, kept up by a thread."""

    worker: Worker
    #: Gives a client that decodes what it reads and does not try again.
    connect: Callable[[], redis.Redis]
    #: Tells the delivery tags that this process knows of.
    known: Callable[[], Collection[str]]
    #: The names of the queues that this process takes from.
    queues: Collection[str] = ()
    _contact: Contact = field(default_factory=Contact)
    _looked: float = 0.0
    _unknown: frozenset[str] = frozenset()
    #: Counts the looks: each is at what another worker has overdue.
    _looks: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Give the first sign of life, as soon as Redis is there, and go on."""
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give back what is still held, and be gone; without Redis, others do so later."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(limits.WORKER_BEAT)
        name = self.worker.name
        with suppress(redis.RedisError), self.connect() as server:
            # What this process had begun it has ended, and nobody is to be accused of it.
            server.delete(keys.begun(name))
            _dissolve(server, name, gone=True)

    def beat(self, server: redis.Redis) -> None:
        """Give a sign of life, and look for what is to be given back.

        Raises:
            redis.RedisError: Redis is away, or full.
        """
        name = self.worker.name
        try:
            with server.pipeline() as pipe:
                pipe.set(keys.alive(name), ",".join(self.queues), ex=limits.WORKER_LIFETIME)
                pipe.sadd(keys.WORKERS, name)
                pipe.smembers(keys.WORKERS)
                workers = pipe.execute()[-1]
        except redis.RedisError:
            self._contact.lost()
            raise
        self._contact.heard()
        if ended := [other for other in workers if self._sees_the_end_of(other)]:
            hand_back_of_the_dead(server, ended)
        if self._contact.long_enough:
            hand_back_of_the_dead(server)
        if time.monotonic() - self._looked >= _LOOK:
            self._look(server, sorted(workers))

    def _sees_the_end_of(self, name: str) -> bool:
        other = Worker.of(name)
        return other is not None and self.worker.sees_the_end_of(other)

    def _look(self, server: redis.Redis, workers: list[str]) -> None:
        held = _held(self.worker.name)
        # Redis first: what is delivered meanwhile is known by then.
        recorded = cast("list[str]", server.hkeys(held[0]))
        unknown = frozenset(recorded).difference(self.known())
        if lost := unknown & self._unknown:
            given = _give_back(server, *held, _records(server, held[0], lost))
            _log.warning("%d tasks that Redis gave to this worker did not arrive, and are given back", given)
        self._unknown, self._looked = unknown, time.monotonic()
        self._looks += 1
        for unacked, index in {(keys.UNACKED, keys.UNACKED_INDEX), _held(workers[self._looks % len(workers)])}:
            _give_back_overdue(server, unacked, index)

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
            self._stopped.wait(limits.WORKER_BEAT)


def _give_back_overdue(server: redis.Redis, unacked: str, index: str) -> None:
    """Give back what was delivered before the visibility timeout, as kombu does for what its own consumers hold."""
    latest = time.time() - limits.VISIBILITY_TIMEOUT
    overdue = cast("list[str]", server.zrangebyscore(index, 0, latest, start=0, num=_OVERDUE))
    if overdue:
        _give_back(server, unacked, index, _records(server, unacked, overdue))


def _records(server: redis.Redis, unacked: str, tags: Iterable[str]) -> dict[str, str | None]:
    tags = list(tags)
    with server.pipeline(transaction=False) as pipe:
        for tag in tags:
            pipe.hget(unacked, tag)
        found: list[Any] = pipe.execute()
    return dict(zip(tags, found, strict=True))
