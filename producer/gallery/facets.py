"""Count the images of a run by status, reason, format and host, for the gallery's form."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import Any

import pyarrow as pa

from producer.gallery.hosts import hosts
from producer.gallery.image_filter import CHOICES
from producer.gallery.run_folder import RunFolder

#: The number of hosts that the form suggests.
_SUGGESTED_HOSTS = 200
#: If there are more hosts, the rare ones among them are dropped, so that the counts do not fill the memory.
_MAX_HOSTS = 200_000


class Facets:
    """The number of images with each value. Threads may share it."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._counted: set[int] = set()
        #: The shards to count.
        self._open: deque[int] = deque(run.state.shards)
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in (*CHOICES, "host")}
        self._lock = threading.Lock()

    @property
    def is_complete(self) -> bool:
        """Whether all shards are counted."""
        return not self._open

    def advance(self, seconds: float) -> None:
        """Count until all shards are counted, or the time is over."""
        ends = time.monotonic() + seconds
        with self._lock:
            while not self.is_complete and time.monotonic() < ends:
                shard = self._open.popleft()
                table = self._run.rows(shard, (*CHOICES, "url"))
                if table is not None:
                    self._add(table)
                    self._counted.add(shard)

    def extend(self) -> None:
        """Also count the shards that the run got since. The other shards are not counted again."""
        with self._lock:
            self._open = deque(shard for shard in self._run.state.shards if shard not in self._counted)

    def counts(self) -> dict[str, dict[str, int]] | None:
        """Return the numbers of images by property and value, the most frequent first. None: not all are counted."""
        with self._lock:
            if not self.is_complete:
                return None
            limits = {"host": _SUGGESTED_HOSTS}
            return {name: dict(counts.most_common(limits.get(name))) for name, counts in self._counts.items()}

    def _add(self, table: pa.Table) -> None:
        columns: dict[str, Any] = {**{name: table[name] for name in CHOICES}, "host": hosts(table["url"])}
        for name, column in columns.items():
            counted = column.drop_null().value_counts().to_pylist()
            self._counts[name].update({item["values"]: item["counts"] for item in counted})
        if len(self._counts["host"]) > _MAX_HOSTS:
            self._counts["host"] = Counter(dict(self._counts["host"].most_common(_MAX_HOSTS // 2)))
