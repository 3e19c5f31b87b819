"""URLs are completed, hashes are checked, and parts of a list are chosen."""

from __future__ import annotations

import hashlib
import json
import os
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


@pytest.mark.parametrize("sample", [None, 3])
@pytest.mark.parametrize("offset", [100, 101, 5000])
def test_offset_past_the_end_is_refused(hundred: str, offset: int, sample: int | None) -> None:
    """If an offset skips all rows, the error names the option and says how many rows the list has."""
    with pytest.raises(UsageError, match="no rows after the skipped ones") as refused:
        list(url_list.read(hundred, SourceOptions(offset=offset, limit=5, sample=sample)))
    assert "it has 100 rows, and --offset is" in refused.value.why


@pytest.mark.parametrize(("field", "first"), [("src", "url"), ("url", "a")])
@pytest.mark.parametrize("as_array", [True, False])
def test_column_of_objects_has_no_urls(tmp_path: Path, field: str, first: str, as_array: bool) -> None:
    """If the chosen column has objects, the error suggests their field with the URLs."""
    row = json.dumps({"id": 5, "image": {"name": "x", field: "http://a.example/", "size": 7}})
    path = tmp_path / "list.json"
    path.write_text(f"[{row}, {row}]" if as_array else f"{row}\n{row}\n")
    with pytest.raises(UsageError, match=r"The column image of the list .* holds no URLs") as refused:
        list(url_list.read(str(path), SourceOptions(url_col="image")))
    assert "fields name" in refused.value.why
    assert f"`--url-col image.{field}`" in refused.value.hint


def test_column_of_lists_has_no_urls(tmp_path: Path) -> None:
    """A column that has lists of URLs is refused before the run starts."""
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"urls": ["http://a.example/"], "id": 1}) + "\n" + json.dumps({"urls": [], "id": 2}))
    with pytest.raises(UsageError, match=r"The column urls of the list .* holds no URLs: its values are lists"):
        list(url_list.read(str(path)))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"caption,n\nA cat,1\n", "has a URL in column caption; row 1 is 'A cat'"),
        (b'caption,n\n"",1\n', "has a URL in column caption; line 2 has no URL"),
    ],
)
def test_list_without_urls_names_the_column(tmp_path: Path, body: bytes, found: str) -> None:
    """If a chosen column has no URLs, the error names the column."""
    path = tmp_path / "list.csv"
    path.write_bytes(body)
    with pytest.raises(UsageError, match="contains no URLs") as refused:
        url_list.require_urls(url_list.read(str(path), SourceOptions(url_col="caption")), str(path))
    assert found in refused.value.why


_URLS = [f"http://a.example/{number}.jpg" for number in range(300)]
_OBJECTS = {
    "columns": json.dumps({"image_urls": _URLS[:2], "captions": ["A cat", "A dog"]}),
    "captions first": json.dumps({"captions": ["A cat", "A dog"], "image_urls": _URLS[:2]}),
    "many columns": json.dumps({"image_urls": _URLS, "captions": ["x"] * 300}),
    "array of rows": json.dumps({"images": [{"url": url} for url in _URLS]}),
    "indented": json.dumps({"image_urls": _URLS, "captions": ["x"] * 300}, indent=2),
    "one line each": '{"image_urls": ["http://a.example/1.jpg"],\n"captions": ["x"]}\n',
}


@pytest.mark.parametrize("name", ["list.json", "list.jsonl", "list"])
@pytest.mark.parametrize("body", _OBJECTS.values(), ids=_OBJECTS)
def test_single_object_is_refused(tmp_path: Path, body: str, name: str) -> None:
    """A file with one object for all rows is refused, whatever its name. The error says how to convert it."""
    path = tmp_path / name
    path.write_text(body)
    with pytest.raises(UsageError, match="looks like a single JSON object") as refused:
        list(url_list.read(str(path)))
    assert "jq" in refused.value.hint


@pytest.mark.parametrize("tags", [["a", "b"], [["x"] * 3000], []])
@pytest.mark.parametrize("count", [1, 2])
def test_row_with_arrays_is_no_single_object(tmp_path: Path, tags: list[object], count: int) -> None:
    """A list may have one row, and a row may begin with an array."""
    path = tmp_path / "list.jsonl"
    path.write_text((json.dumps({"tags": tags, "url": _URLS[0]}) + "\n") * count)
    requests = list(url_list.read(str(path), SourceOptions(columns=("tags",))))
    assert [request.url for request in requests] == [_URLS[0]] * count


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("list", SourceOptions(), "its name has no known ending"),
        ("list.dat", SourceOptions(), "its name has no known ending"),
        ("list.txt", SourceOptions(), "it is read as text, because its name or --input-format says so"),
        ("list.csv", SourceOptions(InputFormat.TEXT), "it is read as text, because its name or --input-format says so"),
    ],
)
def test_unexpected_format_names_its_cause(tmp_path: Path, name: str, options: SourceOptions, why: str) -> None:
    """The error for a table that is read as text says whether the file's name decided this."""
    path = tmp_path / name
    path.write_text("caption,url\nA cat,http://a.example/\n")
    with pytest.raises(UsageError, match="looks like a table") as refused:
        list(url_list.read(str(path), options))
    assert why in refused.value.why
    assert refused.value.hint == "Add `--input-format csv`."


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


def test_standard_input_can_not_be_sampled(tmp_path: Path) -> None:
    """A sample needs two passes, so it is refused for standard input and for pipes."""
    os.mkfifo(tmp_path / "pipe")
    for source in ("-", str(tmp_path / "pipe")):
        with pytest.raises(UsageError, match=r"can't be sampled: .* can be read only once"):
            list(url_list.read(source, SourceOptions(sample=1)))


@pytest.mark.parametrize("name", ["none.txt", "none*.txt", ""])
def test_missing_list_is_reported_despite_a_sample(tmp_path: Path, name: str) -> None:
    """With a sample, a missing list gets the same error as without a sample."""
    errors = []
    for sample in (None, 1):
        with pytest.raises(UsageError) as refused:
            list(url_list.read(str(tmp_path / name), SourceOptions(sample=sample)))
        errors.append(str(refused.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("source", ["lists", "lists/*.txt"])
def test_folder_of_one_list_is_sampled(tmp_path: Path, source: str) -> None:
    """A folder or a pattern can be sampled, also with one file."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.txt").write_text("http://a/1\nhttp://a/2\n")
    assert len(list(url_list.read(str(tmp_path / source), SourceOptions(sample=1)))) == 1


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
