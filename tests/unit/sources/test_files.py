"""A list may have several files: all files of a folder, or the files that match a pattern."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks.errors import UsageError

_NUMBER = SourceOptions(columns=("n",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three files of a list, and other files. Each file of the list has four rows.

    One row of each file is unreadable.
    """
    folder = tmp_path / "lists"
    folder.mkdir()
    for name in ("b.csv", "a.csv", "c.csv"):
        rows = "".join(f"http://{name}/{row},{row}\n" for row in range(3))
        (folder / name).write_text(f"url,n\n{rows}bad\n")
    (folder / "c.csv").write_bytes(gzip.compress((folder / "c.csv").read_bytes()))
    for name in ("_SUCCESS", ".hidden"):
        (folder / name).write_text("")
    (folder / "inner").mkdir()
    return folder


@pytest.mark.parametrize("pattern", ["", "*.csv", "[abc].csv", "../**/*.csv"])
def test_files_are_read_in_order(folder: Path, pattern: str) -> None:
    """Files are sorted by name, and their rows are numbered consecutively. Messages name the file."""
    requests = list(url_list.read(str(folder / pattern), _NUMBER))
    good = [f"http://{name}.csv/{row}" for name in "abc" for row in range(3)]
    assert [request.url for request in requests if not request.refused] == good
    assert [request.index for request in requests] == list(range(12))
    assert [request.refused.message for request in requests if request.refused] == [
        f"{name}.csv: line 5 has 1 field, the header has 2" for name in "abc"
    ]


def test_a_file_with_a_bracket_is_no_pattern(tmp_path: Path) -> None:
    """The name of an existing file is not a pattern."""
    path = tmp_path / "list[1].txt"
    path.write_text("http://a/\n")
    assert [request.url for request in url_list.read(str(path))] == ["http://a/"]


def test_no_files(tmp_path: Path) -> None:
    """A folder without files, and a pattern without matches, are errors of the command line."""
    with pytest.raises(UsageError, match="contains no files"):
        list(url_list.read(str(tmp_path)))
    with pytest.raises(UsageError, match=r"No file matches .*\*\.csv"):
        list(url_list.read(str(tmp_path / "*.csv")))


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("b.csv", b"url\nhttp://a/\n", r"b\.csv has no column n"),
        ("b.jsonl", b'{"url": "http://a/", "n": 1}\n', r"b\.jsonl has another format"),
        ("b.csv", b"%PDF-", r"b\.csv looks like a PDF document"),
    ],
)
def test_other_files_are_refused_before_the_first_row(folder: Path, name: str, body: bytes, message: str) -> None:
    """All files must have the same format and the selected columns. The files are checked when the list is opened."""
    (folder / name).write_bytes(body)
    with pytest.raises(UsageError, match=message):
        iter(url_list.read(str(folder), _NUMBER))


def test_types_come_from_the_first_file(tmp_path: Path) -> None:
    """If a value in a later file does not have its column's type in the first file, the row is refused."""
    for name, value in (("a", 1), ("b", "text")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"url": "http://a/", "n": value}))
    first, second = url_list.read(str(tmp_path), _NUMBER)
    assert first.columns == {"n": 1}
    assert "b.jsonl: line 1 has the value 'text' in n, which is a column of int64" in str(second.refused)


def test_fingerprint_covers_all_files(folder: Path) -> None:
    """The fingerprint changes if any file, a file's name or the number of files changes."""
    prints = [url_list.fingerprint(str(folder))]
    assert prints == [url_list.fingerprint(str(folder / "*.csv"))]
    (folder / "b.csv").write_text("url,n\n")
    prints.append(url_list.fingerprint(str(folder)))
    (folder / "b.csv").rename(folder / "d.csv")
    prints.append(url_list.fingerprint(str(folder)))
    (folder / "d.csv").unlink()
    prints.append(url_list.fingerprint(str(folder)))
    assert len({*prints, None}) == 5
    assert url_list.fingerprint(str(folder / "*.none")) is None
