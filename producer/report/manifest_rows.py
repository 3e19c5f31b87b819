"""Read the manifests of a run in batches, with only the columns for the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from producer.gallery.hosts import hosts
from producer.output.run_file import RunFile
from producer.output.shard_files import load_manifest
from tasks.storage.manifest import PHASE_COLUMNS
from tasks.storage.parallel import parallel_map
from tasks.storage.store import Store

#: The annotations of pyarrow lack functions of a column and a number.
pc: Any = pyarrow.compute
#: The columns of a manifest that the report needs, and their types. A manifest by an earlier version may lack some.
_COLUMNS: dict[str, pa.DataType] = {
    "url": pa.string(),
    "key": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "error_message": pa.string(),
    "path": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "format": pa.string(),
    "bytes": pa.int64(),
    "http_status": pa.int16(),
    "attempts": pa.int16(),
    "fetch_seconds": pa.float64(),
    "finished_at": pa.timestamp("ms", "UTC"),
    "worker": pa.string(),
    "recovered": pa.bool_(),
    **dict.fromkeys(PHASE_COLUMNS, pa.float32()),
}
#: Arrow's functions take a while to start, so they get many rows at once.
_BATCH_ROWS = 50_000
#: The name for the host of a URL that can't be downloaded.
NO_HOST = "(no host)"


def read_batches(shards: Sequence[int], record: RunFile, store: Store) -> Iterator[pa.Table]:
    """Yield the rows of shards in batches.

    Each row has the columns for the report, and these columns that are computed from them: ``host``, ``failed`` (0 or
    1), ``finished`` and ``started`` (milliseconds since the epoch).

    Raises:
        CommandError: a manifest is damaged.
    """
    pending: list[pa.Table] = []
    for table in parallel_map(lambda shard: _load(shard, record, store), shards, store):
        pending.append(table)
        if sum(each.num_rows for each in pending) >= _BATCH_ROWS:
            yield _with_computed(pa.concat_tables(pending))
            pending = []
    if pending:
        yield _with_computed(pa.concat_tables(pending))


def _load(shard: int, record: RunFile, store: Store) -> pa.Table:
    table = load_manifest(shard, store, record.id, list(_COLUMNS))
    for name, kind in _COLUMNS.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array([None] * table.num_rows, kind))
    return table.select(list(_COLUMNS)).cast(pa.schema(_COLUMNS))


def _with_computed(table: pa.Table) -> pa.Table:
    """Return rows with the computed columns."""
    rows: Any = table.combine_chunks()
    finished = rows["finished_at"].cast(pa.int64())
    spent = pc.cast(pc.round(pc.multiply(pc.fill_null(rows["fetch_seconds"], 0.0), 1000.0)), pa.int64())
    computed = {
        "host": pc.fill_null(hosts(rows["url"]), NO_HOST),
        "failed": pc.cast(pc.not_equal(rows["status"], "success"), pa.int64()),
        "finished": finished,
        "started": pc.subtract(finished, spent),
    }
    for name, column in computed.items():
        rows = rows.append_column(name, column)
    names = rows.column_names
    rows = rows.set_column(names.index("worker"), "worker", pc.fill_null(rows["worker"], "(none)"))
    found_rows: pa.Table = rows.set_column(names.index("bytes"), "bytes", pc.fill_null(rows["bytes"], 0))
    return found_rows
