"""Notify a run's producer that a shard was collected, or could not be collected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from config import limits
from tasks.broker import keys
from tasks.broker.redis_retry import retry_until_redis_is_back

_NOTIFY = Path(__file__).with_name("notify_shard_done.lua").read_text(encoding="utf-8")


def notify_shard_done(server: redis.Redis, run_id: str, message: Mapping[str, Any]) -> None:
    """Push a message to the list that the run's producer reads; retry while Redis is unreachable."""
    encoded = json.dumps(message)
    retry_until_redis_is_back(
        lambda: server.eval(_NOTIFY, 2, keys.run(run_id), keys.done(run_id), limits.RUN_RECORD_TTL, encoded)
    )
