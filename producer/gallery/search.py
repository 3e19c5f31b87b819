"""Find the images that a filter chooses, shard by shard, and only as far as a page needs them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from producer.gallery.image_filter import ImageFilter
from producer.gallery.run_folder import RunFolder


class Search:
    """The images that a filter chooses, in the order of the URL list. Threads may share it.

    For each shard, the search keeps only the number of chosen images. So its memory does not grow with the images.
    """

    def __init__(self, run: RunFolder, chosen: ImageFilter, numbers: Mapping[int, int] = MappingProxyType({})) -> None:
        """Begin a search. ``numbers`` are the numbers of chosen images in the shards that need not be read."""
        self._run, self._filter = run, chosen
        self._shards = run.state.shards
        #: The numbers of images found, by shard. A damaged shard has none, because it may be repaired.
        self._numbers = dict(numbers)
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
                self._ends.append(self.found + self._count(self._shards[self.searched]))

    def renewed(self) -> Search:
        """Return the search of the same filter after the run got further shards. It reads only the new shards."""
        return Search(self._run, self._filter, self._numbers)

    def images(self, start: int, stop: int) -> Iterator[tuple[int, int, list[int]]]:
        """Yield the shards of the images from position ``start`` to ``stop``.

        Each shard comes with the position of its first image and with the images' rows in the shard. Images in shards
        that are not searched yet are left out.
        """
        place = bisect_right(self._ends, start)
        while place < self.searched and start < stop:
            first = self._ends[place - 1] if place else 0
            shard = self._shards[place]
            if rows := self._rows(shard)[start - first : stop - first]:
                yield start, shard, rows
            start = self._ends[place]
            place = bisect_right(self._ends, start)

    def _count(self, shard: int) -> int:
        if shard not in self._numbers:
            table = self._run.rows(shard, self._filter.columns)
            if table is None:
                return 0
            self._numbers[shard] = len(self._filter.rows(table))
        return self._numbers[shard]

    def _rows(self, shard: int) -> list[int]:
        table = self._run.rows(shard, self._filter.columns)
        return [] if table is None else self._filter.rows(table)
