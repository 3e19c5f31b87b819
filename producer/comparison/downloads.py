"""The downloads of a way, each with its start and end, as the way's manifests record them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

#: The manifest columns needed for `read_downloads`.
COLUMNS = ["status", "attempts", "fetch_seconds", "finished_at", "worker"]
#: If a worker's clock differs from this machine's by more than these seconds, times of the two can't be compared.
_CLOCK_TOLERANCE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Download:
    """One download. Its start and end are in seconds since the start of its way."""

    start: float
    end: float
    worker: str
    saved: bool


@dataclass(frozen=True, slots=True)
class TimeShares:
    """The parts of a way's wall-clock time in seconds: before its first download, its downloads, and after the last."""

    before: float
    downloading: float
    after: float

    @property
    def outside(self) -> float:
        """The seconds outside the downloads."""
        return self.before + self.after


def read_downloads(manifests: Iterable[pa.Table], started_at: float) -> tuple[Download, ...]:
    """Return the downloads of a way in the order of their ends. Rows that were never requested have no download.

    Args:
        manifests: the way's manifests, with at least the columns `COLUMNS`.
        started_at: the start of the way in seconds since the epoch.
    """
    found = []
    for table in manifests:
        # As integers, because millions of datetimes would take long to create.
        ends = table["finished_at"].cast(pa.int64()).to_pylist()
        columns = (table[name].to_pylist() for name in ("fetch_seconds", "attempts", "worker", "status"))
        for end, seconds, attempts, worker, status in zip(ends, *columns, strict=True):
            if attempts:
                at = end / 1000 - started_at
                found.append(Download(at - seconds, at, worker or "", status == "success"))
    return tuple(sorted(found, key=lambda download: download.end))


def divide_time(downloads: Sequence[Download], wall_seconds: float) -> TimeShares | None:
    """Return the parts of a way's wall-clock time.

    Return None if there are no downloads, or if the clock of a worker on another machine differs too much.
    """
    if not downloads:
        return None
    first, last = min(download.start for download in downloads), downloads[-1].end
    if first < -_CLOCK_TOLERANCE_SECONDS or last > wall_seconds + _CLOCK_TOLERANCE_SECONDS:
        return None
    # Ends are rounded to milliseconds.
    first, last = max(first, 0.0), min(last, wall_seconds)
    return TimeShares(first, last - first, wall_seconds - last)


def leads_from(downloads: Sequence[Download], others: Sequence[Download]) -> int | None:
    """Return from which download on one way was ahead of another way, up to the end; None if it was not ahead then.

    The first download has the number 1. Both ways have the same number of downloads, in the order of their ends.
    """
    leads = None
    for number in range(min(len(downloads), len(others)), 0, -1):
        if downloads[number - 1].end >= others[number - 1].end:
            break
        leads = number
    return leads
