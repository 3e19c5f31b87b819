"""Every Redis key of ours. Celery's and kombu's own keys are theirs.

=====================  ======  =====================================  ==============================================
key                    type    life                                   written by, and what it holds
=====================  ======  =====================================  ==============================================
imagefleet:run:ID      string  7 days; deleted when the run ends      the producer: the run's options as JSON
imagefleet:done:ID     list    7 days; deleted when the run ends      ``collect_shard``: a JSON object for each shard
imagefleet:moved:ID    hash    7 days; deleted when the run ends      the workers, a few times a second: sums of
                                                                      ``success``, ``failed``, ``unsaved`` (failed
                                                                      because nothing could be saved) and ``bytes``
=====================  ======  =====================================  ==============================================

What the workers write, they write only while the run's options stand: a late copy of a task makes no key again.
Losing all of them loses no record of an image: those are in the manifests.
"""

from __future__ import annotations


def run(run_id: str) -> str:
    """Return the key of a run's options."""
    return f"imagefleet:run:{run_id}"


def done(run_id: str) -> str:
    """Return the key of the list of shards that are done."""
    return f"imagefleet:done:{run_id}"


def moved(run_id: str) -> str:
    """Return the key of the sums that the progress display reads."""
    return f"imagefleet:moved:{run_id}"


def of_run(run_id: str) -> tuple[str, str, str]:
    """Return all keys of a run."""
    return run(run_id), done(run_id), moved(run_id)
