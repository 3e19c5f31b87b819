"""The same 10,000 rows give the same requests in each format and each compression."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from producer.sources import url_list
from producer.sources.options import InputFormat, SourceOptions
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
    ".bz2": bz2.compress,
    ".xz": lambda body: lzma.compress(body, preset=0),
    ".zst": zstd.compress,
}
_OPTIONS = SourceOptions(caption_col="text")


@cache
def rows() -> list[tuple[str, str | None, int]]:
    """Return the rows: a URL, a caption and a number."""
    return [(f"http://a.example/{index}.jpg", _CAPTIONS[index % len(_CAPTIONS)], index) for index in range(_COUNT)]


def table(delimiter: str) -> str:
    """Return the rows as a table, as Python, pandas and Excel write it."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(("number", "text", "URL"))
    writer.writerows((number, caption, url) for url, caption, number in rows())
    return text.getvalue()


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
        case _:
            return "".join(f"{url}\n" for url, _, _ in rows()).encode()


@pytest.mark.parametrize("compression", _COMPRESSIONS)
@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolons.csv", "excel.tsv"])
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
    """A text gives the same URLs, compressed or not. The compression is recognized without its name too."""
    path = tmp_path / "list.txt"
    path.write_bytes(_COMPRESSIONS[compression](body("text")))
    assert [request.url for request in url_list.read(str(path))] == [url for url, _, _ in rows()]


@pytest.mark.parametrize("wrong", [".gz", ".xz", ""])
def test_the_name_of_a_compression_may_be_wrong(tmp_path: Path, wrong: str) -> None:
    """The content decides about the compression: a file may be named .gz without being compressed."""
    path = tmp_path / f"list.csv{wrong}"
    path.write_bytes(bz2.compress(b"url\nhttp://a.example/\n"))
    assert [request.url for request in url_list.read(str(path))] == ["http://a.example/"]
    path.write_bytes(b"url\nhttp://a.example/\n")
    assert [request.url for request in url_list.read(str(path))] == ["http://a.example/"]


def test_other_columns_are_passed_through(tmp_path: Path) -> None:
    """Columns keep their order: the caption, then the others as given. The schema has their types."""
    path = tmp_path / "list.csv"
    path.write_bytes(body("csv"))
    requests = url_list.read(str(path), SourceOptions(InputFormat.CSV, "URL", "text", ("number", "text")))
    assert [dict(request.columns) for request in requests][:2] == [
        {"caption": "a cat", "number": "0"},
        {"caption": "a cat, sitting; on | a mat", "number": "1"},
    ]
    assert requests.schema is not None
    assert [(field.name, str(field.type)) for field in requests.schema] == [("caption", "string"), ("number", "string")]
