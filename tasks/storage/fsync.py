"""Sync files and folders to disk: one by one, or all at once by syncing their file system.

A shard has a thousand files. With an fsync for each file, a fleet was a fifth slower, because the file system writes
its journal at each fsync. ``syncfs`` (syncfs(2), Linux) writes the journal once for all files. ``syncfs`` is used only
on local file systems, and only if the kernel reports failed writes through it (Linux 5.8 or newer). On a file server,
each file needs its own fsync.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

#: The file systems where syncfs is as reliable as an fsync for each file, by their names in /proc/self/mountinfo.
_LOCAL_FILE_SYSTEMS = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"})
_MOUNT_INFO = Path("/proc/self/mountinfo")
_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")
#: Maximum number of files to sync one by one. For so few files, syncfs may be slower, because it also waits for the
#: writes of other processes.
_MAX_SINGLE_SYNCS = 16


def sync(path: str | Path) -> None:
    """Sync a file or a folder to disk.

    Raises:
        OSError: the file or folder can't be synced.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: str | Path, paths: Iterable[str]) -> None:
    """Sync to disk: files, the folder above the files, and all folders in between.

    Raises:
        OSError: a file or folder can't be synced.
    """
    found = list(paths)
    if len(found) > _MAX_SINGLE_SYNCS and _is_local(str(folder)):
        for path in found:
            # Raise an error for a missing file, because syncfs does not report one.
            os.stat(path)  # noqa: PTH116  # called a thousand times for each shard
        _sync_file_system(folder)
        return
    for path in found:
        sync(path)
    # A new folder is only on the disk after its parent was synced.
    for parent in sorted(_folders(str(folder), found)):
        # If there are no files, the folder may not exist.
        with suppress(FileNotFoundError):
            sync(parent)


def _folders(top: str, paths: Iterable[str]) -> set[str]:
    """Return a folder, and all folders between it and these files."""
    folders = {top}
    # Many files share a folder.
    for parent in {path.rpartition("/")[0] for path in paths}:
        while parent not in folders and parent.startswith(f"{top}/"):
            folders.add(parent)
            parent = parent.rpartition("/")[0]  # noqa: PLW2901  # up to the top
    return folders


def _sync_file_system(folder: str | Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


def _is_local(folder: str) -> bool:
    """Return whether syncfs syncs a folder's files as reliably as an fsync for each file.

    The result is not cached. Each shard has its own folder, so a worker would never reuse a cached result.
    """
    if platform.system() != "Linux" or _kernel_version() < (5, 8):
        return False
    real = os.path.realpath(folder)
    longest, kind = "", ""
    try:
        lines = _MOUNT_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    for line in lines:
        fields, _, more = line.partition(" - ")
        place = _OCTAL_ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields.split()[4])
        # A later mount hides an earlier mount at the same place.
        if len(place) >= len(longest) and (real == place or real.startswith(place.rstrip("/") + "/")):
            longest, kind = place, more.split()[0]
    return kind in _LOCAL_FILE_SYSTEMS


def _kernel_version() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)
