"""Lock an output folder on a file system. If a producer dies, its lock becomes free.

The lock is a ``flock`` on ``OUT/.lock``. The kernel releases it when the lock's holder ends for any reason. The lock
works between processes, and between containers that share a folder. It also works over NFS, unless NFS is mounted with
``local_lock``. Once a process has the lock, it describes itself in the file as JSON. The file stays when the lock is
released. Only the holder of the lock may remove the file (`discard`). So a new holder checks whether the file it has
opened is still the file at this path.

On a file system without such locks, a second producer is not detected. The command warns about this and continues. Even
if two producers work on the run, no file is partial. At worst, images are downloaded twice.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from producer.output.lock_holder import NAME, UNKNOWN_HOLDER, LockHolder, taken_error
from producer.waiting import wait_until
from tasks.errors import CommandError, UsageError
from tasks.storage.store import PRIVATE_MODE

_log = logging.getLogger(__name__)
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
#: Retry a held lock for this many seconds. A killed holder takes a moment to end. A check of the lock also holds the
#: lock for a moment.
_RETRY_SECONDS = 1.0
_RETRY_INTERVAL_SECONDS = 0.05
#: Maximum size of the description in the lock file, in bytes.
_MAX_BYTES = 65536


@contextmanager
def hold(folder: Path, broker: str | None, command: str = "") -> Iterator[None]:
    """Hold the lock of an existing output folder during the block.

    Args:
        folder: the folder.
        broker: the URL of the holder's broker; the lock file shows it redacted. None for a local fleet.
        command: the name of the holder's command, for the lock file.

    Raises:
        UsageError: another producer holds the lock, or the lock file can't be opened.
    """
    descriptor = _acquire(folder / NAME)
    try:
        _write(descriptor, LockHolder.current(broker, command))
        try:
            yield
        finally:
            # Otherwise, this description would seem to be the next holder's, until the next holder has written its own.
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def set_fleet(folder: Path, url: str) -> None:
    """Add the URL of a local fleet's Redis to the lock's description. Call this only while holding the lock."""
    with suppress(OSError):
        # Closing a second descriptor does not release a `flock`.
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if (holder := _read(descriptor)) is not None:
                _write(descriptor, replace(holder, fleet=url))
        finally:
            os.close(descriptor)


def discard(folder: Path) -> None:
    """Remove the lock file. Call this only while holding the lock, and only if the folder holds no run."""
    with suppress(OSError):
        (folder / NAME).unlink()


def dead_holder(folder: Path) -> LockHolder | None:
    """Return the last holder if it died with the lock.

    Return None if it released the lock, or if the file can't be read.
    """
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def current_holder(folder: Path) -> LockHolder | None:
    """Return the holder of an output folder's lock, or None.

    The result is None if the lock is free, or if the file system has no locks.

    Raises:
        CommandError: the lock file can't be read.
    """
    path = folder / NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CommandError(
            f"Can't check whether another producer works on {path.parent}",
            f"{NAME}: {error.strerror or error}",
            "Run the command as the user who owns the run.",
        ) from error
    try:
        # Use a shared lock, so that one check does not see another check as the holder.
        if _try_lock(descriptor, fcntl.LOCK_SH, path, 0.0):
            return None
        return wait_until(lambda: _read(descriptor), _RETRY_SECONDS, _RETRY_INTERVAL_SECONDS) or UNKNOWN_HOLDER
    finally:
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Lock the file, make sure that it is still the file at this path, and return its descriptor."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_MODE)
        except OSError as error:
            raise UsageError(
                f"The output folder {path.parent} can't be locked",
                f"{NAME}: {error.strerror or error}",
                "Choose an existing folder you can write to, and run the command as the user who owns the run.",
            ) from error
        try:
            if not _try_lock(descriptor, fcntl.LOCK_EX, path, _RETRY_SECONDS):
                raise taken_error(str(path.parent), _read(descriptor) or UNKNOWN_HOLDER)
            if _is_current(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # The previous holder has removed the file.
        os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _try_lock(descriptor: int, kind: int, path: Path, seconds: float) -> bool:
    """Try to lock the file for some seconds; return whether it is locked.

    On a file system without locks, warn and return True.
    """

    def try_once() -> bool:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        return wait_until(try_once, seconds, _RETRY_INTERVAL_SECONDS)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise UsageError(
                f"The output folder {path.parent} can't be locked",
                f"{NAME}: {error.strerror or error}",
                "Check the file system of that folder, or choose another folder.",
            ) from error
        if kind == fcntl.LOCK_EX:
            _log.warning(
                "the file system of %s does not support locks (%s). Make sure that only one producer uses this folder",
                path.parent,
                error.strerror,
            )
        return True


def _write(descriptor: int, holder: LockHolder) -> None:
    """Write the holder's description to the lock file.

    The description is only for information. So an error is ignored, for example if the disk is full.
    """
    text = holder.to_json()
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text[:_MAX_BYTES], 0)


def _read(descriptor: int) -> LockHolder | None:
    """Return the holder's description; None if it is missing or incomplete."""
    try:
        return LockHolder.from_json(os.pread(descriptor, _MAX_BYTES, 0))
    except OSError:
        return None
