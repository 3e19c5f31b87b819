"""Requeue unacknowledged messages: messages of dead workers, overdue messages and lost messages.

Each worker's transport records its unacknowledged messages in a hash of its own (``Channel.worker_id``). If a worker
has no heartbeat, another process immediately requeues all messages in the worker's hash. Messages are also requeued at
the end of their visibility timeout, in case a live worker never finishes them.

An unnecessary requeue is harmless, because the task only runs twice, and all our tasks are idempotent.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import redis

from config import limits
from tasks.broker import keys, liveness, poison

_log = logging.getLogger(__name__)
_REQUEUE = Path(__file__).with_name("requeue.lua").read_text(encoding="utf-8")
_FORGET_WORKER = Path(__file__).with_name("forget_worker.lua").read_text(encoding="utf-8")
#: The separator between the fields of a binding in kombu's format.
_BINDING_SEPARATOR = "\x06\x16"
#: Maximum number of overdue messages to requeue at once.
_MAX_OVERDUE = 100


def unacked_hashes(server: redis.Redis) -> list[str]:
    """Return the keys of all hashes with unacknowledged messages: first kombu's own, then each worker's."""
    workers = cast("set[str]", server.smembers(keys.WORKERS))
    return [keys.UNACKED, *(keys.worker_key(keys.UNACKED, worker) for worker in sorted(workers))]


def requeue_from_dead_workers(server: redis.Redis, known_dead: Collection[str] = ()) -> int:
    """Requeue all messages of workers that have no heartbeat; return the number of messages.

    Call this function only after a long enough `ContinuousContact` with Redis. If two processes call this function at
    the same time, each message is still requeued only once.

    Args:
        server: a client with decoded responses.
        known_dead: ids of workers known to be dead, even if their heartbeats have not expired yet. If this argument is
            given, no other workers are checked.

    Raises:
        redis.RedisError: some messages could not be requeued; the next call requeues them.
    """
    dead = sorted(known_dead) or [name for name, lives in liveness.worker_liveness(server).items() if not lives]
    return sum(_remove_dead_worker(server, worker, bool(known_dead)) for worker in dead)


def _remove_dead_worker(server: redis.Redis, worker: str, known_dead: bool) -> int:
    # Count the crashes first, because the next worker to receive a requeued message reads the counts.
    poison.count_crashes(server, worker)
    requeued = requeue_all(server, worker, known_dead)
    _log.warning("worker %s is dead; requeued its %d tasks", worker, requeued)
    return requeued


def requeue_all(server: redis.Redis, worker: str, is_gone: bool) -> int:
    """Requeue all messages of a worker and remove it from the set of workers; return the number of messages.

    A worker with a heartbeat is removed only if `is_gone` is true.
    """
    unacked, index = unacked_keys(worker)
    requeued = _requeue(server, unacked, index, cast("dict[str, str | None]", server.hgetall(unacked)))
    script_keys = keys.WORKERS, keys.heartbeat(worker), keys.running(worker), unacked
    server.eval(_FORGET_WORKER, len(script_keys), *script_keys, worker, str(int(is_gone)))
    return requeued


def unacked_keys(worker: str) -> tuple[str, str]:
    """Return the keys of a worker's unacknowledged messages: the hash, and the index by time of delivery."""
    return keys.worker_key(keys.UNACKED, worker), keys.worker_key(keys.UNACKED_INDEX, worker)


def _requeue(server: redis.Redis, unacked: str, index: str, records: Mapping[str, str | None]) -> int:
    """Requeue messages and mark them as redelivered, as kombu does; return how many were requeued."""
    bindings: dict[str, list[list[str]]] = {}
    with server.pipeline(transaction=False) as pipe:
        for tag, record in records.items():
            queues, message = _redelivery(server, record, bindings) if record else ([], "")
            pipe.eval(_REQUEUE, 2 + len(queues), unacked, index, *queues, tag, message)
        return sum(pipe.execute())


def _redelivery(server: redis.Redis, record: str, bindings: dict[str, list[list[str]]]) -> tuple[list[str], str]:
    """Mark a recorded message as redelivered. Return the message's queues and the marked message."""
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


def requeue_overdue(server: redis.Redis, unacked: str, index: str) -> None:
    """Requeue messages past their visibility timeout, as kombu does for its own consumers."""
    latest = time.time() - limits.VISIBILITY_TIMEOUT
    overdue = cast("list[str]", server.zrangebyscore(index, 0, latest, start=0, num=_MAX_OVERDUE))
    if overdue:
        requeue_tags(server, unacked, index, overdue)


def requeue_tags(server: redis.Redis, unacked: str, index: str, tags: Iterable[str]) -> int:
    """Requeue the messages with these delivery tags; return how many were still unacknowledged."""
    return _requeue(server, unacked, index, _read_records(server, unacked, tags))


def _read_records(server: redis.Redis, unacked: str, tags: Iterable[str]) -> dict[str, str | None]:
    tags = list(tags)
    with server.pipeline(transaction=False) as pipe:
        for tag in tags:
            pipe.hget(unacked, tag)
        found: list[Any] = pipe.execute()
    return dict(zip(tags, found, strict=True))
