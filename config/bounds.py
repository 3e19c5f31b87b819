"""The bounds that the producer and the workers must agree on, with the reason for each number."""

from __future__ import annotations

#: Seconds after which Redis hands an unacknowledged message to another worker. It must exceed the longest stay of a
#: task in a worker: the wait behind what is prefetched, plus its deadline.
VISIBILITY_TIMEOUT = 600

#: The longest deadline of one delivery, in seconds. A quarter of the visibility timeout leaves room for the tasks
#: that a worker prefetched ahead of it.
MAX_DEADLINE = VISIBILITY_TIMEOUT / 4

#: The longest wait that a server may ask for, in seconds, after which its image is asked for again; one that is too
#: long for a slot is a countdown of its task, which a worker holds unacknowledged. A fifth of the visibility timeout:
#: the task still waits behind others when its countdown is over.
MAX_COUNTDOWN = VISIBILITY_TIMEOUT / 5

#: Tasks that a worker reserves for each slot, with the one that runs: enough that a slot never waits for Redis, also
#: while what is done waits to be settled, which counts among them; few enough that the last of them begins long before
#: the visibility timeout.
PREFETCH = 3

#: Download slots of a worker process, unless ``--concurrency`` says otherwise.
CONCURRENCY = 16

#: Seconds that a run's record stays in Redis without its producer renewing it.
RECORD_LIFETIME = 7 * 24 * 3600

#: Seconds between two signs of life of a worker, and two looks for workers that give none.
WORKER_BEAT = 3

#: Seconds after its last sign of life for which a worker counts as alive: several beats, as a machine that is busy or a
#: connection that is made anew may swallow one.
WORKER_LIFETIME = 15

#: Seconds within which the tasks of a worker that died are with their queue again, where another worker is up: its
#: life time, a beat of the other one, and the handing over.
HANDED_BACK = 20
