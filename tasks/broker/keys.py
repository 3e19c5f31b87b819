"""Every Redis key of ours. Celery's and kombu's own keys are theirs.

==========================  ======  =====================================  =========================================
key                         type    life                                   written by, and what it holds
==========================  ======  =====================================  =========================================
imagefleet:run:ID           string  7 days; deleted when the run ends      the producer: the run's options as JSON
imagefleet:done:ID          list    7 days; deleted when the run ends      ``collect_shard``: a JSON object for each
                                                                           shard
imagefleet:progress:ID         hash    7 days; deleted when the run ends      the workers, a few times a second: sums of
                                                                           ``success``, ``failed``, ``unsaved``
                                                                           (failed because nothing could be saved),
                                                                           ``bytes``, and ``reason:REASON`` (failed
                                                                           for this reason)
imagefleet:crashes:ID       hash    7 days; deleted when the run ends      who buries a worker: task id -> how many
                                                                           workers died while they were at it
imagefleet:unfit:ID         hash    7 days; deleted when the run ends      workers that can't do the run: worker id ->
                                                                           JSON of ``kind`` (``storage`` or
                                                                           ``network``) and ``why``
imagefleet:workers          set     a worker's until it stopped, or died   each worker, every 3 s: its id
                                    and was buried
imagefleet:heartbeat:WORKER     string  15 s; deleted when the worker stops    the worker, every 3 s: the queues that it
                                                                           takes from, with commas between
imagefleet:running:WORKER     set     7 days; deleted when the worker        the worker: ids of the tasks that it is at
                                    stopped, or was buried                 and that were redelivered
unacked:WORKER              hash    while it holds something               the worker's transport, as kombu writes
                                                                           ``unacked``: delivery tag -> what it was
                                                                           given and has not acknowledged
unacked_index:WORKER        zset    while it holds something               likewise, as ``unacked_index``: delivery tag
                                                                           by the time of its delivery
unacked_mutex:WORKER        string  5 minutes at most                      likewise, as ``unacked_mutex``
==========================  ======  =====================================  =========================================

What the workers write of a run, they write only while its options stand: a late copy of a task makes no key again.
Losing all of them loses no record of an image: those are in the manifests.
"""

from __future__ import annotations

#: The ids of all workers that have not stopped.
WORKERS = "imagefleet:workers"
#: Where kombu records what is not acknowledged, and where what is no message of kombu's is put.
UNACKED, UNACKED_INDEX, DEAD_LETTER = "unacked", "unacked_index", "unacked_dead_letter"


def run(run_id: str) -> str:
    """Return the key of a run's options."""
    return f"imagefleet:run:{run_id}"


def done(run_id: str) -> str:
    """Return the key of the list of shards that are done."""
    return f"imagefleet:done:{run_id}"


def progress(run_id: str) -> str:
    """Return the key of the sums that the progress display reads."""
    return f"imagefleet:progress:{run_id}"


def crashes(run_id: str) -> str:
    """Return the key of the counts of workers that died at a task."""
    return f"imagefleet:crashes:{run_id}"


def unfit(run_id: str) -> str:
    """Return the key of the workers that can't do a run's work."""
    return f"imagefleet:unfit:{run_id}"


def run_keys(run_id: str) -> tuple[str, ...]:
    """Return all keys of a run."""
    return run(run_id), done(run_id), progress(run_id), crashes(run_id), unfit(run_id)


def heartbeat(worker: str) -> str:
    """Return the key of a worker's sign of life."""
    return f"imagefleet:heartbeat:{worker}"


def running(worker: str) -> str:
    """Return the key of the tasks that a worker is at, as far as it is watched at them."""
    return f"imagefleet:running:{worker}"


def worker_key(key: str, worker: str) -> str:
    """Return a worker's own key in place of one that kombu has for all."""
    return f"{key}:{worker}"
