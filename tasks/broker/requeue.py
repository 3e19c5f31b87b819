"""Messages that workers hold go back to their queues: those of dead workers, overdue and lost ones."""

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
#: Separates the parts of a binding, as kombu writes it.
_BINDING_SEPARATOR = "\x06\x16"
#: The most overdue messages that one look gives back.
_MAX_OVERDUE = 100


def unacked_hashes(server: redis.Redis) -> list[str]:
    """Return the names of all hashes with unacknowledged messages: kombu's own first, then each worker's."""
    workers = cast("set[str]", server.smembers(keys.WORKERS))
    return [keys.UNACKED, *(keys.worker_key(keys.UNACKED, worker) for worker in sorted(workers))]


def requeue_from_dead_workers(server: redis.Redis, known_dead: Collection[str] = ()) -> int:
    """Give back all that workers without a sign of life hold; return how many messages.

    Only for who was in `ContinuousContact` for long enough. Two who do it at once give each message back once.

    Args:
        server: a client that decodes what it reads.
        known_dead: ids of workers that are dead though their sign of life may stand; others are not looked at then.

    Raises:
        redis.RedisError: not all could be given back; whoever does it next finds the rest.
    """
    dead = sorted(known_dead) or [name for name, lives in liveness.worker_liveness(server).items() if not lives]
    return sum(_remove_dead_worker(server, worker, bool(known_dead)) for worker in dead)


def _remove_dead_worker(server: redis.Redis, worker: str, known_dead: bool) -> int:
    # First the counts: whoever gets a message that is given back looks at them.
    poison.count_crashes(server, worker)
    given = requeue_all(server, worker, known_dead)
    _log.warning("worker %s is gone; %d tasks that it held are given back", worker, given)
    return given


def requeue_all(server: redis.Redis, worker: str, is_gone: bool) -> int:
    """Give back all that a worker holds, and forget it; unless it is gone for sure, only without a sign of life."""
    held = unacked_keys(worker)
    given = _requeue(server, *held, cast("dict[str, str | None]", server.hgetall(held[0])))
    places = keys.WORKERS, keys.heartbeat(worker), keys.running(worker), held[0]
    server.eval(_FORGET_WORKER, len(places), *places, worker, str(int(is_gone)))
    return given


def unacked_keys(worker: str) -> tuple[str, str]:
    """Return the keys of a worker's unacknowledged messages: the hash, and the index by time of delivery."""
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


def requeue_overdue(server: redis.Redis, unacked: str, index: str) -> None:
    """Give back what was delivered before the visibility timeout, as kombu does for what its own consumers hold."""
    latest = time.time() - limits.VISIBILITY_TIMEOUT
    overdue = cast("list[str]", server.zrangebyscore(index, 0, latest, start=0, num=_MAX_OVERDUE))
    if overdue:
        requeue_tags(server, unacked, index, overdue)


def requeue_tags(server: redis.Redis, unacked: str, index: str, tags: Iterable[str]) -> int:
    """Requeue the messages with these delivery tags; return how many were still there."""
    return _requeue(server, unacked, index, _read_records(server, unacked, tags))


def _read_records(server: redis.Redis, unacked: str, tags: Iterable[str]) -> dict[str, str | None]:
    tags = list(tags)
    with server.pipeline(transaction=False) as pipe:
        for tag in tags:
            pipe.hget(unacked, tag)
        found: list[Any] = pipe.execute()
    return dict(zip(tags, found, strict=True))
