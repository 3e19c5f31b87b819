"""Read from Redis which tasks are queued, which tasks workers hold, and which chord parts are counted.

A message is in a queue, in the hash of a worker's unacknowledged messages, or parked until its host is free. It moves
between these places in one atomic step. So a task is lost if two things are true: no place has its message, and its
part is not counted. A task goes from a queue to a worker, and is then counted as a chord part. Redis is read in this
order too: queues, workers, parked messages, counted parts. So a task that moves on during the reading is not missed.
But a task that is requeued during the reading may be missed, because its message moves back to a queue. So a task
counts as lost after two inspections in a row have missed it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import orjson
import redis

from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE, app
from tasks.model import Outcome, Reason
from tasks.throttle.parking import Parking

#: The number of messages to read from a queue at a time.
_CHUNK_MESSAGES = 1000


@dataclass(frozen=True, slots=True)
class ChordState:
    """The counted parts of a chord: Outcomes by task id, and raw entries that have no valid Outcome."""

    outcomes: dict[str, Outcome]
    invalid: tuple[str, ...]
    #: The ids that the chord keeps for the invalid entries. Each id consists of a task id and a place.
    invalid_ids: tuple[str, ...]
    #: Whether Redis has the chord's size. Without a size, a chord is never complete.
    has_size: bool
    #: Whether the chord's body (the collect task) was sent.
    body_sent: bool


def pending_task_ids(server: redis.Redis, run_id: str, unacked_hashes: Iterable[str]) -> frozenset[str]:
    """Return the ids of a run's tasks that have a message in a queue, at a worker, or parked.

    Args:
        server: a client with `decode_responses`.
        run_id: the id of the run.
        unacked_hashes: the names of all hashes with unacknowledged messages.
    """
    prefix = f"{run_id}."
    found = {
        task_id
        for queue in (IMAGE_QUEUE, SHARD_QUEUE)
        for message in _queue_messages(server, queue)
        if (task_id := _message_task_id(message)).startswith(prefix)
    }
    for name in unacked_hashes:
        for record in cast("list[str]", server.hvals(name)):
            if (task_id := _message_task_id(orjson.loads(record)[0])).startswith(prefix):
                found.add(task_id)
    for text in Parking(server).messages():
        if (task_id := _message_task_id(orjson.loads(text))).startswith(prefix):
            found.add(task_id)
    return frozenset(found)


def count_parts(server: redis.Redis, group: str) -> int:
    """Return the number of counted parts of a chord."""
    return server.zcount(_key(group, ".j"), "-inf", "+inf")


def is_body_sent(server: redis.Redis, group: str) -> bool:
    """Return whether a chord became complete, so that its body was sent."""
    return cast("str | None", server.get(_key(group, ".c"))) == "done"


def read_parts(server: redis.Redis, group: str, void: Collection[Reason]) -> ChordState:
    """Return the counted parts of a chord.

    Args:
        server: a client with `decode_responses`.
        group: the id of the chord.
        void: the failure reasons with which a part counts as invalid.
    """
    pipe = server.pipeline(transaction=True)
    pipe.zrange(_key(group, ".j"), 0, -1)
    pipe.get(_key(group, ".s"))
    pipe.get(_key(group, ".c"))
    pipe.smembers(_key(group, ".d"))
    entries, size, claim, ids = pipe.execute()
    outcomes: dict[str, Outcome] = {}
    invalid: list[str] = []
    invalid_tasks: set[str] = set()
    for entry in entries:
        task_id, outcome = _decode_part(entry)
        if outcome is None or outcome.reason in void:
            invalid.append(entry)
            invalid_tasks.add(task_id)
        else:
            outcomes[task_id] = outcome
    invalid_ids = tuple(item for item in ids if item.rpartition(":")[0] in invalid_tasks)
    return ChordState(outcomes, tuple(invalid), invalid_ids, size is not None, claim == "done")


def reset_parts(server: redis.Redis, group: str, parts: ChordState) -> None:
    """Delete a chord's invalid parts, so that they can be counted again.

    If the chord's body was sent, delete all parts.
    """
    pipe = server.pipeline(transaction=True)
    if parts.body_sent:
        # A chord counts no more parts after its body was sent, so no new part can be deleted here.
        pipe.delete(*(_key(group, kind) for kind in (".j", ".t", ".d", ".s")))
    elif parts.invalid:
        pipe.zrem(_key(group, ".j"), *parts.invalid)
        pipe.srem(_key(group, ".d"), *parts.invalid_ids)
    pipe.execute()


def _decode_part(entry: str) -> tuple[str, Outcome | None]:
    """Return the task id and the Outcome of a part.

    The Outcome is None if the task failed or its Outcome is invalid.
    """
    _, task_id, state, result = orjson.loads(entry)
    try:
        outcome = Outcome.from_json(result) if state == "SUCCESS" else None
    except (AttributeError, KeyError, TypeError, ValueError):
        outcome = None
    return task_id, outcome


def _queue_messages(server: redis.Redis, queue: str) -> Iterator[Any]:
    # A message sent during the reading is added on the left and moves the other messages to the right. So a message may
    # be read twice, but is never missed.
    start = 0
    while messages := cast("list[str]", server.lrange(queue, start, start + _CHUNK_MESSAGES - 1)):
        yield from map(orjson.loads, messages)
        start += len(messages)


def _message_task_id(message: Any) -> str:
    try:
        return str(message["headers"]["id"])
    except (KeyError, TypeError):
        return ""


def _key(group: str, kind: str) -> bytes:
    return cast("bytes", app.backend.get_key_for_group(group, kind))
