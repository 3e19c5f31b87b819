"""A retry takes the failed images of a shard, and first those that were never tried."""

from __future__ import annotations

from dataclasses import replace

from producer.dispatch.revision_requests import RevisionRequests
from tasks.collect import collect
from tasks.model import ImageRequest, Outcome, Reason, RunOptions
from tasks.storage import plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef


def test_images_that_were_never_tried_come_first(store: LocalStore) -> None:
    """The images of a host that was given up come first, in the order of the list, and then those with attempts."""
    run = RunOptions(str(store.root), 10, run_id="run")
    requests = [ImageRequest(index, f"http://a.example/{index}.jpg") for index in range(5)]
    store.create_durably(plan.name(0), plan.encode(requests, ShardRef("run", 0)))
    resting, timeout = Reason.HOST_RESTING, Reason.TIMEOUT
    failed = [(timeout, 3), (resting, 0), (Reason.NOT_IMAGE, 1), (resting, 1), (resting, 0)]
    outcomes = [
        Outcome(f"00000{place}", reason.status, reason, attempts=attempts)
        for place, (reason, attempts) in enumerate(failed)
    ]
    collect(0, outcomes, run, store)
    chosen = RevisionRequests(replace(run, revision=1), store, [resting, timeout]).load(0)
    assert [request.index for request in chosen] == [1, 4, 0, 3]
