"""Keep a run's record in Redis: the options for its workers. Without a record, workers drop the run's tasks."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import redis

from config import limits
from tasks.broker import keys
from tasks.model import RunOptions
from tasks.throttle.keys import parked_shards

#: Seconds between two writes that check whether Redis still has the record.
_CHECK_INTERVAL_SECONDS = 3.0
#: Seconds after which a record is always written again. The record expires much later.
_RENEW_INTERVAL_SECONDS = 3600.0


class RunRecord:
    """Keeps a run's record in Redis."""

    def __init__(self, options: RunOptions, server: redis.Redis) -> None:
        """Take the run's options, and its Redis."""
        self._options, self._server = options, server
        #: The times at which the record was last written, and at which it was last found in Redis.
        self._renewed_at = self._seen_at = 0.0

    def renew(self) -> bool:
        """Write the record: at the start, every hour, and when Redis has lost it.

        Returns:
            Whether Redis had lost the record.
        """
        now = time.monotonic()
        known = bool(self._renewed_at) and now - self._renewed_at < _RENEW_INTERVAL_SECONDS
        if known and now - self._seen_at <= _CHECK_INTERVAL_SECONDS:
            return False
        record = json.dumps(self._options.to_json())
        key, lifetime = keys.run(self._options.run_id), limits.RUN_RECORD_TTL
        # A read would also show whether the record exists. But some Redis servers refuse only writes: a full server, a
        # server that can't save, and a replica. Without this write, the producer would not learn why no image ends.
        if known and self._server.set(key, record, ex=lifetime, xx=True):
            self._seen_at = now
            return False
        self._server.set(key, record, ex=lifetime)
        self._renewed_at = self._seen_at = now
        return known

    def check_soon(self) -> None:
        """Make the next call of `renew` check Redis.

        Call this after a failure of Redis, because Redis may come back empty.
        """
        self._seen_at = 0.0

    def mark_draining(self) -> None:
        """Make the next call of `renew` mark the run as draining."""
        self._options = replace(self._options, draining=True)
        self._renewed_at = 0.0


def drop_run(server: redis.Redis, run_id: str) -> None:
    """Delete a run's keys, so that workers acknowledge its queued tasks without fetching."""
    server.delete(*keys.run_keys(run_id), parked_shards(run_id))
