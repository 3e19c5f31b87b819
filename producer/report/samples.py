"""Choose rows for the page: the slowest images, failed images, and saved images spread over the run."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute

from tasks.storage.manifest import PHASE_COLUMNS

#: The annotations of pyarrow lack functions of a column and a number.
pc: Any = pyarrow.compute
#: The maximum numbers of rows of each kind on the page.
MOST_SLOW, MOST_FAILED, MOST_IMAGES = 100, 1000, 120
#: The maximum number of failed images with the same reason. It is lower if there are many reasons.
_MOST_FAILED_BY_REASON = 250
#: Up to this many images, every image is shown in the timeline of its worker.
MOST_TIMED = 600
_SLOW_COLUMNS = ["key", "url", "status", "reason", "fetch_seconds", "attempts", "bytes", "worker", *PHASE_COLUMNS]
_FAILED_COLUMNS = ["key", "url", "reason", "error_message", "http_status", "attempts", "fetch_seconds", "worker"]
_IMAGE_COLUMNS = ["key", "url", "path", "bytes", "width", "height", "format"]
_TIMED_COLUMNS = ["key", "status", "reason", "started", "finished", "worker"]

Row = dict[str, Any]
_Item = TypeVar("_Item")


def spread(items: list[_Item], most: int) -> list[_Item]:
    """Return at most this many of the items, at equal distances."""
    if len(items) <= most:
        return items
    return [items[place * len(items) // most] for place in range(most)]


class Samples:
    """Rows for the page. Their number does not grow with the number of images."""

    def __init__(self) -> None:
        #: The slowest images, the slowest first.
        self.slowest: list[Row] = []
        #: All images, for the timeline; empty if there are too many.
        self.timed: list[Row] = []
        #: The first failed images of each reason.
        self._by_reason: defaultdict[str, list[Row]] = defaultdict(list)
        #: Every n-th saved image, in the order of the list. n doubles when there are too many.
        self._images: list[Row] = []
        self._every, self._saved, self._rows = 1, 0, 0

    def add(self, rows: pa.Table) -> None:
        """Choose from a batch of rows, as `read_batches` yields them."""
        self._add_slowest(rows)
        self._add_failed(rows.filter(pc.equal(rows["failed"], 1)))
        self._add_images(rows.filter(pc.equal(rows["failed"], 0)))
        self._rows += rows.num_rows
        if self._rows <= MOST_TIMED:
            self.timed += rows.select(_TIMED_COLUMNS).to_pylist()
        else:
            self.timed = []

    @property
    def most_of_a_reason(self) -> int:
        """The maximum number of rows in `failed` with the same reason, so that all reasons fit on the page."""
        numbers = [len(rows) for rows in self._by_reason.values()]
        limits = range(_MOST_FAILED_BY_REASON, 1, -1)
        return next((most for most in limits if sum(min(number, most) for number in numbers) <= MOST_FAILED), 1)

    @property
    def failed(self) -> list[Row]:
        """Failed images in the order of the list. Each reason has at least one."""
        most = self.most_of_a_reason
        rows = (row for found in self._by_reason.values() for row in found[:most])
        # The keys of shards from 100,000 on are longer.
        return sorted(rows, key=lambda row: (len(row["key"]), row["key"]))

    @property
    def images(self) -> list[Row]:
        """Saved images, spread evenly over the run."""
        return spread(self._images, MOST_IMAGES)

    def _add_slowest(self, rows: pa.Table) -> None:
        order = pc.sort_indices(pc.fill_null(rows["fetch_seconds"], 0.0), sort_keys=[("", "descending")])
        found = rows.take(order[:MOST_SLOW]).select(_SLOW_COLUMNS).to_pylist()
        self.slowest = sorted([*self.slowest, *found], key=lambda row: -(row["fetch_seconds"] or 0.0))[:MOST_SLOW]

    def _add_failed(self, rows: pa.Table) -> None:
        for reason in pc.unique(rows["reason"]).to_pylist():
            found = self._by_reason[reason]
            if wanted := _MOST_FAILED_BY_REASON - len(found):
                found += rows.filter(pc.equal(rows["reason"], reason)).select(_FAILED_COLUMNS)[:wanted].to_pylist()

    def _add_images(self, rows: pa.Table) -> None:
        first = -self._saved % self._every
        chosen = list(range(first, rows.num_rows, self._every))
        self._saved += rows.num_rows
        if chosen:
            self._images += rows.select(_IMAGE_COLUMNS).take(chosen).to_pylist()
        while len(self._images) > 2 * MOST_IMAGES:
            self._images = self._images[::2]
            self._every *= 2
