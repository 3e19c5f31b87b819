"""One header task of the worker raises an exception, so its chord part counts as failed."""

from __future__ import annotations

from typing import Any

from tasks import jobs
from tasks.celery import app
from tests.faults import once

__all__ = ["app"]
_fetch = jobs.fetch  # type: ignore[attr-defined]  # the task calls it by this name


def _raise_or_fetch(*arguments: Any, **options: Any) -> Any:
    if once.is_first():
        raise RuntimeError("a deliberate fault")
    return _fetch(*arguments, **options)


jobs.fetch = _raise_or_fetch  # type: ignore[attr-defined]
