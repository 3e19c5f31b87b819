"""Limits shared by the producer and the workers, with the reason for each number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the greatest value of an option; None for no greatest value."""

    least: float
    greatest: float | None = None

    def __contains__(self, value: float) -> bool:
        return math.isfinite(value) and self.least <= value and (self.greatest is None or value <= self.greatest)

    def __str__(self) -> str:
        return f"at least {self.least:,g}" if self.greatest is None else f"from {self.least:,g} to {self.greatest:,g}"


def bounds_of(kind: type[Any], name: str) -> Bounds:
    """Return the bounds of a dataclass's field, which are written in the annotation of the field's type."""
    hint = get_type_hints(kind, include_extras=True)[name]
    options = (hint, *get_args(hint))
    bounds: Bounds = next(part.__metadata__[0] for part in options if get_origin(part) is Annotated)
    return bounds


#: Seconds until an unacknowledged message is redelivered to another worker. The timeout must exceed the longest time
#: that a task spends in a worker. This time has two parts: the wait behind prefetched tasks, and the task's own
#: deadline.
VISIBILITY_TIMEOUT = 600

#: Longest deadline of one delivery of a task, in seconds. The deadline is only a quarter of the visibility timeout,
#: because the task may first wait behind tasks that the worker prefetched earlier.
MAX_DEADLINE = VISIBILITY_TIMEOUT / 4

#: Longest wait, in seconds, that an image server may request. If a server requests a longer wait, the image is not
#: retried. If a slot can't be held for the whole wait, the task is requeued with the wait as its countdown. During the
#: countdown, a worker holds the task without acknowledging it. The limit is only a fifth of the visibility timeout,
#: because the task also waits behind other tasks after its countdown.
MAX_COUNTDOWN = VISIBILITY_TIMEOUT / 5

#: The number of tasks that a worker reserves for each slot, including the running task. A finished task counts as
#: reserved until it is acknowledged. With this number, a slot never waits for Redis, even while finished tasks wait to
#: be acknowledged in a batch. The last reserved task still starts long before the visibility timeout.
PREFETCH = 3

#: Default number of download slots per worker process; ``--concurrency`` overrides it.
CONCURRENCY = 16

#: The number of worker processes of a local fleet, and the number of download slots in each process.
FLEET_SIZE = Bounds(1, 256)

#: The number of images in a shard. A shard is one Celery chord.
SHARD_SIZE = Bounds(1, 10_000)

#: The number of shards in flight.
WINDOW = Bounds(1, 1000)

#: The number of further shards in flight that wait only for busy hosts. Their messages are in Redis.
PARKED_SHARDS = Bounds(0, 100_000)

#: The number of requests that one host gets at once.
HOST_CONCURRENCY = Bounds(1, 10_000)

#: The number of a TCP port to listen at.
PORT = Bounds(1, 65_535)

#: Seconds until a run's record in Redis expires, unless the producer renews the record.
RUN_RECORD_TTL = 7 * 24 * 3600

#: Seconds between two heartbeats of a worker, and between two checks for workers without a heartbeat.
HEARTBEAT_INTERVAL = 3

#: Seconds for which a worker counts as alive after its last heartbeat. The timeout is several heartbeat intervals long,
#: because a worker may miss a heartbeat on a busy machine or during a reconnect.
HEARTBEAT_TIMEOUT = 15

#: Seconds after which a dead worker's tasks are back in the queue if another worker is running. The number is the sum
#: of three times: the heartbeat timeout, the check interval of the other worker, and the time to requeue the tasks.
REDELIVERY_SECONDS = 20
