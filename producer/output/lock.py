"""Lock an output folder, so that no two producers work on a run at the same time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from producer.output import file_lock, lease
from producer.output.lock_holder import NAME, LockHolder, taken_error
from tasks.errors import CommandError
from tasks.storage.local_store import LocalStore
from tasks.storage.object_store import ObjectStore
from tasks.storage.store import Store

__all__ = [
    "NAME",
    "LockHolder",
    "check_held",
    "check_unlocked",
    "current_holder",
    "dead_holder",
    "discard",
    "hold",
    "is_lost",
    "set_fleet",
]


def hold(place: Store | Path, broker: str | None, command: str = "") -> AbstractContextManager[None]:
    """Return a context manager that holds the lock of an existing output folder.

    Args:
        place: the folder.
        broker: the URL of the holder's broker; the lock shows it redacted. None for a local fleet.
        command: the name of the holder's command, for the lock.

    Raises:
        UsageError: another producer holds the lock, or the folder can't be locked.
    """
    if isinstance(place, ObjectStore):
        return lease.hold(place, broker, command)
    return file_lock.hold(_folder(place), broker, command)


def set_fleet(place: Store, url: str) -> None:
    """Add the URL of the Redis of this process's local fleet to the lock, so that other commands find the fleet.

    Call this only while holding the lock. An error is ignored, because the URL is only for information.
    """
    if isinstance(place, ObjectStore):
        lease.set_fleet(place, url)
    else:
        file_lock.set_fleet(_folder(place), url)


def check_held(place: Store) -> None:
    """Check that no other producer has taken over this producer's lock.

    Raises:
        CommandError: another producer has taken over the lock, because this process was paused or cut off from the
            store for too long.
    """
    other = lease.successor(place) if isinstance(place, ObjectStore) else None
    if other is not None:
        raise CommandError(
            f"Another producer has taken over the run in {place.location}",
            f"this process did not renew its lock in time; the other producer is {other.text}",
            "Let the other producer complete the run.",
        )


def is_lost(place: Store) -> bool:
    """Return whether another producer has taken over this producer's lock.

    The check may send a request to the store.
    """
    return isinstance(place, ObjectStore) and lease.is_lost(place)


def check_unlocked(place: Store | Path) -> None:
    """Check that no producer holds an output folder's lock, without taking the lock or creating its file.

    Raises:
        UsageError: a producer holds the lock.
        CommandError: the lock can't be read.
    """
    other = current_holder(place)
    if other is not None:
        raise taken_error(place.location if isinstance(place, Store) else str(place), other)


def discard(place: Store | Path) -> None:
    """Remove the lock. Call this only while holding the lock, and only if the folder holds no run."""
    if isinstance(place, ObjectStore):
        lease.discard(place)
    else:
        file_lock.discard(_folder(place))


def dead_holder(place: Store | Path) -> LockHolder | None:
    """Return the last holder if it died before it released the lock.

    Return None if it released the lock, or if the lock can't be read.
    """
    return lease.dead_holder(place) if isinstance(place, ObjectStore) else file_lock.dead_holder(_folder(place))


def current_holder(place: Store | Path) -> LockHolder | None:
    """Return the holder of an output folder's lock, or None.

    The result is None if the lock is free, or if the file system has no locks.

    Raises:
        CommandError: the lock can't be read.
    """
    return lease.current_holder(place) if isinstance(place, ObjectStore) else file_lock.current_holder(_folder(place))


def _folder(place: Store | Path) -> Path:
    if isinstance(place, Path):
        return place
    assert isinstance(place, LocalStore)
    return place.root
