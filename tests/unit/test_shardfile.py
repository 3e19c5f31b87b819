"""A shard's file says whose it is, and what was cut, changed or brought from elsewhere is told."""

from __future__ import annotations

import json
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import shardfile
from tasks.shardfile import BadShardFile, Mark

_MARK = Mark("20260101-000000-abcdef", 3, 1)
_TABLE = pa.table({"key": ["a", "b"], "bytes": [1, None]})
_WHOLE = shardfile.encode(_TABLE, _MARK)


def written(metadata: dict[bytes, bytes] | None) -> bytes:
    """A Parquet file with this metadata."""
    sink = pa.BufferOutputStream()
    pq.write_table(_TABLE.replace_schema_metadata(metadata), sink)
    return bytes(sink.getvalue())


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.integers(0, 10**7), st.integers(0, 100))
def test_table_and_mark_come_back(run_id: str, shard: int, revision: int) -> None:
    """A table is read as it was written, by who knows whose it is, and the pass that wrote it is known."""
    mark = Mark(run_id, shard, revision)
    body = shardfile.encode(_TABLE, mark)
    assert shardfile.decode(body, of=mark).equals(_TABLE)
    assert shardfile.revision(body) == revision


def test_some_columns_alone() -> None:
    """A reader of some columns gets no others, in the order that it names."""
    assert shardfile.decode(_WHOLE, ["bytes", "key"], _MARK).to_pydict() == {"bytes": [1, None], "key": ["a", "b"]}


def test_any_revision_is_taken() -> None:
    """Whoever looks for a shard's file takes it from whatever pass of the run it is."""
    assert shardfile.decode(_WHOLE, of=Mark(_MARK.run_id, 3, 7)).num_rows == 2


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (Mark("another", 3), "it is of shard 3 of run 20260101-000000-abcdef, not of shard 3 of run another"),
        (Mark(_MARK.run_id, 4), "not of shard 4 of run 20260101-000000-abcdef"),
    ],
    ids=["run", "shard"],
)
def test_file_of_another_is_refused(of: Mark, message: str) -> None:
    """A whole file of another run, or of another shard, is told, and by whose it is."""
    with pytest.raises(BadShardFile, match=message):
        shardfile.decode(_WHOLE, of=of)


_NOBODYS = {
    "nothing": None,
    "another tool's": {b"pandas": b"{}"},
    "no JSON": {b"imagefleet": b"{"},
    "no mark": {b"imagefleet": b"[1]"},
    "less": {b"imagefleet": json.dumps({"run_id": "a"}).encode()},
    "more": {b"imagefleet": json.dumps({"run_id": "a", "shard": 1, "revision": 0, "new": 1}).encode()},
    "no text": {b"imagefleet": b"\xff\xfe"},
}


@pytest.mark.parametrize("metadata", _NOBODYS.values(), ids=_NOBODYS)
def test_file_of_nobody_is_refused(metadata: dict[bytes, bytes] | None) -> None:
    """A Parquet file that does not say whose it is is nobody's, and of no pass."""
    body = written(metadata)
    with pytest.raises(BadShardFile, match="it is nobody's, not of shard 3"):
        shardfile.decode(body, of=_MARK)
    with pytest.raises(BadShardFile, match="does not say whose it is"):
        shardfile.revision(body)
    assert shardfile.decode(body).num_rows == 2


def test_every_cut_is_told() -> None:
    """A file is refused at whatever length it was cut."""
    for length in range(len(_WHOLE)):
        with pytest.raises(BadShardFile):
            shardfile.decode(_WHOLE[:length], of=_MARK)
        with pytest.raises(BadShardFile):
            shardfile.revision(_WHOLE[:length])


def test_every_flipped_byte_is_told() -> None:
    """No byte of a file can change without being told, whichever column is read, and wherever the byte is."""
    table = pa.table({"url": [f"http://a.example/{number * 7919}" for number in range(200)], "bytes": range(200)})
    body = shardfile.encode(table, _MARK)
    for place in range(len(body)):
        flipped = bytearray(body)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(BadShardFile):
            shardfile.decode(bytes(flipped), ["bytes"], _MARK)
        with pytest.raises(BadShardFile):
            shardfile.revision(bytes(flipped))


def test_file_without_a_checksum_is_refused() -> None:
    """A file that says whose it is, and has no checksum, is not what was written."""
    body = written({b"imagefleet": json.dumps(asdict(_MARK)).encode()})
    with pytest.raises(BadShardFile, match="checksum"):
        shardfile.decode(body, of=_MARK)
    with pytest.raises(BadShardFile, match="checksum"):
        shardfile.revision(body)


def test_zeros_in_a_table_are_no_checksum() -> None:
    """A value, a column and a run of nothing but zeros leave the checksum in its place."""
    zeros = "0" * 64
    table = pa.table({zeros: [zeros, zeros]})
    mark = Mark(zeros, 0)
    assert shardfile.decode(shardfile.encode(table, mark), of=mark).equals(table)
