"""The same 10,000 rows give the same requests in each format and each compression."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.sources import url_list
from producer.sources.options import InputFormat, SourceOptions
from tasks.storage import plan
from tasks.storage.shard_parquet import ShardRef
from tests.zstandard import zstd

_COUNT = 10_000
_CAPTIONS = (
    "a cat",
    "a cat, sitting; on | a mat",
    'she said "miaow"',
    '"quoted"',
    "two\nlines",
    "Windows\r\nlines, and more",
    "a \U0001f63b and \u732b \u00e9",
    "#1 \ttab",
    "'",
    None,
)
_COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda body: gzip.compress(body, 1),
    ".bz2": lambda body: bz2.compress(body, 1),
    ".xz": lambda body: lzma.compress(body, preset=0),
    ".zst": zstd.compress,
}
_NESTED = ["jsonl", "json", "parquet"]
#: The same formats in other encodings, or with another delimiter.
_VARIANTS = ["semicolons.csv", "excel.tsv", "utf-16.jsonl", "utf-16.json"]
_CASES = [
    *((kind, compression) for kind in ("csv", "tsv", *_NESTED) for compression in _COMPRESSIONS),
    *((kind, "") for kind in _VARIANTS),
]
_OPTIONS = SourceOptions(caption_col="text")


@cache
def rows() -> list[tuple[str, str | None, int]]:
    """Return the rows: a URL, a caption and a number."""
    return [(f"http://a.example/{index}.jpg", _CAPTIONS[index % len(_CAPTIONS)], index) for index in range(_COUNT)]


def table(delimiter: str) -> str:
    """Return a table with the rows, in the form that Python, pandas and Excel write."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(("number", "text", "URL"))
    writer.writerows((number, caption, url) for url, caption, number in rows())
    return text.getvalue()


def objects() -> list[dict[str, object]]:
    """Return the rows as objects. Each object has a nested object, or null in its place."""
    return [
        {"number": number, "text": caption, "URL": url, "size": {"width": number, "tags": ["a"]} if caption else None}
        for url, caption, number in rows()
    ]


@cache
def body(kind: str) -> bytes:
    """Return the rows in a format."""
    match kind:
        case "csv":
            return table(",").encode()
        case "tsv":
            return table("\t").encode()
        case "semicolons.csv":
            return table(";").encode("utf-8-sig")
        case "excel.tsv":
            return table("\t").encode("utf-16")
        case "jsonl":
            return "".join(json.dumps(row) + "\n" for row in objects()).encode()
        case "utf-16.jsonl":
            return "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in objects()).encode("utf-16")
        case "json":
            return json.dumps(objects(), ensure_ascii=False, indent=1).encode()
        case "utf-16.json":
            return json.dumps(objects()).encode("utf-16")
        case "parquet":
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(objects()), sink, row_group_size=3000)
            return sink.getvalue()
        case _:
            return "".join(f"{url}\n" for url, _, _ in rows()).encode()


@pytest.mark.parametrize(("kind", "compression"), _CASES)
def test_each_format_gives_the_same_requests(tmp_path: Path, kind: str, compression: str) -> None:
    """Captions with quotation marks, delimiters, emoji and line ends are read as they were written."""
    path = tmp_path / f"list.{kind}{compression}"
    path.write_bytes(_COMPRESSIONS[compression](body(kind)))
    requests = list(url_list.read(str(path), _OPTIONS))
    assert [(request.index, request.url, request.columns["caption"]) for request in requests] == [
        (index, url, caption) for url, caption, index in rows()
    ]
    assert not any(request.refused for request in requests)


@pytest.mark.parametrize("compression", _COMPRESSIONS)
def test_text_gives_the_same_urls(tmp_path: Path, compression: str) -> None:
    """A text gives the same URLs, compressed or not.

    The compression is recognized even if the file's name does not show it.
    """
    path = tmp_path / "list.txt"
    path.write_bytes(_COMPRESSIONS[compression](body("text")))
    assert [request.url for request in url_list.read(str(path))] == [url for url, _, _ in rows()]


@pytest.mark.parametrize("wrong", [".gz", ".xz", ""])
def test_the_name_of_a_compression_may_be_wrong(tmp_path: Path, wrong: str) -> None:
    """The content shows whether a file is compressed. A file named .gz may be uncompressed."""
    path = tmp_path / f"list.csv{wrong}"
    path.write_bytes(bz2.compress(b"url\nhttp://a.example/\n"))
    assert [request.url for request in url_list.read(str(path))] == ["http://a.example/"]
    path.write_bytes(b"url\nhttp://a.example/\n")
    assert [request.url for request in url_list.read(str(path))] == ["http://a.example/"]


def test_other_columns_are_passed_through(tmp_path: Path) -> None:
    """The caption is the first column. All other columns follow in the given order.

    The schema has the types of the columns.
    """
    path = tmp_path / "list.csv"
    path.write_bytes(body("csv"))
    requests = url_list.read(str(path), SourceOptions(InputFormat.CSV, "URL", "text", ("number", "text")))
    assert [dict(request.columns) for request in requests][:2] == [
        {"caption": "a cat", "number": "0"},
        {"caption": "a cat, sitting; on | a mat", "number": "1"},
    ]
    assert requests.schema is not None
    assert [(field.name, str(field.type)) for field in requests.schema] == [("caption", "string"), ("number", "string")]


@pytest.mark.parametrize("kind", _NESTED)
def test_nested_columns_keep_their_types(tmp_path: Path, kind: str) -> None:
    """JSON and Parquet keep numbers, lists and objects. A column may be a whole value, or a part selected by a path."""
    path = tmp_path / f"list.{kind}"
    path.write_bytes(body(kind))
    requests = url_list.read(str(path), SourceOptions(columns=("number", "size", "size.width")))
    table = plan.decode(plan.encode(list(requests), ShardRef("id", 0), requests.schema))
    assert table.drop_columns(["index", "url"]).to_pylist() == [
        {"number": row["number"], "size": row["size"], "size.width": row["number"] if row["size"] else None}
        for row in objects()
    ]
    assert str(table.schema.field("number").type) == "int64"
