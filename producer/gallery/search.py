"""Find the images that a filter chooses, shard by shard, and only as far as a page needs them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterator

from producer.gallery.image_filter import ImageFilter
from producer.gallery.run_folder import RunFolder


class Search:
    """The images that a filter chooses, in the order of the URL list. Threads may share it.

    For each shard, the search keeps only the number of chosen images. So its memory does not grow with the images.
    """

    def __init__(self, run: RunFolder, chosen: ImageFilter) -> None:
        self._run, self._filter = run, chosen
        self._shards = run.state.shards
        #: For each searched shard, the number of images found up to its end.
        self._ends: list[int] = []
        self._lock = threading.Lock()

    @property
    def found(self) -> int:
        """The number of images found so far."""
        return self._ends[-1] if self._ends else 0

    @property
    def searched(self) -> int:
        """The number of shards searched so far."""
        return len(self._ends)

    @property
    def is_complete(self) -> bool:
        """Whether all shards were searched."""
        return self.searched == len(self._shards)

    def advance(self, wanted: float, seconds: float) -> None:
        """Search until this many images are found, all shards are searched, or the time is over."""
        ends = time.monotonic() + seconds
        with self._lock:
            while self.found < wanted and not self.is_complete and time.monotonic() < ends:
                self._ends.append(self.found + len(self._rows(self._shards[self.searched])))

    def images(self, start: int, stop: int) -> Iterator[tuple[int, list[int]]]:
        """Yield the shards of the images from position ``start`` to ``stop``, with the images' rows in each shard.

        Images in shards that are not searched yet are left out.
        """
        place = bisect_right(self._ends, start)
        while place < self.searched and start < stop:
            first = self._ends[place - 1] if place else 0
            shard = self._shards[place]
            if rows := self._rows(shard)[start - first : stop - first]:
                yield shard, rows
            start = self._ends[place]
            place = bisect_right(self._ends, start)

    def _rows(self, shard: int) -> list[int]:
        table = self._run.rows(shard, self._filter.columns)
        return [] if table is None else self._filter.rows(table)
