"""A shard's file in Parquet that says whose it is: the plan and the manifest are such files. Pure.

What is read is checked, whichever columns of it are wanted: the whole file against a checksum of all its bytes, and
against the run and shard that it is expected to be of. A file that was cut, changed, or brought from another run is
told, and never taken for the right one.

The checksum is a SHA-256 in the file's own metadata, of the file with zeros in its place. It costs a fifth of what four
columns of a thousand rows take to read (0.08 of 0.43 ms), where reading all columns to check their pages costs five
times as much as they do (2.1 ms): of 100,000 manifests that is 8 s, not three minutes more. Pages have checksums of
their own, for other tools.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

#: The plan's column of what a former run has of a URL; a Source's column of this name is kept under another.
FORMER = "imagefleet.former"
#: The columns of a plan that no manifest has.
OF_THE_PLAN = frozenset({"index", FORMER})
_KEY, _CHECKSUM = b"imagefleet", b"imagefleet.sha256"
#: What stands in the place of the checksum while it is computed: its digits, all zero.
_BLANK = b"0" * (2 * hashlib.sha256().digest_size)
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
    with pq.ParquetWriter(sink, marked.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(marked)
        # Not by the schema's metadata, which stand in the file a second time, encoded.
        writer.add_key_value_metadata({_CHECKSUM.decode(): _BLANK.decode()})
    body = bytes(sink.getvalue())
    # The metadata are at the end of the file, each value after its name.
    place = body.index(_BLANK, body.rindex(_CHECKSUM))
    return b"".join((body[:place], _digest(body, place), body[place + len(_BLANK) :]))


def decode(body: bytes, columns: Sequence[str] | None = None, of: Mark | None = None) -> pa.Table:
    """Return the table of a file, or only some of its columns.

    Args:
        body: the file.
        columns: their names; all without.
        of: what it has to be of, in whatever revision; without, it may be anybody's, and only its pages are checked.

    Raises:
        BadShardFile: it is not whole, or not of that run and shard.
    """
    file = _opened(body)
    if of is not None:
        found = _mark(file)
        if found is None or (found.run_id, found.shard) != (of.run_id, of.shard):
            whose = "nobody's" if found is None else f"of shard {found.shard} of run {found.run_id or 'without a name'}"
            raise BadShardFile(f"it is {whose}, not of shard {of.shard} of run {of.run_id}")
        _check(body, file)
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
    file = _opened(body)
    mark = _mark(file)
    if mark is None:
        raise BadShardFile("it does not say whose it is")
    _check(body, file)
    return mark.revision


def _opened(body: bytes) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(body), page_checksum_verification=True)
    except _BROKEN as error:
        raise BadShardFile(f"not a whole Parquet file: {error}") from error


def _check(body: bytes, file: pq.ParquetFile) -> None:
    """Compare a file with its checksum.

    Raises:
        BadShardFile: a byte of it is another one, or it has none.
    """
    told = (file.metadata.metadata or {}).get(_CHECKSUM, b"")
    place = body.find(told, body.rfind(_CHECKSUM))
    if len(told) != len(_BLANK) or _digest(body, place) != told:
        raise BadShardFile("its checksum does not fit what is in it")


def _digest(body: bytes, place: int) -> bytes:
    """Return the SHA-256 of a file, in hexadecimal digits, whatever stands in the checksum's place."""
    rest = memoryview(body)
    digest = hashlib.sha256(rest[:place])
    digest.update(_BLANK)
    digest.update(rest[place + len(_BLANK) :])
    return digest.hexdigest().encode()


def _mark(file: pq.ParquetFile) -> Mark | None:
    try:
        return Mark(**json.loads((file.schema_arrow.metadata or {})[_KEY]))
    except (KeyError, TypeError, ValueError):
        return None
