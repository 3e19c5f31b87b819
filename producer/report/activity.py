"""Count what each worker finished, and how many downloads it had in flight, in bins of time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute

#: The annotations of pyarrow lack functions of a column and a number.
pc: Any = pyarrow.compute
#: The first width of a bin in milliseconds. It doubles whenever there would be too many bins.
_FIRST_WIDTH, _MOST_BINS = 10, 400


@dataclass(frozen=True, slots=True)
class WorkerActivity:
    """What a worker did: its totals, and its values in each bin."""

    name: str
    images: int
    failed: int
    bytes: int
    #: Seconds from the start of the first bin to the start of its first download, and to the end of its last one.
    first: float
    last: float
    finished_by_bin: Sequence[int]
    failed_by_bin: Sequence[int]
    bytes_by_bin: Sequence[int]
    #: The mean number of downloads in flight.
    busy_by_bin: Sequence[float]


@dataclass(frozen=True, slots=True)
class Activity:
    """What all workers did, in bins of equal width."""

    #: The start of the first bin, in seconds since the epoch.
    start: float
    bin_seconds: float
    bins: int
    #: The workers in the order of their first downloads.
    workers: Sequence[WorkerActivity]
    #: The number of images that were finished before the period shown.
    earlier: int

    @property
    def seconds(self) -> float:
        """The whole period in seconds."""
        return self.bin_seconds * self.bins

    def total(self, name: str) -> list[float]:
        """Return the sums over all workers in each bin, for ``finished``, ``failed``, ``bytes`` or ``busy``."""
        columns = [getattr(worker, f"{name}_by_bin") for worker in self.workers]
        return [float(sum(values)) for values in zip(*columns, strict=True)]


class ActivityCounter:
    """Adds up the activity of workers. Its memory does not grow with the number of images."""

    def __init__(self, since: float = 0.0) -> None:
        """Take a time in seconds since the epoch. Images that were finished earlier are only counted."""
        self._since, self._width = round(since * 1000), _FIRST_WIDTH
        self._earlier = 0
        self._least: int | None = None
        self._greatest = 0
        #: By worker and bin: finished images, failed images, bytes, and started images.
        self._counts: dict[tuple[str, int], list[int]] = {}
        #: By worker: the first start and the last end, in milliseconds since the epoch.
        self._ends: dict[str, list[int]] = {}

    def add(self, rows: pa.Table) -> None:
        """Count a batch of rows, as `read_batches` yields them."""
        shown = rows.filter(pc.greater_equal(rows["finished"], self._since))
        self._earlier += rows.num_rows - shown.num_rows
        if not shown.num_rows:
            return
        # A retried image's seconds include earlier deliveries, so it can seem to start before the command.
        started = pc.max_element_wise(shown["started"], self._since)
        shown = shown.select(["worker", "finished", "failed", "bytes"]).append_column("started", started)
        self._widen(pc.min(started).as_py(), pc.max(shown["finished"]).as_py())
        sums: Any = [("failed", "count"), ("failed", "sum"), ("bytes", "sum")]
        self._count(shown, "finished", sums, 0)
        self._count(shown, "started", [("failed", "count")], 3)
        groups = shown.group_by("worker", use_threads=False).aggregate([("started", "min"), ("finished", "max")])
        for row in groups.to_pylist():
            ends = self._ends.setdefault(row["worker"], [row["started_min"], row["finished_max"]])
            ends[:] = min(ends[0], row["started_min"]), max(ends[1], row["finished_max"])

    def _count(self, rows: pa.Table, time: str, sums: Any, place: int) -> None:
        """Add sums of rows to the counts, by worker and the bin of a time."""
        keyed = rows.append_column("bin", pc.divide(rows[time], self._width))
        names = [f"{column}_{function}" for column, function in sums]
        for row in keyed.group_by(["worker", "bin"], use_threads=False).aggregate(sums).to_pylist():
            counts = self._counts.setdefault((row["worker"], row["bin"]), [0, 0, 0, 0])
            for offset, name in enumerate(names):
                counts[place + offset] += row[name]

    def _widen(self, least: int, greatest: int) -> None:
        """Extend the period to two times in milliseconds, and double the width of bins as often as needed."""
        self._least = least if self._least is None else min(self._least, least)
        self._greatest = max(self._greatest, greatest)
        while self._greatest // self._width - self._least // self._width >= _MOST_BINS:
            self._width *= 2
            merged: defaultdict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
            for (worker, bin_), counts in self._counts.items():
                into = merged[worker, bin_ // 2]
                into[:] = map(sum, zip(into, counts, strict=True))
            self._counts = dict(merged)

    def result(self) -> Activity:
        """Return the activity so far."""
        if self._least is None:
            return Activity(self._since / 1000, self._width / 1000, 0, (), self._earlier)
        first = self._least // self._width
        bins = self._greatest // self._width - first + 1
        by_worker: dict[str, list[list[int]]] = {
            name: [[0, 0, 0, 0] for _ in range(bins)] for name in sorted(self._ends, key=self._ends.__getitem__)
        }
        for (name, bin_), counts in self._counts.items():
            by_worker[name][bin_ - first] = counts
        start = first * self._width
        workers = [self._worker(name, counts, start) for name, counts in by_worker.items()]
        return Activity(start / 1000, self._width / 1000, bins, workers, self._earlier)

    def _worker(self, name: str, counts: list[list[int]], start: int) -> WorkerActivity:
        finished, failed, size, started = (list(column) for column in zip(*counts, strict=True))
        # The number in flight at the end of each bin. The mean of a bin is about the mean of its two ends.
        at_end = [begun - ended for begun, ended in zip(accumulate(started), accumulate(finished), strict=True)]
        busy = [(before + after) / 2 for before, after in zip([0, *at_end], at_end, strict=False)]
        first, last = ((time - start) / 1000 for time in self._ends[name])
        return WorkerActivity(name, sum(finished), sum(failed), sum(size), first, last, finished, failed, size, busy)
