"""A Redis that is away, or full: what a worker does until it is back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import redis
from celery.worker import state

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
#: Seconds between two tries.
_RETRY = 1.0


def patiently(step: Callable[[], _T]) -> _T:
    """Do a step that needs Redis, again and again until Redis is there; the step has to bear being done twice.

    A task that raised because Redis was away would be lost to its chord, and without Redis there is nothing else for a
    worker to do.

    Raises:
        redis.RedisError: the worker is told to stop. Its task stays unacknowledged, and another worker gets it.
    """
    while True:
        try:
            return step()
        except (redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError) as error:
            if stopping():
                raise
            _log.warning("waiting for Redis: %s", error)
            time.sleep(_RETRY)


def stopping() -> bool:
    """Tell whether this worker is told to stop."""
    # None or False unless it is; the exit status, which may be 0, if it is.
    return state.should_stop is not None and state.should_stop is not False
