"""URLs are completed, hashes are checked, and parts of a list are chosen."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from producer.sources import url_list
from producer.sources.options import HashKind, InputFormat, SourceOptions
from tasks.errors import UsageError

_BASES = [
    ("https://", "//a.example/1.jpg", "https://a.example/1.jpg"),
    ("https:", "a.example/1.jpg", "https://a.example/1.jpg"),
    ("HTTP://", "a.example:8080/1.jpg", "http://a.example:8080/1.jpg"),
    ("https://", "http://a.example/ 1", "http://a.example/ 1"),
    ("https://", "/1.jpg", "/1.jpg"),
    ("https://a.example/dir/page", "//b.example/1.jpg", "https://b.example/1.jpg"),
    ("https://a.example/dir/page", "1.jpg", "https://a.example/dir/1.jpg"),
    ("https://a.example/dir/page", "/1.jpg", "https://a.example/1.jpg"),
    ("https://a.example/dir/page", "ftp://b.example/1.jpg", "ftp://b.example/1.jpg"),
    ("https://a.example/dir/page", "//[", "//["),
]


@pytest.mark.parametrize(("base", "url", "expected"), _BASES)
def test_base_url_completes_urls(tmp_path: Path, base: str, url: str, expected: str) -> None:
    """A host is completed with a scheme, and a path is completed with the URL of a page.

    Whole URLs stay as they are.
    """
    path = tmp_path / "list.txt"
    path.write_text(f"{url}\n")
    (request,) = url_list.read(str(path), SourceOptions(base_url=base))
    assert request.url == expected


@pytest.mark.parametrize("kind", list(HashKind))
def test_hashes(tmp_path: Path, kind: HashKind) -> None:
    """The length and the digits of a hash are checked. A missing hash is allowed."""
    digits = hashlib.new(kind, b"").hexdigest()
    path = tmp_path / "list.csv"
    path.write_text(
        f"url,h\nhttp://a/,{digits.upper()}\nhttp://b/,\nhttp://c/,{digits[:-1]}\nhttp://d/,{digits[:-1]}g\n"
    )
    requests = list(url_list.read(str(path), SourceOptions(hash_col="h", verify_hash=kind)))
    assert [request.expected_hash for request in requests] == [f"{kind}:{digits}", None, None, None]
    assert [bool(request.refused) for request in requests] == [False, False, True, True]
    assert f"line 4 has no {kind} in hexadecimal digits in h" in str(requests[2].refused)
    assert not requests[0].columns


@pytest.fixture
def hundred(tmp_path: Path) -> str:
    """Return a list of 100 URLs."""
    path = tmp_path / "list.txt"
    path.write_text("".join(f"http://a/{row}\n" for row in range(100)))
    return str(path)


def rows(source: str, options: SourceOptions) -> list[int]:
    """Return the numbers of the chosen rows."""
    requests = list(url_list.read(source, options))
    assert [request.index for request in requests] == list(range(len(requests)))
    return [int(request.url.rpartition("/")[2]) for request in requests]


def test_offset_and_limit(hundred: str) -> None:
    """The rows of a part of a list are numbered from 0."""
    assert rows(hundred, SourceOptions(offset=95)) == [95, 96, 97, 98, 99]
    assert rows(hundred, SourceOptions(limit=2)) == [0, 1]
    assert rows(hundred, SourceOptions(offset=98, limit=5)) == [98, 99]
    assert rows(hundred, SourceOptions(offset=100)) == []


def test_sample(hundred: str) -> None:
    """A sample has exactly its size, keeps the order, depends on the seed, and is the same each time."""
    sample = rows(hundred, SourceOptions(sample=10))
    assert len(sample) == 10
    assert sample == sorted(sample) == rows(hundred, SourceOptions(sample=10))
    assert sample != rows(hundred, SourceOptions(sample=10, seed=1))
    assert rows(hundred, SourceOptions(sample=1000)) == list(range(100))
    assert set(rows(hundred, SourceOptions(sample=5, offset=10, limit=10))) < set(range(10, 20))


def test_sample_is_fair(hundred: str) -> None:
    """Over many seeds, each row is chosen about equally often."""
    counts = Counter(row for seed in range(200) for row in rows(hundred, SourceOptions(sample=50, seed=seed)))
    assert len(counts) == 100
    assert all(60 < count < 140 for count in counts.values())


def test_standard_input_can_not_be_sampled() -> None:
    """A sample needs two passes, so it is refused for standard input."""
    with pytest.raises(UsageError, match="can't be sampled"):
        list(url_list.read("-", SourceOptions(sample=1)))


def test_options_survive_json() -> None:
    """run.json keeps the options of a list."""
    options = SourceOptions(
        InputFormat.CSV, "a", "b", ("c", "d"), "latin-1", False, "https://", 1, 2, 3, 4, "e", HashKind.MD5
    )
    assert SourceOptions.from_json(json.loads(json.dumps(asdict(options)))) == options
    assert SourceOptions.from_json({}) == SourceOptions()


def test_file_names(tmp_path: Path) -> None:
    """A column names the files. If a row has no name, it gets the default name. A list can give hashes as well."""
    path, digits = tmp_path / "list.csv", "0" * 32
    path.write_text(f"url,n,h\nhttp://a.example/,cats/tom.jpg,{digits}\nhttp://b.example/,,\nhttp://c.example/,7,\n")
    requests = list(url_list.read(str(path), SourceOptions(path_col="n", hash_col="h", verify_hash=HashKind.MD5)))
    assert [request.path for request in requests] == ["cats/tom.jpg", None, "7"]
    assert [request.expected_hash for request in requests] == [f"md5:{digits}", None, None]
    requests = list(url_list.read(str(path), SourceOptions(path_col="n", columns=("h",))))
    assert (requests[0].path, requests[0].columns["h"]) == ("cats/tom.jpg", digits)
