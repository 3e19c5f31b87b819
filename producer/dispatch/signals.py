"""Signals to a run's producer, in a Redis list: finished shards, errors of collect tasks, and cancellation."""

from __future__ import annotations

import json
from typing import Any, cast

import redis

from config import limits
from tasks.broker import keys

#: The signal that cancels a run.
CANCEL = {"cancel": True}


def read_signals(server: redis.Redis, run_id: str, seconds: float) -> list[dict[str, Any]]:
    """Take the signals for a run's producer from Redis. Wait at most this many seconds for the first signal."""
    key = keys.done(run_id)
    received: list[str] = []
    if seconds:
        first = cast("list[str] | None", server.blpop([key], timeout=seconds))
        if first is None:
            return []
        received.append(first[1])
    received += cast("list[str] | None", server.lpop(key, 1000)) or []
    return [json.loads(item) for item in received]


def request_cancel(server: redis.Redis, run_id: str) -> None:
    """Tell a run's producer to cancel the run."""
    server.rpush(keys.done(run_id), json.dumps(CANCEL))
    server.expire(keys.done(run_id), limits.RUN_RECORD_TTL)
