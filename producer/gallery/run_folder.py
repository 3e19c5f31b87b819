"""Read the manifests of a run, shard by shard. A damaged manifest is reported, and never ends the gallery."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from producer.formatting import list_names
from producer.output.run_file import RunFile, State
from producer.output.shard_files import load_manifest
from tasks.errors import CommandError
from tasks.storage import manifest
from tasks.storage.store import Store

#: The columns that each page shows.
TILE_COLUMNS = ("key", "status", "reason", "error_message", "format", "width", "height", "bytes", "path")
_MANIFEST = re.compile(r"([0-9]{5,})\.parquet")
#: The number of tables that stay in memory. Most pages need one or two shards. A page of rare images may need a shard
#: for each image.
_CACHED_TABLES = 60


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of a run when its folder was last read."""

    record: RunFile
    #: The numbers of the shards with a manifest, in order.
    shards: tuple[int, ...]

    def extends(self, before: RunState) -> bool:
        """Whether the run only got further shards. If its record has changed, a retry may have replaced manifests."""
        return self.record == before.record and set(self.shards) >= set(before.shards)


class RunFolder:
    """The manifests of a run. Threads may share it."""

    def __init__(self, store: Store) -> None:
        """Read the run's record, and list its manifests.

        Raises:
            UsageError: the folder holds no run.
            CommandError: the folder or the run's record can't be read.
        """
        self.store = store
        self.state = self._read_state(None)
        self._tables: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._damage: dict[int, str] = {}
        self._lock = threading.Lock()

    def refresh(self) -> bool:
        """Read the run's record and list its manifests again. Return whether anything has changed.

        Raises:
            UsageError, CommandError, StorageError: as in the constructor.
        """
        found = self._read_state(self.state)
        if found == self.state:
            return False
        with self._lock:
            self.state = found
            self._tables.clear()
            self._damage.clear()
        return True

    @property
    def damage(self) -> dict[int, str]:
        """The shards found damaged so far, each with an explanation."""
        with self._lock:
            return dict(self._damage)

    def rows(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Return these columns of a shard's manifest, or all columns. Return None if the manifest is damaged."""
        try:
            table = load_manifest(shard, self.store, self.state.record.id, columns)
        except CommandError as error:
            self._report(shard, str(error))
            return None
        if missing := set(TILE_COLUMNS if columns is None else columns) - set(table.column_names):
            self._report(shard, f"{self.store.describe(manifest.name(shard))} lacks the columns {list_names(missing)}")
            return None
        return table

    def recent_rows(self, shard: int, columns: Sequence[str]) -> pa.Table | None:
        """Return the same as `rows`. The tables of the last shards stay in memory."""
        key = (shard, tuple(columns))
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
        table = self.rows(shard, columns)
        if table is not None:
            with self._lock:
                self._tables[key] = table
                if len(self._tables) > _CACHED_TABLES:
                    self._tables.popitem(last=False)
        return table

    def _report(self, shard: int, text: str) -> None:
        with self._lock:
            self._damage[shard] = text

    def _read_state(self, before: RunState | None) -> RunState:
        record = RunFile.load_usable(self.store)
        if before is not None and before.record == record and record.state is State.COMPLETE:
            return before
        found = map(_MANIFEST.fullmatch, self.store.list_entries())
        return RunState(record, tuple(sorted(int(name[1]) for name in found if name)))
