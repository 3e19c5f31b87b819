"""A run's tally in Redis: which of its tasks wait or are in a worker's hands, and which parts of a chord are counted.

A message stands in a queue, or in the records of what a worker has taken and not acknowledged; it is moved from one to
the other in one step. So a task whose message is in neither and whose part is not counted is lost. Queues are read
before the records, and parts last, which is the way that tasks go; one that is handed back meanwhile may be missed, so
only what is missing twice is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import orjson
import redis

from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE, app
from tasks.model import Outcome, Reason

#: Messages that are read from a queue at a time.
_CHUNK_MESSAGES = 1000


@dataclass(frozen=True, slots=True)
class ChordState:
    """What a chord has: Outcomes by their task's id, the raw entries that are no Outcomes, and whether it is over."""

    outcomes: dict[str, Outcome]
    invalid: tuple[str, ...]
    #: Ids, with their places, that stand for a bad entry.
    invalid_ids: tuple[str, ...]
    #: Whether its size stands: without it nothing is ever complete.
    has_size: bool
    #: Whether its body was sent.
    body_sent: bool


def pending_task_ids(server: redis.Redis, run_id: str, unacked_hashes: Iterable[str]) -> frozenset[str]:
    """Return the ids of a run's tasks whose messages wait in a queue or are in a worker's hands.

    Args:
        server: a client that decodes.
        run_id: the run.
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
    return frozenset(found)


def count_parts(server: redis.Redis, group: str) -> int:
    """Return how many parts of a chord are counted."""
    return server.zcount(_key(group, ".j"), "-inf", "+inf")


def is_body_sent(server: redis.Redis, group: str) -> bool:
    """Tell whether a chord was complete and its body was sent."""
    return cast("str | None", server.get(_key(group, ".c"))) == "done"


def read_parts(server: redis.Redis, group: str, void: Collection[Reason]) -> ChordState:
    """Return what is counted of a chord.

    Args:
        server: a client that decodes.
        group: the chord's.
        void: the reasons of Outcomes that count for nothing.
    """
    pipe = server.pipeline(transaction=True)
    pipe.zrange(_key(group, ".j"), 0, -1)
    pipe.get(_key(group, ".s"))
    pipe.get(_key(group, ".c"))
    pipe.smembers(_key(group, ".d"))
    entries, size, claim, ids = pipe.execute()
    outcomes: dict[str, Outcome] = {}
    bad: list[str] = []
    bad_tasks: set[str] = set()
    for entry in entries:
        task_id, outcome = _decode_part(entry)
        if outcome is None or outcome.reason in void:
            bad.append(entry)
            bad_tasks.add(task_id)
        else:
            outcomes[task_id] = outcome
    bad_ids = tuple(item for item in ids if item.rpartition(":")[0] in bad_tasks)
    return ChordState(outcomes, tuple(bad), bad_ids, size is not None, claim == "done")


def reset_parts(server: redis.Redis, group: str, parts: ChordState) -> None:
    """Have a chord count anew what it has counted and is no Outcome; all of it, if its body was sent."""
    pipe = server.pipeline(transaction=True)
    if parts.body_sent:
        # Nothing is counted in it meanwhile.
        pipe.delete(*(_key(group, kind) for kind in (".j", ".t", ".d", ".s")))
    elif parts.invalid:
        pipe.zrem(_key(group, ".j"), *parts.invalid)
        pipe.srem(_key(group, ".d"), *parts.invalid_ids)
    pipe.execute()


def _decode_part(entry: str) -> tuple[str, Outcome | None]:
    """Return a part's task and Outcome; none where the task had failed."""
    _, task_id, state, result = orjson.loads(entry)
    try:
        outcome = Outcome.from_json(result) if state == "SUCCESS" else None
    except (AttributeError, KeyError, TypeError, ValueError):
        outcome = None
    return task_id, outcome


def _queue_messages(server: redis.Redis, queue: str) -> Iterator[Any]:
    # What is sent meanwhile comes in at the left and moves the rest to the right: seen twice, never missed.
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
