"""A Redis that can't be used for a while: what a worker does until it can."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import redis
from celery.worker import state

from tasks.broker.redis_errors import redis_problem
from tasks.file_descriptors import IDLE_CONNECTIONS, is_exhausted

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
#: Seconds between two tries.
_RETRY_SECONDS = 1.0


def retry_until_redis_is_back(step: Callable[[], _T]) -> _T:
    """Do a step that needs Redis, and repeat it until Redis does its part; the step must be safe to repeat.

    A task that raised because of Redis would be lost to its chord, and without Redis there is nothing else for a worker
    to do. It waits for lasting errors as well: they are mended at the server, and the log says how.

    Raises:
        redis.RedisError: the worker is told to stop. Its task stays unacknowledged, and another worker gets it.
    """
    while True:
        try:
            return step()
        except redis.RedisError as error:
            problem = redis_problem(error)
            if is_exhausted(error):
                IDLE_CONNECTIONS.close_oldest(1)
            if worker_is_stopping():
                raise
            _log.warning("%s. %s", problem.note, problem.hint)
            time.sleep(_RETRY_SECONDS)


def worker_is_stopping() -> bool:
    """Tell whether this worker is told to stop."""
    # None or False unless it is; the exit status, which may be 0, if it is.
    return state.should_stop is not None and state.should_stop is not False
