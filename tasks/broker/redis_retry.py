"""Retry a worker's Redis operations while Redis is unreachable or answers with an error."""

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
#: Seconds between two attempts.
_RETRY_SECONDS = 1.0


def retry_until_redis_is_back(step: Callable[[], _T]) -> _T:
    """Repeat a step until Redis executes it; the step must be idempotent.

    If a task raised the Redis error instead of retrying, the task's chord would never complete. Waiting costs nothing,
    because a worker has nothing to do without Redis. Permanent errors are retried as well, because a person can fix
    them at the server while the worker waits. The log says how.

    Raises:
        redis.RedisError: the worker is stopping. The worker's current task stays unacknowledged, and another worker
        gets the task.
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
    """Return whether this worker has been told to stop."""
    # Celery's `should_stop` is None or False while the worker runs. After a request to stop, it is the exit status,
    # which may be 0.
    return state.should_stop is not None and state.should_stop is not False
