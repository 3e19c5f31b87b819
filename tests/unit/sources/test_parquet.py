"""The columns of a Parquet file keep their types. The file may be read from any place."""

from __future__ import annotations

import gzip
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.local_fleet.supervisor_client import ROOT
from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks.errors import UsageError
from tasks.model import ImageRequest
from tasks.storage import plan
from tasks.storage.shard_parquet import ShardRef

_COLUMNS: dict[str, pa.Array[Any]] = {
    "tiny": pa.array([1, None], pa.int8()),
    "single": pa.array([0.5, None], pa.float32()),
    "nanoseconds": pa.array([1, None], pa.timestamp("ns", "UTC")),
    "day": pa.array([date(2020, 1, 1), None]),
    "price": pa.array([Decimal("1.50"), None]),
    "bytes": pa.array([b"\xff", None]),
    "tags": pa.array([["a", None], None]),
    "nested": pa.array([{"a": [{"b": 1}]}, None]),
}
_CHANGED: dict[str, tuple[pa.Array[Any], pa.DataType]] = {
    "category": (pa.array(["a", None]).dictionary_encode(), pa.string()),
    "large": (pa.array(["a", None], pa.large_string()), pa.string()),
    "empty": (pa.nulls(2), pa.string()),
}


def write(path: Path, rows: int = 2) -> None:
    """Write a file with all these columns."""
    columns = {**_COLUMNS, **{name: array for name, (array, _) in _CHANGED.items()}}
    pq.write_table(pa.table({"url": [f"http://a/{row}" for row in range(rows)], **columns}), path)


@pytest.mark.parametrize("name", [*_COLUMNS, *_CHANGED])
def test_types_are_kept(tmp_path: Path, name: str) -> None:
    """Every type is passed through exactly. Text in other representations becomes plain text."""
    path = tmp_path / "list.parquet"
    write(path)
    requests = url_list.read(str(path), SourceOptions(columns=(name,)))
    table = plan.decode(plan.encode(list(requests), ShardRef("id", 0), requests.schema))
    expected = _COLUMNS[name] if name in _COLUMNS else _CHANGED[name][0].cast(_CHANGED[name][1])
    assert table.schema.field(name).type == expected.type
    assert table[name].combine_chunks().equals(expected)


@pytest.mark.parametrize("row_group_size", [7, 5000, 20_000])
def test_row_groups_of_any_size(tmp_path: Path, row_group_size: int) -> None:
    """All rows are read in their order, whether the file has many small row groups or few large ones."""
    source, urls = tmp_path / "list.parquet", [f"http://a.example/{row}" for row in range(10_000)]
    pq.write_table(pa.table({"url": urls}), source, row_group_size=row_group_size)
    assert [request.url for request in url_list.read(str(source))] == urls


def test_file_without_rows(tmp_path: Path) -> None:
    """A file without row groups is an empty list."""
    source = tmp_path / "list.parquet"
    with pq.ParquetWriter(source, pa.schema([("url", pa.string())])):
        pass
    assert list(url_list.read(str(source))) == []


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 become U+FFFD, as in other formats."""
    path = tmp_path / "list.parquet"
    broken = pa.array([b"http://\xe4/", None]).view(pa.string())
    pq.write_table(pa.table({"url": broken}), path)
    first, second = url_list.read(str(path))
    assert first.url == "http://\ufffd/"
    assert "row 2 has no URL" in str(second.refused)


def test_compressed_file_and_standard_input(tmp_path: Path) -> None:
    """A source without seeking is read too, through a temporary file."""
    path = tmp_path / "list.parquet"
    write(path)
    compressed = tmp_path / "list.parquet.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    assert [request.url for request in url_list.read(str(compressed))] == ["http://a/0", "http://a/1"]
    script = "from producer.sources import url_list; print([request.url for request in url_list.read('-')])"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, input=path.read_bytes(), cwd=ROOT, capture_output=True, check=True)
    assert ended.stdout == b"['http://a/0', 'http://a/1']\n"


@pytest.mark.parametrize("cut", [-5, 4, 100])
def test_truncated_file_is_an_error(tmp_path: Path, cut: int) -> None:
    """A truncated file is refused before anything starts."""
    path = tmp_path / "list.parquet"
    write(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UsageError, match="can't be read"):
        list(url_list.read(str(path)))


def test_damaged_page_names_the_place(tmp_path: Path) -> None:
    """If a file is damaged in the middle, its good rows are read. An error follows the good rows."""
    path = tmp_path / "list.parquet"
    urls = [f"http://a.example/{row * 7919 % 100003}" for row in range(30_000)]
    pq.write_table(pa.table({"url": urls}), path, row_group_size=10_000, compression="zstd")
    body = bytearray(path.read_bytes())
    middle = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    body[middle : middle + 2000] = bytes(2000)
    path.write_bytes(body)
    read: list[ImageRequest] = []
    with pytest.raises(UsageError, match="can't be read") as caught:
        read.extend(url_list.read(str(path)))
    assert "after row " in caught.value.why
    assert 8_000 <= len(read) <= 10_000


def test_other_content_is_not_parquet(tmp_path: Path) -> None:
    """The content is checked.

    An error reports a Parquet file that is named like a text, and a text that is named like a Parquet file.
    """
    path = tmp_path / "list.csv"
    write(path)
    with pytest.raises(UsageError, match="looks like a Parquet file") as caught:
        list(url_list.read(str(path)))
    assert "--input-format parquet" in caught.value.hint
    path = tmp_path / "list.parquet"
    path.write_text("http://a/\n")
    with pytest.raises(UsageError, match="does not look like parquet"):
        list(url_list.read(str(path)))
