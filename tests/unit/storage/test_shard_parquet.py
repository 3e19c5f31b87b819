"""A shard's file states its run and its shard. Damage and foreign files are detected."""

from __future__ import annotations

import json
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.storage import shard_parquet
from tasks.storage.shard_parquet import CorruptShardFileError, ShardRef

_MARK = ShardRef("20260101-000000-abcdef", 3, 1)
_TABLE = pa.table({"key": ["a", "b"], "bytes": [1, None]})
_WHOLE = shard_parquet.encode(_TABLE, _MARK)


def parquet(metadata: dict[bytes, bytes] | None) -> bytes:
    """Return a Parquet file with this metadata."""
    sink = pa.BufferOutputStream()
    pq.write_table(_TABLE.replace_schema_metadata(metadata), sink)
    return bytes(sink.getvalue())


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.integers(0, 10**7), st.integers(0, 100))
def test_table_survives_a_round_trip(run_id: str, shard: int, revision: int) -> None:
    """The table and the revision are read back if the file belongs to the expected shard."""
    mark = ShardRef(run_id, shard, revision)
    body = shard_parquet.encode(_TABLE, mark)
    assert shard_parquet.decode(body, expected=mark).equals(_TABLE)
    assert shard_parquet.revision(body) == revision


def test_reads_only_the_requested_columns() -> None:
    """If some columns are requested, only these columns are returned, in the requested order."""
    assert shard_parquet.decode(_WHOLE, ["bytes", "key"], _MARK).to_pydict() == {"bytes": [1, None], "key": ["a", "b"]}


def test_accepts_any_revision() -> None:
    """A shard's file is accepted from any revision of the run."""
    assert shard_parquet.decode(_WHOLE, expected=ShardRef(_MARK.run_id, 3, 7)).num_rows == 2


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (ShardRef("another", 3), "it belongs to shard 3 of run 20260101-000000-abcdef, not to shard 3 of run another"),
        (ShardRef(_MARK.run_id, 4), "not to shard 4 of run 20260101-000000-abcdef"),
    ],
    ids=["run", "shard"],
)
def test_refuses_a_file_of_another_shard(of: ShardRef, message: str) -> None:
    """A valid file of another run or shard is refused.

    The message names the run and the shard that the file belongs to.
    """
    with pytest.raises(CorruptShardFileError, match=message):
        shard_parquet.decode(_WHOLE, expected=of)


_NOBODYS = {
    "nothing": None,
    "another tool's": {b"pandas": b"{}"},
    "not JSON": {b"imagefleet": b"{"},
    "no mark": {b"imagefleet": b"[1]"},
    "less": {b"imagefleet": json.dumps({"run_id": "a"}).encode()},
    "more": {b"imagefleet": json.dumps({"run_id": "a", "shard": 1, "revision": 0, "new": 1}).encode()},
    "not text": {b"imagefleet": b"\xff\xfe"},
}


@pytest.mark.parametrize("metadata", _NOBODYS.values(), ids=_NOBODYS)
def test_refuses_a_file_without_a_mark(metadata: dict[bytes, bytes] | None) -> None:
    """A Parquet file that names no run and no shard is refused. It has no revision."""
    body = parquet(metadata)
    with pytest.raises(CorruptShardFileError, match="it belongs to no run, not to shard 3"):
        shard_parquet.decode(body, expected=_MARK)
    with pytest.raises(CorruptShardFileError, match="does not name its run and shard"):
        shard_parquet.revision(body)
    assert shard_parquet.decode(body).num_rows == 2


def test_detects_any_truncation() -> None:
    """A file truncated at any length is refused."""
    for length in range(len(_WHOLE)):
        with pytest.raises(CorruptShardFileError):
            shard_parquet.decode(_WHOLE[:length], expected=_MARK)
        with pytest.raises(CorruptShardFileError):
            shard_parquet.revision(_WHOLE[:length])


def test_detects_any_changed_byte() -> None:
    """Any changed byte is detected, whichever column is read, and wherever the byte is."""
    table = pa.table({"url": [f"http://a.example/{number * 7919}" for number in range(200)], "bytes": range(200)})
    body = shard_parquet.encode(table, _MARK)
    for place in range(len(body)):
        flipped = bytearray(body)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(CorruptShardFileError):
            shard_parquet.decode(bytes(flipped), ["bytes"], _MARK)
        with pytest.raises(CorruptShardFileError):
            shard_parquet.revision(bytes(flipped))


def test_refuses_a_file_without_a_checksum() -> None:
    """A file that names its run and shard, but has no checksum, is refused."""
    body = parquet({b"imagefleet": json.dumps(asdict(_MARK)).encode()})
    with pytest.raises(CorruptShardFileError, match="checksum"):
        shard_parquet.decode(body, expected=_MARK)
    with pytest.raises(CorruptShardFileError, match="checksum"):
        shard_parquet.revision(body)


def test_zeros_are_not_mistaken_for_the_checksum() -> None:
    """The checksum is found even if a value, a column and the run id consist of zeros."""
    zeros = "0" * 64
    table = pa.table({zeros: [zeros, zeros]})
    mark = ShardRef(zeros, 0)
    assert shard_parquet.decode(shard_parquet.encode(table, mark), expected=mark).equals(table)
