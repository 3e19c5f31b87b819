"""The images that earlier commands have finished come from the manifests, and from Outcomes without a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest

from producer.dispatch.earlier_images import EarlierImages
from producer.dispatch.revision_requests import RevisionRequests
from tasks.errors import CommandError
from tasks.model import ImageRequest, Outcome, Reason, RunOptions
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.unit.conftest import success

_SIZE = 3
_OPTIONS = RunOptions("/out", _SIZE, run_id="run")


def failed(shard: int, place: int, reason: Reason) -> Outcome:
    """Return the Outcome of a failed image."""
    return Outcome(f"{shard:05d}{place}", reason.status, reason, attempts=1, finished_at=100.0)


def write(store: LocalStore, shard: int, outcomes: Sequence[Outcome], revision: int = 0) -> None:
    """Write the manifest of a shard."""
    requests = [ImageRequest(shard * _SIZE + place, f"http://a.example/{place}") for place in range(len(outcomes))]
    planned = plan.decode(plan.encode(requests, ShardRef("run", shard)))
    store.replace(manifest.name(shard), manifest.encode(planned, outcomes, ShardRef("run", shard, revision)))


def earlier_images(store: LocalStore, revision: int = 0, retried: Sequence[Reason] = ()) -> EarlierImages:
    """Return the earlier images of a run, before any image is counted."""
    return EarlierImages(RevisionRequests(replace(_OPTIONS, revision=revision), store, retried), store)


def counts(earlier: EarlierImages) -> tuple[int, int, int, dict[str, int]]:
    """Return all numbers."""
    assert earlier.total == earlier.success + earlier.failed
    return earlier.success, earlier.failed, earlier.bytes, dict(earlier.reasons)


def test_counts_each_image_once(store: LocalStore) -> None:
    """All existing manifests count at once, also those behind a gap. A shard that is counted again changes nothing."""
    write(store, 0, [success(0, bytes=5), failed(0, 1, Reason.DNS)])
    write(store, 2, [success(0, bytes=7), failed(2, 1, Reason.TIMEOUT)])
    earlier = earlier_images(store)
    for _ in range(2):
        earlier.count_all(3)
    earlier.count_shard(2)
    assert counts(earlier) == (2, 2, 12, {"dns": 1, "timeout": 1})
    write(store, 1, [success(0, bytes=1)])
    for _ in range(2):
        earlier.count_shard(1)
    earlier.add([success(0, bytes=9), failed(3, 1, Reason.DNS)])
    assert counts(earlier) == (4, 3, 22, {"dns": 2, "timeout": 1})
    # JSON can encode the names of the reasons.
    assert orjson.loads(orjson.dumps(dict(earlier.reasons))) == {"dns": 2, "timeout": 1}


def test_leaves_out_images_to_retry(store: LocalStore) -> None:
    """In a later revision, the failures to retry are open, until their shard has a manifest of this revision."""
    write(store, 0, [success(0, bytes=5), failed(0, 1, Reason.DNS), failed(0, 2, Reason.NOT_IMAGE)])
    write(store, 1, [success(0, bytes=7), failed(1, 1, Reason.DNS)], revision=1)
    earlier = earlier_images(store, 1, [Reason.DNS])
    earlier.count_all(2)
    assert counts(earlier) == (2, 2, 12, {"not_image": 1, "dns": 1})


def test_damaged_manifest_is_an_error(store: LocalStore) -> None:
    """A damaged manifest is named."""
    store.replace(manifest.name(0), b"damaged")
    with pytest.raises(CommandError, match=r"00000\.parquet is unusable"):
        earlier_images(store).count_all(1)
