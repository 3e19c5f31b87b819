"""The lock of an output folder: one producer at a time works on a run, and one that died keeps nobody out.

It is ``flock`` on ``OUT/.lock``: the system gives it up with its holder, however that one ends. It holds between
processes, between containers that share the folder, and over NFS (unless mounted with ``local_lock``). The file says
who holds it, as JSON that the holder writes once it has the lock. It stays when the lock is given up: only a holder may
remove it (`discard`), and whoever gets a lock looks whether its file still is the one that others find.

Where the file system knows no such locks, two producers are not told from each other. A warning says so, and the
command goes on: a run's files are whole there all the same, and its images are fetched twice at worst.
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

from tasks.errors import CommandError, UsageError
from tasks.redaction import redacted
from tasks.storage.store import PRIVATE_MODE, Store

NAME = ".lock"
_log = logging.getLogger(__name__)
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
#: Seconds for which a lock that is taken is tried again: a holder that was killed takes a moment to end, and whoever
#: asks for the holder has the lock for a moment itself.
_RETRY_SECONDS = 1.0
_RETRY_INTERVAL_SECONDS = 0.05
#: More than a holder writes of itself.
_MAX_BYTES = 65536


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who has a lock; ``since`` in seconds since the epoch.

    Nothing in it is secret: of the command that it runs only the name is told, for its options may be secrets.
    """

    host: str
    pid: int
    since: float
    command: str
    #: The URL of its broker, redacted; None for one with a local fleet.
    broker: str | None

    @property
    def text(self) -> str:
        """What a person needs to know."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


#: A holder that has not yet said who it is.
_UNKNOWN = LockHolder("an unknown host", 0, 0.0, "", None)


@contextmanager
def hold(place: Store | Path, broker: str | None, command: str = "") -> Iterator[None]:
    """Hold the lock of an output folder, which is there, for as long as the block takes.

    Args:
        place: the folder.
        broker: the URL of the broker that the holder uses, for others to see redacted; None for a local fleet.
        command: the name of the command that the holder runs, for others to see.

    Raises:
        UsageError: another producer holds it, or the file of the lock can't be opened.
    """
    path = _path(place)
    descriptor = _acquire(path)
    try:
        _write(descriptor, _describe_self(broker, command))
        try:
            yield
        finally:
            # What stands there for no reason would be taken for a holder's before the next one has written.
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def check_unlocked(place: Store | Path) -> None:
    """Make sure that no producer holds the lock of an output folder; it is not taken, and no file of it made.

    Raises:
        UsageError: one holds it.
        CommandError: the file of the lock can't be read.
    """
    other = current_holder(place)
    if other is not None:
        raise _taken_error(_path(place).parent, other)


def discard(place: Store | Path) -> None:
    """Remove the file of the lock; only its holder may, when it leaves the folder to nobody."""
    with suppress(OSError):
        _path(place).unlink()


def dead_holder(place: Store | Path) -> LockHolder | None:
    """Return who held the lock last and died with it; None where it was given up, or can't be read."""
    try:
        descriptor = os.open(_path(place), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def current_holder(place: Store | Path) -> LockHolder | None:
    """Return who holds the lock of an output folder; None if nobody does, or if the file system can't tell.

    Raises:
        CommandError: the file of the lock can't be read.
    """
    path = _path(place)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CommandError(
            f"Whether another producer works on {path.parent} can't be told",
            f"{NAME}: {error.strerror or error}",
            "Ask as the user whose run it is.",
        ) from error
    try:
        # Shared: others who only ask do not look like a holder.
        if _try_lock(descriptor, fcntl.LOCK_SH, path, 0.0):
            return None
        ends = time.monotonic() + _RETRY_SECONDS
        while (found := _read(descriptor)) is None and time.monotonic() < ends:
            time.sleep(_RETRY_INTERVAL_SECONDS)
        return found or _UNKNOWN
    finally:
        os.close(descriptor)


def _path(place: Store | Path) -> Path:
    return (place.root if isinstance(place, Store) else place) / NAME


def _acquire(path: Path) -> int:
    """Return the open file of a lock that is held now, and is the one that others find."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_MODE)
        except OSError as error:
            raise UsageError(
                f"The output folder {path.parent} can't be locked",
                f"{NAME}: {error.strerror or error}",
                "Choose a folder that is there and that you may write to, as the user whose run it is.",
            ) from error
        try:
            if not _try_lock(descriptor, fcntl.LOCK_EX, path, _RETRY_SECONDS):
                raise _taken_error(path.parent, _read(descriptor) or _UNKNOWN)
            if _is_current(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Whoever held it before us has removed it.
        os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _try_lock(descriptor: int, kind: int, path: Path, seconds: float) -> bool:
    """Take a lock, or find within so many seconds that another has it; warn where there are none, and go on."""
    ends = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= ends:
                return False
            time.sleep(_RETRY_INTERVAL_SECONDS)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise UsageError(
                    f"The output folder {path.parent} can't be locked",
                    f"{NAME}: {error.strerror or error}",
                    "Look at the file system of that folder, or choose another.",
                ) from error
            if kind == fcntl.LOCK_EX:
                _log.warning(
                    "the file system of %s knows no locks (%s), so nothing keeps a second producer out: start none",
                    path.parent,
                    error.strerror,
                )
            return True


def _taken_error(folder: Path, other: LockHolder) -> UsageError:
    command = f" (producer {other.command})" if other.command else ""
    return UsageError(
        f"Another producer works on {folder}",
        f"it is {other.text}{command}" if other.pid else "it holds the folder's lock, and has not said who it is",
        f"Wait until it has ended, or end it: producer cancel {shlex.quote(str(folder))}",
    )


def _describe_self(broker: str | None, command: str) -> LockHolder:
    return LockHolder(socket.gethostname(), os.getpid(), time.time(), command, redacted(broker) if broker else None)


def _write(descriptor: int, holder: LockHolder) -> None:
    """Say who holds the lock. It is for people: a disk that is full for it keeps nobody from holding it."""
    text = (json.dumps(asdict(holder)) + "\n").encode()
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text[:_MAX_BYTES], 0)


def _read(descriptor: int) -> LockHolder | None:
    """Return what a holder says of itself; None where it has not said it, or not to the end."""
    try:
        said = json.loads(os.pread(descriptor, _MAX_BYTES, 0))
        return LockHolder(
            str(said["host"]),
            int(said["pid"]),
            float(said["since"]),
            str(said["command"]),
            None if said["broker"] is None else str(said["broker"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
