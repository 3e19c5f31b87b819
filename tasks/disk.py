"""What is on the disk for good: files and folders that are synced, one by one or with their file system.

A shard has a thousand files, and an fsync for each took a fifth of a fleet's speed: each makes the file system write
its journal. ``syncfs`` (syncfs(2), Linux) writes it once for all of them. It is used where the kernel reports failed
writes from it, which it does since 5.8, and on file systems of this machine; a server behind any other has to be asked
for each file.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

#: The types that /proc/self/mountinfo knows, of which syncfs is as good as an fsync for each file.
_LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"})
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")
#: So few files are synced one by one: others write to the file system too, and syncfs waits for them.
_FEW = 16


def sync(path: str | Path) -> None:
    """Put a file or a folder on the disk.

    Raises:
        OSError: it can't be.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: str | Path, paths: Iterable[str]) -> None:
    """Put files and the folder that they are in on the disk.

    Raises:
        OSError: one can't be.
    """
    found = list(paths)
    if len(found) > _FEW and _is_local(str(folder)):
        for path in found:
            # It has to be there: syncfs would not tell.
            os.stat(path)  # noqa: PTH116  # a thousand times a shard
        _sync_file_system(folder)
        return
    for path in found:
        sync(path)
    # Without any file, the folder may not be there.
    with suppress(FileNotFoundError):
        sync(folder)


def _sync_file_system(folder: str | Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


def _is_local(folder: str) -> bool:
    """Tell whether syncfs does for a folder what fsync would do for each of its files.

    Nothing is remembered: each shard has a folder of its own, so a worker would remember them all, and use none of it.
    """
    if platform.system() != "Linux" or _kernel() < (5, 8):
        return False
    real = os.path.realpath(folder)
    longest, kind = "", ""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    for line in lines:
        fields, _, more = line.partition(" - ")
        place = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields.split()[4])
        # A later line covers an earlier one at the same place.
        if len(place) >= len(longest) and (real == place or real.startswith(place.rstrip("/") + "/")):
            longest, kind = place, more.split()[0]
    return kind in _LOCAL


def _kernel() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)
