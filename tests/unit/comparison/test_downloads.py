"""The manifests say when each download began and ended, and the downloads say where a way's time went."""

from __future__ import annotations

import pytest

from producer.comparison.downloads import Download, TimeShares, divide_time, leads_from, read_downloads
from tasks.model import ImageRequest, Outcome, Reason, Status
from tasks.storage import manifest, plan
from tasks.storage.shard_parquet import ShardRef

_STARTED_AT = 1_700_000_000.0


def _downloads(*times: tuple[float, float]) -> list[Download]:
    return [Download(start, end, "worker-1", True) for start, end in times]


def test_manifests_give_the_downloads() -> None:
    """A download starts its seconds before its end. A row that was never requested has no download."""
    ref = ShardRef("", 0)
    outcomes = [
        Outcome("0", Status.SUCCESS, attempts=1, fetch_seconds=0.5, finished_at=_STARTED_AT + 2, worker="worker-2"),
        Outcome("1", Status.FAILED_TO_DOWNLOAD, Reason.DUPLICATE, finished_at=_STARTED_AT + 0.1),
        Outcome(
            "2",
            Status.FAILED_TO_DOWNLOAD,
            Reason.TIMEOUT,
            attempts=3,
            fetch_seconds=0.25,
            finished_at=_STARTED_AT + 1.125,
            worker="worker-1",
        ),
    ]
    table = plan.decode(plan.encode([ImageRequest(index, "") for index in range(3)], ref))
    found = read_downloads([manifest.decode(manifest.encode(table, outcomes, ref))], _STARTED_AT)
    assert found == (Download(0.875, 1.125, "worker-1", False), Download(1.5, 2.0, "worker-2", True))


def test_time_is_divided() -> None:
    """The three parts add up to the wall-clock time. The parts before and after are those without a download."""
    assert divide_time(_downloads((0.25, 1.0), (0.5, 2.0)), 2.5) == TimeShares(0.25, 1.75, 0.5)
    assert divide_time(_downloads((-0.0005, 1.0)), 1.5) == TimeShares(0.0, 1.0, 0.5)


@pytest.mark.parametrize("times", [(), ((-0.5, 1.0),), ((0.5, 3.0),)])
def test_time_is_unknown(times: tuple[tuple[float, float], ...]) -> None:
    """Without downloads, or if a worker's clock differs, no parts are reported."""
    assert divide_time(_downloads(*times), 2.5) is None


@pytest.mark.parametrize(
    ("ends", "number"), [((4.0, 5.0, 6.0), None), ((0.5, 0.6, 0.7), 1), ((2.0, 1.5, 2.5), 2), ((0.5, 1.0, 4.0), None)]
)
def test_lead(ends: tuple[float, ...], number: int | None) -> None:
    """A way leads from the first download after which it stays ahead up to the end of the list."""
    others = _downloads((0.0, 1.0), (0.0, 2.0), (0.0, 3.0))
    assert leads_from(_downloads(*((0.0, end) for end in ends)), others) == number
