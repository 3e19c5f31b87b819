"""Limits shared by the producer and the workers, with the reason for each number."""

from __future__ import annotations

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
