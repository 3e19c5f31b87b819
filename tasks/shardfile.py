"""A shard's file in Parquet that says whose it is: the plan and the manifest are such files. Pure.

What is read is checked: each page against its checksum, and the file against the run and shard that it is expected to
be of. A file that was cut, changed, or brought from another run is told, and never taken for the right one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

#: The plan's column of what a former run has of a URL; a Source's column of this name is kept under another.
FORMER = "imagefleet.former"
#: The columns of a plan that no manifest has.
OF_THE_PLAN = frozenset({"index", FORMER})
_KEY = b"imagefleet"
#: What Arrow raises of a file that is not whole; a name that is no UTF-8 is a bare ValueError.
_BROKEN = (pa.ArrowException, OSError, ValueError)


class BadShardFile(ValueError):
    """A file is not what was written."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose a file is: a run, one of its shards, and the pass of the run that wrote it (0, and 1… for retries)."""

    run_id: str
    shard: int
    revision: int = 0


def encode(table: pa.Table, mark: Mark) -> bytes:
    """Return a table as the Parquet file of a shard."""
    marked = table.replace_schema_metadata({_KEY: json.dumps(asdict(mark))})
    sink = pa.BufferOutputStream()
    pq.write_table(marked, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def decode(body: bytes, columns: Sequence[str] | None = None, of: Mark | None = None) -> pa.Table:
    """Return the table of a file, or only some of its columns.

    Args:
        body: the file.
        columns: their names; all without.
        of: what it has to be of, in whatever revision; not looked at without.

    Raises:
        BadShardFile: it is not whole, or not of that run and shard.
    """
    file = _opened(body)
    if of is not None:
        found = _mark(file)
        if found is None or (found.run_id, found.shard) != (of.run_id, of.shard):
            whose = "nobody's" if found is None else f"of shard {found.shard} of run {found.run_id or 'without a name'}"
            raise BadShardFile(f"it is {whose}, not of shard {of.shard} of run {of.run_id}")
    try:
        # Arrow's threads cost more than they save on a shard, and may abort a process that exits meanwhile.
        return file.read(None if columns is None else list(columns), use_threads=False)
    except _BROKEN as error:
        raise BadShardFile(f"not a whole Parquet file: {error}") from error


def revision(body: bytes) -> int:
    """Return the pass of the run that wrote a file.

    Raises:
        BadShardFile: it is not whole, or says nothing of it.
    """
    mark = _mark(_opened(body))
    if mark is None:
        raise BadShardFile("it does not say whose it is")
    return mark.revision


def _opened(body: bytes) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(body), page_checksum_verification=True)
    except _BROKEN as error:
        raise BadShardFile(f"not a whole Parquet file: {error}") from error


def _mark(file: pq.ParquetFile) -> Mark | None:
    try:
        return Mark(**json.loads((file.schema_arrow.metadata or {})[_KEY]))
    except (KeyError, TypeError, ValueError):
        return None
