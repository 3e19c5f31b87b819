"""Files are synced with their file system where that is as good, and one by one elsewhere."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tasks import disk


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count what is synced, and how."""
    counts = {"fsync": 0, "syncfs": 0}
    fsync = os.fsync

    def one(descriptor: int) -> None:
        counts["fsync"] += 1
        fsync(descriptor)

    class Library:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        @staticmethod
        def syncfs(descriptor: int) -> int:
            assert os.fstat(descriptor)
            counts["syncfs"] += 1
            return 0

    monkeypatch.setattr(os, "fsync", one)
    monkeypatch.setattr(ctypes, "CDLL", Library)
    return counts


def files(folder: Path, count: int) -> list[str]:
    """Make so many files; return their paths."""
    for number in range(count):
        (folder / f"{number}").write_bytes(b"x")
    return [str(folder / f"{number}") for number in range(count)]


def mounts(path: Path, folder: Path, kind: str) -> Path:
    """Write what the kernel would say of a folder on a file system of a type."""
    place = str(folder).replace(" ", chr(92) + "040")
    text = f"22 1 254:0 / / rw - ext4 /dev/root rw\n30 22 0:30 / {place} rw - {kind} x rw\n"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("kind", "together"), [("ext4", True), ("xfs", True), ("nfs4", False), ("fuse.sshfs", False)])
def test_file_system_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: dict[str, int], kind: str, together: bool
) -> None:
    """A disk of this machine is synced at once; a server is asked for each file."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.setattr(disk, "_MOUNTS", mounts(tmp_path / "mounts", folder, kind))
    monkeypatch.setattr(disk, "_kernel", lambda: (5, 8))
    disk.sync_all(folder, files(folder, 20))
    assert calls == ({"fsync": 0, "syncfs": 1} if together else {"fsync": 21, "syncfs": 0})


def test_folder_is_looked_at_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: dict[str, int]) -> None:
    """Nothing is remembered of a folder: a worker meets another one with every shard."""
    monkeypatch.setattr(disk, "_kernel", lambda: (5, 8))
    for kind in ("ext4", "nfs4"):
        monkeypatch.setattr(disk, "_MOUNTS", mounts(tmp_path / "mounts", tmp_path, kind))
        disk.sync_all(tmp_path, files(tmp_path, 20))
    assert calls == {"fsync": 21, "syncfs": 1}


def test_few_files_wait_for_nobody_else(tmp_path: Path, calls: dict[str, int]) -> None:
    """What others write to the disk does not hold up a small shard."""
    disk.sync_all(tmp_path, files(tmp_path, 3))
    assert calls == {"fsync": 4, "syncfs": 0}


def test_old_kernel_hides_failed_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: dict[str, int]) -> None:
    """Before 5.8 syncfs reported no failed write, so it is not relied on."""
    monkeypatch.setattr(disk, "_kernel", lambda: (5, 7))
    disk.sync_all(tmp_path, files(tmp_path, 20))
    assert calls["syncfs"] == 0


def test_missing_file_is_told(tmp_path: Path) -> None:
    """Also where the file system is synced as a whole."""
    with pytest.raises(FileNotFoundError):
        disk.sync_all(tmp_path, [*files(tmp_path, 20), str(tmp_path / "none")])


def test_failed_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What syncfs reports is raised."""

    class Failing:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        @staticmethod
        def syncfs(_: int) -> int:
            ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(disk, "_is_local", lambda _: True)
    monkeypatch.setattr(ctypes, "CDLL", Failing)
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync_all(tmp_path, files(tmp_path, 20))


def test_real_disk(tmp_path: Path) -> None:
    """It works on the machine that runs this."""
    disk.sync_all(tmp_path, files(tmp_path, 20))
    disk.sync_all(tmp_path / "none", [])
