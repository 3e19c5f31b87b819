"""A worker tries only once to count a chord part, as Celery does.

If Redis is unreachable at that moment, the chord part is lost.
"""

from __future__ import annotations

from contextlib import suppress

import redis

from tasks.broker.backend import BatchingBackend, ChordPart
from tasks.celery import app

__all__ = ["app"]
_count = BatchingBackend.count


def _count_without_retry(self: BatchingBackend, parts: list[ChordPart]) -> None:
    with suppress(redis.RedisError):
        _count(self, parts)


BatchingBackend.count = _count_without_retry  # type: ignore[method-assign]
