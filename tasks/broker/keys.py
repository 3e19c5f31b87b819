"""Name all Redis keys of imagefleet. Celery and kombu name their own keys.

===========================  ======  ===================================  ===========================================
key                          type    lifetime                             written by, and content
===========================  ======  ===================================  ===========================================
imagefleet:run:ID            string  7 days; deleted when the run ends    the producer: the run's options as JSON
imagefleet:done:ID           list    7 days; deleted when the run ends    ``collect_shard``: a JSON object for each
                                                                          shard
imagefleet:progress:ID       hash    7 days; deleted when the run ends    the workers, a few times a second: sums of
                                                                          ``success``, ``failed``, ``unsaved``
                                                                          (failed because the image could not be
                                                                          saved), ``bytes``, and ``reason:REASON``
                                                                          (failed for this reason)
imagefleet:status:ID         string  15 s; deleted when the run ends      the producer, every second: the run's progress
                                                                          as JSON, for `producer status`
imagefleet:crashes:ID        hash    7 days; deleted when the run ends    the process that removes a dead worker:
                                                                          task id -> number of workers that died
                                                                          while they ran it
imagefleet:unfit:ID          hash    7 days; deleted when the run ends    workers unable to do the run: worker id ->
                                                                          JSON of ``kind`` (``storage`` or
                                                                          ``network``) and ``why``
imagefleet:workers           set     a worker's id until it stops, or is  each worker, every 3 s: its id
                                     removed as dead
imagefleet:heartbeat:WORKER  string  15 s; deleted when the worker stops  the worker, every 3 s: its queues,
                                                                          separated by commas
imagefleet:running:WORKER    set     7 days; deleted when the worker      the worker: ids of the redelivered tasks
                                     stops, or is removed as dead         that it is running
imagefleet:robots:N:HOST     string  1 hour; 60 s if the server failed    the process that fetched the robots.txt of a
                                                                          host: its rules as JSON; N is `PROTOCOL`
imagefleet:fetching:N:HOST   string  30 s; deleted after the fetch        the process that is fetching this robots.txt
unacked:WORKER               hash    while the worker holds messages      the worker's transport, in the format of
                                                                          kombu's ``unacked``: delivery tag ->
                                                                          unacknowledged message
unacked_index:WORKER         zset    while the worker holds messages      likewise, as ``unacked_index``: delivery
                                                                          tag by time of delivery
unacked_mutex:WORKER         string  at most 5 minutes                    likewise, as ``unacked_mutex``
===========================  ======  ===================================  ===========================================

Workers write a run's keys only while the run's options exist, so a late copy of a task recreates no key. If all
these keys are lost, no image's record is lost, because the records are in the manifests.
"""

from __future__ import annotations

#: The ids of all workers that have not stopped.
WORKERS = "imagefleet:workers"
#: kombu's records of unacknowledged messages, and our list for messages not written by kombu.
UNACKED, UNACKED_INDEX, DEAD_LETTER = "unacked", "unacked_index", "unacked_dead_letter"


def run(run_id: str) -> str:
    """Return the key of a run's options."""
    return f"imagefleet:run:{run_id}"


def done(run_id: str) -> str:
    """Return the key of the list of completed shards."""
    return f"imagefleet:done:{run_id}"


def progress(run_id: str) -> str:
    """Return the key of the sums for the progress display."""
    return f"imagefleet:progress:{run_id}"


def status(run_id: str) -> str:
    """Return the key of the progress that a run's producer publishes for other commands."""
    return f"imagefleet:status:{run_id}"


def crashes(run_id: str) -> str:
    """Return the key of the crash counts. A task's count is the number of workers that died while they ran the task."""
    return f"imagefleet:crashes:{run_id}"


def unfit(run_id: str) -> str:
    """Return the key of the workers that are unfit for a run."""
    return f"imagefleet:unfit:{run_id}"


def run_keys(run_id: str) -> tuple[str, ...]:
    """Return all keys of a run."""
    return run(run_id), done(run_id), progress(run_id), status(run_id), crashes(run_id), unfit(run_id)


def heartbeat(worker: str) -> str:
    """Return the key of a worker's heartbeat."""
    return f"imagefleet:heartbeat:{worker}"


def running(worker: str) -> str:
    """Return the key of the redelivered tasks that a worker is running."""
    return f"imagefleet:running:{worker}"


def robots(protocol: int, host: str) -> str:
    """Return the key of the rules in a host's robots.txt. The host is like ``https://a.example``.

    For runs that do not verify servers, the host begins with ``insecure``. Workers of another protocol may write the
    rules in another format.
    """
    return f"imagefleet:robots:{protocol}:{host}"


def robots_claim(protocol: int, host: str) -> str:
    """Return the key that exists while a process fetches a host's robots.txt; the host is that of `robots`."""
    return f"imagefleet:fetching:{protocol}:{host}"


def worker_key(key: str, worker: str) -> str:
    """Return a worker's own key, which replaces the key that kombu shares among all workers."""
    return f"{key}:{worker}"
