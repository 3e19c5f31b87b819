"""A worker whose header task raises, so that its part is counted as failed."""

from __future__ import annotations

from typing import Any

from tasks import jobs
from tasks.celery import app
from tests.faults import once

__all__ = ["app"]
_fetch = jobs.fetch  # type: ignore[attr-defined]  # the name under which the task calls it


def _raising(*arguments: Any, **options: Any) -> Any:
    if once.strikes():
        raise RuntimeError("a fault on purpose")
    return _fetch(*arguments, **options)


jobs.fetch = _raising  # type: ignore[attr-defined]
