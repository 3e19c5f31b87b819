"""A worker that dies of each shard that it collects, as one does that runs out of memory."""

from __future__ import annotations

import os
from typing import Any

from tasks import jobs
from tasks.celery import app

__all__ = ["app"]


def _dying(*_: Any) -> None:
    os._exit(9)


jobs.collect = _dying  # type: ignore[assignment, attr-defined]  # the name under which the task calls it
