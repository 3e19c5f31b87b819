"""How a process sees an output folder: it looks only where its operator lets it, and leaves nothing there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tasks import examine
from tasks.examine import Seen
from tasks.storage import Store

TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Give an output folder in which a producer has left its file."""
    folder = tmp_path / "out"
    folder.mkdir()
    examine.leave(Store(folder), TOKEN)
    return folder


def test_same_folder(tmp_path: Path, out: Path) -> None:
    """A worker that has the producer's folder says so, with the free bytes, and leaves nothing."""
    seen = examine.examine(str(out), TOKEN, [tmp_path])
    assert (seen.allowed, seen.same, seen.writable, seen.error) == (True, True, True, "")
    assert seen.free is not None
    assert [path.name for path in out.iterdir()] == [examine.name_of(TOKEN)]
    assert Seen.from_json(seen.to_json()) == seen


def test_file_is_taken_away(out: Path) -> None:
    """The producer's file is gone afterwards; taking it away again is no fault."""
    for _ in range(2):
        examine.take_away(Store(out), TOKEN)
    assert list(out.iterdir()) == []


def test_folder_outside_of_the_roots(tmp_path: Path, out: Path) -> None:
    """A worker does not look outside of its operator's roots, also not through a link."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(out)
    for path in (out, root / "link", root / ".." / "out"):
        seen = examine.examine(str(path), TOKEN, [root])
        assert seen == Seen(error=seen.error)
        assert "IMAGEFLEET_STORE_ROOTS" in seen.error


def test_another_folder(tmp_path: Path, out: Path) -> None:
    """A folder without the producer's file is another, and nothing is made there."""
    other = tmp_path / "other"
    other.mkdir()
    assert examine.examine(str(other), TOKEN, [tmp_path]).error == "the producer's file is not there"
    assert examine.examine(str(tmp_path / "none"), TOKEN, [tmp_path]).error == "the folder is not there"
    assert list(other.iterdir()) == []
    assert not (tmp_path / "none").exists()


def test_file_that_holds_something_else(out: Path) -> None:
    """A file with the name of the producer's and other bytes, a link, or a pipe is not the producer's."""
    path = out / examine.name_of(TOKEN)
    for body in (b"", b"x", TOKEN.encode() + b"x"):
        path.write_bytes(body)
        assert not examine.examine(str(out), TOKEN, [out]).same
    path.unlink()
    (out / "true").write_text(TOKEN)
    path.symlink_to(out / "true")
    assert not examine.examine(str(out), TOKEN, [out]).same
    path.unlink()
    os.mkfifo(path)
    assert not examine.examine(str(out), TOKEN, [out]).same


def test_folder_that_can_not_be_written(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is the same and refuses a file is told, with why."""

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(examine, "_write", refuse)
    seen = examine.examine(str(out), TOKEN, [out])
    assert (seen.same, seen.writable) == (True, False)
    assert seen.error == "no file can be made there: Read-only file system"


@pytest.mark.parametrize("token", ["", "../../etc/passwd", "a" * 31, "A" * 32, f"{TOKEN}\n", None, 3, "g" * 32])
def test_token_that_is_none(out: Path, token: Any) -> None:
    """A token is 32 hexadecimal digits; what else is asked for is not looked at."""
    assert examine.examine(str(out), token, [out]) == Seen(error="what was asked is not understood")


@pytest.mark.parametrize("path", [None, 3, "", "relative", "/a\0b", "/\ud800", "/" + "x" * 5000])
def test_path_that_is_none(tmp_path: Path, path: Any) -> None:
    """What is no path below a root is answered in words, and raises nothing."""
    seen = examine.examine(path, TOKEN, [tmp_path])
    assert not seen.allowed
    assert seen.error


def test_links_in_a_circle(tmp_path: Path) -> None:
    """A path that leads round in a circle is answered in words."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert examine.examine(str(tmp_path / "circle"), TOKEN, [tmp_path]).error
