"""A worker that loses a chord's part: it is acknowledged, and was never counted."""

from __future__ import annotations

from tasks.backend import BatchingBackend, Part
from tasks.celery import app
from tests.faults import once

__all__ = ["app"]
_count = BatchingBackend.count


def _losing(self: BatchingBackend, parts: list[Part]) -> None:
    _count(self, parts[1:] if once.strikes() else parts)


BatchingBackend.count = _losing  # type: ignore[method-assign]
