"""A worker that counts each part once, as Celery does: a Redis that is away at that moment never hears of it."""

from __future__ import annotations

from contextlib import suppress

import redis

from tasks.backend import BatchingBackend, Part
from tasks.celery import app

__all__ = ["app"]
_count = BatchingBackend.count


def _once(self: BatchingBackend, parts: list[Part]) -> None:
    with suppress(redis.RedisError):
        _count(self, parts)


BatchingBackend.count = _once  # type: ignore[method-assign]
