"""A process inspects an output folder only where its operator allows it, and leaves no file there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tasks.storage import folder_probe
from tasks.storage.folder_probe import ProbeResult
from tasks.storage.local_store import LocalStore

TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return an output folder with the producer's probe file."""
    folder = tmp_path / "out"
    folder.mkdir()
    folder_probe.write_probe(LocalStore(folder), TOKEN)
    return folder


def test_same_folder(tmp_path: Path, out: Path) -> None:
    """A worker with access to the producer's folder reports the access and the free bytes, and leaves no file."""
    seen = folder_probe.probe_folder(str(out), TOKEN, [tmp_path])
    assert (seen.allowed, seen.same, seen.writable, seen.error) == (True, True, True, "")
    assert seen.free is not None
    assert [path.name for path in out.iterdir()] == [folder_probe.probe_name(TOKEN)]
    assert ProbeResult.from_json(seen.to_json()) == seen


def test_probe_is_removed(out: Path) -> None:
    """The producer's file is removed at the end. Removing the file twice is no error."""
    for _ in range(2):
        folder_probe.remove_probe(LocalStore(out), TOKEN)
    assert list(out.iterdir()) == []


def test_folder_outside_of_the_roots(tmp_path: Path, out: Path) -> None:
    """A worker inspects nothing outside of its operator's roots, not even through a link."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(out)
    for path in (out, root / "link", root / ".." / "out"):
        seen = folder_probe.probe_folder(str(path), TOKEN, [root])
        assert seen == ProbeResult(error=seen.error)
        assert "IMAGEFLEET_STORE_ROOTS" in seen.error


def test_another_folder(tmp_path: Path, out: Path) -> None:
    """A folder without the producer's file counts as another folder. Nothing is created there."""
    other = tmp_path / "other"
    other.mkdir()
    assert folder_probe.probe_folder(str(other), TOKEN, [tmp_path]).error == "the producer's file does not exist"
    assert folder_probe.probe_folder(str(tmp_path / "none"), TOKEN, [tmp_path]).error == "the folder does not exist"
    assert list(other.iterdir()) == []
    assert not (tmp_path / "none").exists()


def test_file_with_other_content_is_not_the_probe(out: Path) -> None:
    """A link, a pipe, or a file that has the probe's name but other bytes is not the producer's file."""
    path = out / folder_probe.probe_name(TOKEN)
    for body in (b"", b"x", TOKEN.encode() + b"x"):
        path.write_bytes(body)
        assert not folder_probe.probe_folder(str(out), TOKEN, [out]).same
    path.unlink()
    (out / "true").write_text(TOKEN)
    path.symlink_to(out / "true")
    assert not folder_probe.probe_folder(str(out), TOKEN, [out]).same
    path.unlink()
    os.mkfifo(path)
    assert not folder_probe.probe_folder(str(out), TOKEN, [out]).same


def test_unwritable_folder_is_reported(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the worker can't write to the same folder, the reply gives the reason."""

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(folder_probe, "_write", refuse)
    seen = folder_probe.probe_folder(str(out), TOKEN, [out])
    assert (seen.same, seen.writable) == (True, False)
    assert seen.error == "no file can be created there: Read-only file system"


@pytest.mark.parametrize("token", ["", "../../etc/passwd", "a" * 31, "A" * 32, f"{TOKEN}\n", None, 3, "g" * 32])
def test_invalid_token_is_refused(out: Path, token: Any) -> None:
    """A token has 32 hexadecimal digits. No file is opened for any other token."""
    assert folder_probe.probe_folder(str(out), token, [out]) == ProbeResult(error="the producer's request is not valid")


@pytest.mark.parametrize("path", [None, 3, "", "relative", "/a\0b", "/\ud800", "/" + "x" * 5000])
def test_invalid_path_is_refused(tmp_path: Path, path: Any) -> None:
    """A path that is invalid or outside of the roots gives an error message and raises nothing."""
    seen = folder_probe.probe_folder(path, TOKEN, [tmp_path])
    assert not seen.allowed
    assert seen.error


def test_circular_links_are_refused(tmp_path: Path) -> None:
    """A circular link gives an error message and raises nothing."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert folder_probe.probe_folder(str(tmp_path / "circle"), TOKEN, [tmp_path]).error
