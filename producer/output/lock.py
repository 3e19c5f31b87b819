"""Lock an output folder, so that one producer at a time works on a run. If a producer dies, its lock becomes free.

The lock is ``flock`` on ``OUT/.lock``: the kernel releases it when its holder ends for any reason. It works between
processes, between containers with a shared folder, and over NFS (unless mounted with ``local_lock``). Once a process
has the lock, it describes itself in the file as JSON. The file stays when the lock is released. Only the holder of the
lock may remove the file (`discard`). So a new holder checks whether the file it has opened is still the file at this
path.

On a file system without such locks, a second producer is not detected. The command warns about this and continues. Even
with two producers no file is partial. At worst, images are downloaded twice.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from producer.waiting import wait_until
from tasks.errors import CommandError, UsageError
from tasks.redaction import redacted
from tasks.storage.local_store import LocalStore
from tasks.storage.store import PRIVATE_MODE

NAME = ".lock"
_log = logging.getLogger(__name__)
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
#: Retry a held lock for this many seconds. A killed holder takes a moment to end, and a check also holds the lock for a
#: moment.
_RETRY_SECONDS = 1.0
_RETRY_INTERVAL_SECONDS = 0.05
#: Maximum size of the description in the lock file, in bytes.
_MAX_BYTES = 65536


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds a lock; ``since`` in seconds since the epoch.

    The value contains no secrets. So it has the name of the command, without the options, which may contain secrets.
    """

    host: str
    pid: int
    since: float
    command: str
    #: The redacted URL of its broker; None for a local fleet.
    broker: str | None

    @property
    def text(self) -> str:
        """The process, host and start time, for messages."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


#: The holder of a lock whose file has no description of the holder yet.
_UNKNOWN = LockHolder("an unknown host", 0, 0.0, "", None)


@contextmanager
def hold(place: LocalStore | Path, broker: str | None, command: str = "") -> Iterator[None]:
    """Hold the lock of an existing output folder during the block.

    Args:
        place: the folder.
        broker: the URL of the holder's broker; the lock file shows it redacted. None for a local fleet.
        command: the name of the holder's command, for the lock file.

    Raises:
        UsageError: another producer holds the lock, or the lock file can't be opened.
    """
    path = _path(place)
    descriptor = _acquire(path)
    try:
        _write(descriptor, _describe_self(broker, command))
        try:
            yield
        finally:
            # Otherwise the next holder would appear under this description until it has written its own.
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def check_unlocked(place: LocalStore | Path) -> None:
    """Check that no producer holds an output folder's lock, without taking the lock or creating its file.

    Raises:
        UsageError: a producer holds it.
        CommandError: the lock file can't be read.
    """
    other = current_holder(place)
    if other is not None:
        raise _taken_error(_path(place).parent, other)


def discard(place: LocalStore | Path) -> None:
    """Remove the lock file. Only the lock's holder may do this, after making sure that the folder holds no run."""
    with suppress(OSError):
        _path(place).unlink()


def dead_holder(place: LocalStore | Path) -> LockHolder | None:
    """Return the last holder if it died with the lock; None if it released the lock or the file can't be read."""
    try:
        descriptor = os.open(_path(place), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def current_holder(place: LocalStore | Path) -> LockHolder | None:
    """Return the holder of an output folder's lock; None if the lock is free, or the file system has no locks.

    Raises:
        CommandError: the lock file can't be read.
    """
    path = _path(place)
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
        # Use a shared lock, so that concurrent checks do not see each other as holders.
        if _try_lock(descriptor, fcntl.LOCK_SH, path, 0.0):
            return None
        return wait_until(lambda: _read(descriptor), _RETRY_SECONDS, _RETRY_INTERVAL_SECONDS) or _UNKNOWN
    finally:
        os.close(descriptor)


def _path(place: LocalStore | Path) -> Path:
    return (place.root if isinstance(place, LocalStore) else place) / NAME


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
                raise _taken_error(path.parent, _read(descriptor) or _UNKNOWN)
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
                "the file system of %s does not support locks (%s). Make sure that no second producer works there",
                path.parent,
                error.strerror,
            )
        return True


def _taken_error(folder: Path, other: LockHolder) -> UsageError:
    command = f" (producer {other.command})" if other.command else ""
    return UsageError(
        f"Another producer works on {folder}",
        f"it is {other.text}{command}"
        if other.pid
        else "the producer holds the folder's lock, but has not described itself yet",
        f"Wait until it has ended, or run `producer cancel {shlex.quote(str(folder))}`.",
    )


def _describe_self(broker: str | None, command: str) -> LockHolder:
    return LockHolder(socket.gethostname(), os.getpid(), time.time(), command, redacted(broker) if broker else None)


def _write(descriptor: int, holder: LockHolder) -> None:
    """Write the holder's description to the lock file.

    The description is only informative, so a full disk is not an error here.
    """
    text = (json.dumps(asdict(holder)) + "\n").encode()
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text[:_MAX_BYTES], 0)


def _read(descriptor: int) -> LockHolder | None:
    """Return the holder's description; None if it is missing or incomplete."""
    try:
        facts = json.loads(os.pread(descriptor, _MAX_BYTES, 0))
        return LockHolder(
            str(facts["host"]),
            int(facts["pid"]),
            float(facts["since"]),
            str(facts["command"]),
            None if facts["broker"] is None else str(facts["broker"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
