"""Count worker crashes for each task, to find poison messages.

An image can kill its worker's whole process, and then the tasks in the other slots end too. A task's first delivery is
not recorded, because that would cost a round trip for each image. While a worker runs a redelivered task, the task's id
is in a Redis set under the worker's id. When a process removes a dead worker, it counts a crash for each task in that
worker's set. A task with `ISOLATE_AFTER_CRASHES` crashes runs in a separate process. Most tasks with a counted crash
did not cause the crash. Such a task was merely running when a poison message killed the worker. The task succeeds in
the separate process. A shard's collect task can't be isolated. After `ABANDON_AFTER_CRASHES` crashes, workers no longer
start the collect task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import redis

from config import limits
from tasks.broker import keys
from tasks.broker.redis_retry import retry_until_redis_is_back

#: Number of crashes after which a task runs in a separate process.
ISOLATE_AFTER_CRASHES = 2
#: Number of crashes after which a shard is not collected again. The shard's run then ends. The number is higher than
#: `ISOLATE_AFTER_CRASHES`, because crashes caused by tasks in the worker's other slots must not end a run.
ABANDON_AFTER_CRASHES = 4
_COUNT_CRASH = Path(__file__).with_name("count_crash.lua").read_text(encoding="utf-8")


@contextmanager
def track_running(server: redis.Redis, worker: str, run_id: str, task_id: str) -> Iterator[int]:
    """Record a task as running in a worker while the block runs; yield the task's number of crashes so far.

    Raises:
        redis.RedisError: Redis is unreachable and the worker is stopping.
    """

    def begin() -> int:
        with server.pipeline() as pipe:
            pipe.sadd(keys.running(worker), task_id)
            pipe.expire(keys.running(worker), limits.RUN_RECORD_TTL)
            pipe.hget(keys.crashes(run_id), task_id)
            return int(pipe.execute()[-1] or 0)

    crashes = retry_until_redis_is_back(begin)
    try:
        yield crashes
    finally:
        # A stopping worker deletes all its records anyway.
        with suppress(redis.RedisError):
            retry_until_redis_is_back(lambda: server.srem(keys.running(worker), task_id))


def count_crashes(server: redis.Redis, worker: str) -> None:
    """Count a crash for each task that a dead worker was running.

    Even if two processes do this, each crash counts only once.
    """
    task_ids = cast("set[str]", server.smembers(keys.running(worker)))
    with server.pipeline(transaction=False) as pipe:
        for task_id in task_ids:
            # A task's id begins with its run's id.
            run_id = task_id.partition(".")[0]
            script_keys: list[Any] = [keys.running(worker), keys.run(run_id), keys.crashes(run_id)]
            pipe.eval(_COUNT_CRASH, len(script_keys), *script_keys, task_id, limits.RUN_RECORD_TTL)
        pipe.execute()
