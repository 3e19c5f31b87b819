"""Limits shared by the producer and the workers, with the reason for each number."""

from __future__ import annotations

#: Seconds until an unacknowledged message is redelivered to another worker. The timeout must exceed the longest time
#: that a task spends in a worker: the wait behind the prefetched tasks, plus the task's deadline.
VISIBILITY_TIMEOUT = 600

#: Longest deadline of one delivery, in seconds. It is a quarter of the visibility timeout, because the task may first
#: wait for tasks prefetched before it.
MAX_DEADLINE = VISIBILITY_TIMEOUT / 4

#: Longest wait, in seconds, that a server may request. After a request for a longer wait, the image is not retried. If
#: the wait is too long to hold a slot for, it becomes the task's countdown. During the countdown, a worker holds the
#: task unacknowledged. The limit is a fifth of the visibility timeout, because after its countdown the task also waits
#: behind other tasks.
MAX_COUNTDOWN = VISIBILITY_TIMEOUT / 5

#: Tasks reserved by a worker per slot, including the running one. A finished task counts as reserved until it is
#: acknowledged. The number is high enough that a slot never waits for Redis, even while finished tasks wait to be
#: acknowledged in a batch. It is low enough that the last reserved task starts long before the visibility timeout.
PREFETCH = 3

#: Default number of download slots per worker process; ``--concurrency`` overrides it.
CONCURRENCY = 16

#: Seconds until a run's record in Redis expires, unless the producer renews the record.
RUN_RECORD_TTL = 7 * 24 * 3600

#: Seconds between two heartbeats of a worker, and between two checks for workers without a heartbeat.
HEARTBEAT_INTERVAL = 3

#: Seconds for which a worker counts as alive after its last heartbeat. The timeout is several intervals long, because a
#: busy machine or a reconnect may skip a heartbeat.
HEARTBEAT_TIMEOUT = 15

#: Seconds after which a dead worker's tasks are back in the queue if another worker is running. This is the sum of the
#: heartbeat timeout, one interval between the other worker's checks, and the time to requeue.
REDELIVERY_SECONDS = 20
