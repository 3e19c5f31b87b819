"""A run's numbers are the sums of its manifests."""

from __future__ import annotations

import pyarrow as pa

from producer.output.summary import COLUMNS, Summary, summarise
from tasks.model import ImageRequest, Outcome, Reason, Status
from tasks.storage import manifest, plan
from tasks.storage.shard_parquet import ShardRef
from tests.unit.conftest import success

_MARK = ShardRef("", 0)


def table(*outcomes: Outcome) -> pa.Table:
    """Return a manifest of these Outcomes."""
    requests = [ImageRequest(place, "http://a.example/") for place in range(len(outcomes))]
    return manifest.decode(manifest.encode(plan.decode(plan.encode(requests, _MARK)), outcomes, _MARK), COLUMNS)


def test_sums() -> None:
    """Statuses, reasons and bytes are added up over all shards. The most frequent statuses and reasons come first."""
    lost = Outcome("1", Status.FAILED_TO_DOWNLOAD, Reason.DNS)
    blurred = Outcome("2", Status.FAILED_TO_RESIZE, Reason.NOT_IMAGE)
    summary = summarise([table(success(0, bytes=5), lost), table(lost, success(1, bytes=7), blurred, success(2))])
    assert summary == Summary(
        statuses={"success": 3, "failed_to_download": 2, "failed_to_resize": 1},
        reasons={"dns": 2, "not_image": 1},
        bytes=15,
        shards=2,
    )
    assert (summary.total, summary.success, summary.failed) == (6, 3, 3)
    assert list(summary.statuses) == ["success", "failed_to_download", "failed_to_resize"]


def test_counts_unchanged_images() -> None:
    """Images reused from a previous run are counted as reused. A failed 304 is not counted."""
    refused = Outcome("1", Status.FAILED_TO_DOWNLOAD, Reason.BAD_RESPONSE, http_status=304)
    saved = [success(place, http_status=status) for place, status in enumerate((304, 200, None, 304))]
    assert summarise([table(refused, *saved), table(success(0, http_status=304))]).unchanged == 3


def test_nothing_saved() -> None:
    """A run without saved images has 0 bytes and 0 successes."""
    summary = summarise([table(Outcome("1", Status.FAILED_TO_DOWNLOAD, Reason.TLS))])
    assert (summary.total, summary.success, summary.failed, summary.bytes) == (1, 0, 1, 0)


def test_sum_of_no_manifests() -> None:
    """The sum of no manifests is zero."""
    assert summarise([]) == Summary({}, {}, 0, 0)
