"""A worker loses one part of a chord: it acknowledges the part's task without counting the part."""

from __future__ import annotations

from tasks.broker.backend import BatchingBackend, ChordPart
from tasks.celery import app
from tests.faults import once

__all__ = ["app"]
_count = BatchingBackend.count


def _lose_one(self: BatchingBackend, parts: list[ChordPart]) -> None:
    _count(self, parts[1:] if once.is_first() else parts)


BatchingBackend.count = _lose_one  # type: ignore[method-assign]
