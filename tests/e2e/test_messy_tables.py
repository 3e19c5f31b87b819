"""imagefleet, pandas and DuckDB read the same rows from well-formed tables.

From damaged tables, imagefleet reads more rows than pandas and DuckDB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from producer.sources import url_list
from producer.sources.options import SourceOptions
from tests.conftest import lacking

_GOOD = {
    "quotation marks": 'http://a/1,"a, b"\nhttp://a/2,"say ""c"""\nhttp://a/3,"two\nlines"\nhttp://a/4,""\n',
    "CRLF": 'http://a/1,b\r\nhttp://a/2,"c\r\nd"\r\n',
    "no last line end": "http://a/1,b\nhttp://a/2,c",
    "emoji": "http://a/1,\U0001f63b\nhttp://a/2,\u732b\n",
    "marks inside": "http://a/1,5' 6\" tall\nhttp://a/2,it's\n",
    "empty fields": "http://a/1,\nhttp://a/2,b\n",
    "blank lines": "http://a/1,b\n\nhttp://a/2,c\n",
    "spaces": "http://a/1, b \nhttp://a/2,c\n",
}
#: Damaged tables, each with the rows that imagefleet reads. On these tables, pandas and DuckDB end with an error, lose
#: rows, or join rows.
_BAD = {
    "long row": ("http://a/1,b\nhttp://a/2,c,d\nhttp://a/3,e\n", [("http://a/1", "b"), ("http://a/3", "e")]),
    "unclosed": ('http://a/1,"b\nhttp://a/2,c\nhttp://a/3,e\n', [("http://a/2", "c"), ("http://a/3", "e")]),
    "closed late": ('http://a/1,"b\nhttp://a/2,"c"\nhttp://a/3,e\n', [("http://a/2", "c"), ("http://a/3", "e")]),
}
_PANDAS = """
import json, sys, pandas
table = pandas.read_csv(sys.argv[1], dtype=str)
print(json.dumps([[url, None if pandas.isna(text) else text] for url, text in zip(table["url"], table["text"])]))
"""
_DUCKDB = """
import json, sys, duckdb
rows = duckdb.sql(f"SELECT url, text FROM read_csv('{sys.argv[1]}', header=true, all_varchar=true)").fetchall()
print(json.dumps([[url, text or None] for url, text in rows]))
"""
_SCRIPTS = {"pandas": _PANDAS, "duckdb": _DUCKDB}


def rows(path: Path) -> list[tuple[str, str | None]]:
    """Return the rows that imagefleet reads."""
    requests = url_list.read(str(path), SourceOptions(caption_col="text"))
    return [(request.url, request.columns["caption"]) for request in requests if request.refused is None]


def others(path: Path, library: str) -> list[tuple[str, str | None]] | None:
    """Return the rows that another library reads, or None if it ends with an error."""
    if find_spec(library) is None:
        lacking(f"{library} is not installed in this environment")
    # The library runs in a separate process, because some libraries start threads that would affect other tests.
    command = [sys.executable, "-c", _SCRIPTS[library], str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    return [(url, text) for url, text in json.loads(ended.stdout)] if ended.returncode == 0 else None


@pytest.mark.parametrize("library", _SCRIPTS)
@pytest.mark.parametrize("body", _GOOD.values(), ids=_GOOD)
def test_same_rows_as_other_libraries(tmp_path: Path, body: str, library: str) -> None:
    """imagefleet, pandas and DuckDB read the same rows from a well-formed table."""
    path = tmp_path / "list.csv"
    # DuckDB refuses tables with two kinds of line ends.
    end = "\r\n" if "\r" in body else "\n"
    path.write_bytes(f"url,text{end}{body}".encode())
    assert rows(path) == others(path, library)


@pytest.mark.parametrize("library", _SCRIPTS)
@pytest.mark.parametrize(("body", "expected"), _BAD.values(), ids=_BAD)
def test_more_rows_than_other_libraries(
    tmp_path: Path, body: str, expected: list[tuple[str, str]], library: str
) -> None:
    """From a damaged table, imagefleet reads exactly the good rows, unlike pandas and DuckDB."""
    path = tmp_path / "list.csv"
    path.write_bytes(f"url,text\n{body}".encode())
    assert rows(path) == expected
    assert others(path, library) != expected
