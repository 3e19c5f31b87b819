"""Files are synced with syncfs where that is as safe as fsync, and one by one otherwise."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tasks.storage import fsync


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the calls of fsync and syncfs."""
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
    """Create this many files. Return the paths of the files."""
    for number in range(count):
        (folder / f"{number}").write_bytes(b"x")
    return [str(folder / f"{number}") for number in range(count)]


def mounts(path: Path, folder: Path, kind: str) -> Path:
    """Write a mountinfo file, as the kernel would, for a folder on a file system of this type."""
    place = str(folder).replace(" ", chr(92) + "040")
    text = f"22 1 254:0 / / rw - ext4 /dev/root rw\n30 22 0:30 / {place} rw - {kind} x rw\n"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("kind", "together"), [("ext4", True), ("xfs", True), ("nfs4", False), ("fuse.sshfs", False)])
def test_file_system_type_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: dict[str, int], kind: str, together: bool
) -> None:
    """A local disk is synced as a whole. On a network file system, each file is synced."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.setattr(fsync, "_MOUNT_INFO", mounts(tmp_path / "mounts", folder, kind))
    monkeypatch.setattr(fsync, "_kernel_version", lambda: (5, 8))
    fsync.sync_all(folder, files(folder, 20))
    assert calls == ({"fsync": 0, "syncfs": 1} if together else {"fsync": 21, "syncfs": 0})


def test_file_system_type_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: dict[str, int]) -> None:
    """The folder's file system is looked up for every shard, because each shard may be in another folder."""
    monkeypatch.setattr(fsync, "_kernel_version", lambda: (5, 8))
    for kind in ("ext4", "nfs4"):
        monkeypatch.setattr(fsync, "_MOUNT_INFO", mounts(tmp_path / "mounts", tmp_path, kind))
        fsync.sync_all(tmp_path, files(tmp_path, 20))
    assert calls == {"fsync": 21, "syncfs": 1}


def test_few_files_are_synced_one_by_one(tmp_path: Path, calls: dict[str, int]) -> None:
    """A small shard is synced file by file, so it does not wait for other processes' writes to the disk."""
    fsync.sync_all(tmp_path, files(tmp_path, 3))
    assert calls == {"fsync": 4, "syncfs": 0}


def test_old_kernels_use_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: dict[str, int]) -> None:
    """Before Linux 5.8 syncfs did not report failed writes, so it is not used."""
    monkeypatch.setattr(fsync, "_kernel_version", lambda: (5, 7))
    fsync.sync_all(tmp_path, files(tmp_path, 20))
    assert calls["syncfs"] == 0


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    """A missing file is an error even if the whole file system is synced."""
    with pytest.raises(FileNotFoundError):
        fsync.sync_all(tmp_path, [*files(tmp_path, 20), str(tmp_path / "none")])


def test_failed_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of syncfs is raised."""

    class Failing:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        @staticmethod
        def syncfs(_: int) -> int:
            ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(fsync, "_is_local", lambda _: True)
    monkeypatch.setattr(ctypes, "CDLL", Failing)
    with pytest.raises(OSError, match="Input/output error"):
        fsync.sync_all(tmp_path, files(tmp_path, 20))


def test_real_disk(tmp_path: Path) -> None:
    """Syncing works on the machine that runs this test."""
    fsync.sync_all(tmp_path, files(tmp_path, 20))
    fsync.sync_all(tmp_path / "none", [])


def test_folders_between_are_synced(tmp_path: Path) -> None:
    """Without syncfs, the folder and all folders above the files in it are synced, but no folder above it."""
    top, paths = str(tmp_path), [f"{tmp_path}/a/b/{number}" for number in range(2)]
    assert fsync._folders(top, [*paths, f"{tmp_path}/c/1", f"{tmp_path}/2"]) == {
        top,
        *(f"{top}/{folder}" for folder in ("a", "a/b", "c")),
    }
    assert fsync._folders(top, []) == {top}
