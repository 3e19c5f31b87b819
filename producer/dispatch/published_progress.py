"""Publish the progress of a run in Redis, so that `producer status` can show it from elsewhere.

The producer replaces the progress every second. Redis removes it soon after the producer has stopped doing so, because
an old progress would look like a present one.
"""

from __future__ import annotations

import time
from typing import cast

import orjson
import redis

from producer.dispatch.progress import Progress
from tasks.broker import keys

#: Seconds between two publications.
_INTERVAL_SECONDS = 1.0
#: Seconds after which Redis removes a progress.
LIFETIME_SECONDS = 15


class ProgressPublisher:
    """Publishes the progress of one run."""

    def __init__(self, server: redis.Redis, run_id: str) -> None:
        self._server, self._run_id = server, run_id
        self._published_at: float | None = None

    def publish(self, progress: Progress) -> None:
        """Publish a progress, at most once a second.

        Raises:
            redis.RedisError: Redis is unreachable, or refuses the write.
        """
        now = time.monotonic()
        if self._published_at is None or now - self._published_at >= _INTERVAL_SECONDS:
            self._server.set(keys.status(self._run_id), orjson.dumps(progress), ex=LIFETIME_SECONDS)
            self._published_at = now


def read_progress(server: redis.Redis, run_id: str) -> Progress | None:
    """Return the progress that a run's producer has published in the last seconds; None if there is none.

    A progress that another version has published in another format counts as none.

    Raises:
        redis.RedisError: Redis is unreachable.
    """
    published = cast("str | None", server.get(keys.status(run_id)))
    if published is None:
        return None
    try:
        return Progress.from_json(orjson.loads(published))
    except (ValueError, KeyError, TypeError):
        return None
