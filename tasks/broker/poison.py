"""The suspects: tasks that a worker was at when it died, counted, so that one that kills its worker is found.

An image can end its worker's whole process, and takes along what is in the other slots. Nothing is noted of a task that
is delivered for the first time: that would cost each image a round trip. One that was delivered before is watched: its
begin is noted in Redis under its worker's id, and its end takes the note away. Whoever buries a worker counts what is
noted there. A task with `ISOLATE_AFTER_CRASHES` of them is to be run alone; most are innocent neighbours, and are done
then. The body of a shard can't be run alone: with `ABANDON_AFTER_CRASHES` of them it is not begun any more.
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

#: So many counted crashes make a task run alone.
ISOLATE_AFTER_CRASHES = 2
#: So many keep a shard from being collected, which ends its run: more, as a neighbour's crash must not do that.
ABANDON_AFTER_CRASHES = 4
_COUNT_CRASH = Path(__file__).with_name("count_crash.lua").read_text(encoding="utf-8")


@contextmanager
def track_running(server: redis.Redis, worker: str, run_id: str, task_id: str) -> Iterator[int]:
    """Note that a worker is at a task while the block lasts; give how many workers have died at it.

    Raises:
        redis.RedisError: Redis is away, and the worker is told to stop.
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
        # A worker that stops takes its notes along.
        with suppress(redis.RedisError):
            retry_until_redis_is_back(lambda: server.srem(keys.running(worker), task_id))


def count_crashes(server: redis.Redis, worker: str) -> None:
    """Count the tasks that a dead worker was at; two who do it at once count each once."""
    noted = cast("set[str]", server.smembers(keys.running(worker)))
    with server.pipeline(transaction=False) as pipe:
        for task_id in noted:
            # A task's id begins with its run's.
            run_id = task_id.partition(".")[0]
            places: list[Any] = [keys.running(worker), keys.run(run_id), keys.crashes(run_id)]
            pipe.eval(_COUNT_CRASH, len(places), *places, task_id, limits.RUN_RECORD_TTL)
        pipe.execute()
