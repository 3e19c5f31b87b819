"""Lock an output folder in an object store. If a producer dies, another producer can take over its lock.

The lock is the object ``.lock``. It is created only if it does not exist. The lock's holder describes itself in this
object. The holder rewrites the object every few seconds, on the condition that the object is unchanged. A producer that
finds the lock watches the object. If the object does not change during the lifetime of a renewal, the holder is dead.
The producer then takes over the lock, again only if the object is unchanged. So no two clocks are compared. If two
producers try to take over a lock, one of the two producers fails.

A holder may be paused or cut off for too long. Then it notices at its next renewal that it has lost the lock. From then
on, its store refuses each write, and its run ends.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache

from config import limits
from producer.output.lock_holder import NAME, UNKNOWN_HOLDER, LockHolder, taken_error
from producer.waiting import wait_until
from tasks.broker.liveness import WorkerId
from tasks.errors import CommandError, StorageError, UsageError
from tasks.storage.object_store import ObjectStore, Version

_log = logging.getLogger(__name__)
#: Seconds between two renewals, and seconds after which a lock that was not renewed can be taken over.
_RENEWAL_SECONDS, _LIFETIME_SECONDS = float(limits.HEARTBEAT_INTERVAL), float(limits.HEARTBEAT_TIMEOUT)
_WATCH_INTERVAL_SECONDS = 0.5
#: The content of a lock that nobody holds.
_FREE = b""


@contextmanager
def hold(store: ObjectStore, broker: str | None, command: str = "") -> Iterator[None]:
    """Hold the lock of an output folder during the block.

    Args:
        store: the folder.
        broker: the URL of the holder's broker; the lock shows it redacted. None for a local fleet.
        command: the name of the holder's command, for the lock.

    Raises:
        UsageError: another producer holds the lock, or the folder can't be locked.
    """
    lease = _Lease(store, LockHolder.current(broker, command))
    try:
        store.check_writable()
        lease.acquire()
    except StorageError as error:
        raise UsageError(
            f"The output folder {store.location} can't be locked",
            str(error),
            "Check the store, and the permissions of the credentials in this process's environment.",
        ) from error
    with lease:
        store.before_write = lease.check
        _held[store] = lease
        try:
            yield
        finally:
            del _held[store]
            store.before_write = None


def successor(store: ObjectStore) -> LockHolder | None:
    """Return the producer that has taken over this process's lock, or None."""
    lease = _held.get(store)
    return None if lease is None else lease.successor


def is_lost(store: ObjectStore) -> bool:
    """Return whether another producer has taken over this process's lock.

    If the last renewal is old, renew the lock first. If the store can't be reached, the lock counts as held.
    """
    lease = _held.get(store)
    if lease is None:
        return False
    with suppress(StorageError):
        lease.check()
    return lease.successor is not None


def set_fleet(store: ObjectStore, url: str) -> None:
    """Add the URL of a local fleet's Redis to the lock's description. Other processes see it after the next renewal."""
    if (lease := _held.get(store)) is not None:
        lease.holder = replace(lease.holder, fleet=url)


def discard(store: ObjectStore) -> None:
    """Remove the lock. Call this only while holding the lock, and only if the folder holds no run."""
    with suppress(StorageError):
        store.remove(NAME)


def dead_holder(store: ObjectStore) -> LockHolder | None:
    """Return the last holder if it died with the lock.

    Return None if it released the lock, or if the lock can't be read.
    """
    with suppress(StorageError):
        found = store.read_version(NAME)
        return None if found is None else LockHolder.from_json(found[0])
    return None


def current_holder(store: ObjectStore) -> LockHolder | None:
    """Return the live holder of an output folder's lock, or None. This takes as long as the lifetime of a renewal.

    Raises:
        CommandError: the lock can't be read.
    """
    try:
        found = store.read_version(NAME)
        if found is not None and found[0] != _FREE:
            found = _wait_for_change(store, found)
    except StorageError as error:
        raise CommandError(
            f"Can't check whether another producer works on {store.location}",
            str(error),
            "Check the store, and the permissions of the credentials in this process's environment.",
        ) from error
    if found is None or found[0] == _FREE:
        return None
    return LockHolder.from_json(found[0]) or UNKNOWN_HOLDER


def _wait_for_change(store: ObjectStore, found: tuple[bytes, Version]) -> tuple[bytes, Version] | None:
    """Wait until a held lock has changed, and return it; None if the lock is gone or its holder is dead.

    Raises:
        StorageError: the lock can't be read.
    """
    holder = WorkerId.parse(_token(found[0]) or "")
    if holder is not None and _process().has_seen_exit(holder):
        return None
    latest: tuple[bytes, Version] | None = found

    def changed() -> bool:
        nonlocal latest
        latest = store.read_version(NAME)
        return latest != found

    return latest if wait_until(changed, _LIFETIME_SECONDS, _WATCH_INTERVAL_SECONDS) else None


class _Lease:
    """This process's hold on a lock.

    This context manager renews the lock, and releases it at the end.
    """

    def __init__(self, store: ObjectStore, holder: LockHolder) -> None:
        self._store, self.holder = store, holder
        self._token = _process().name
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_stopped, name="lease", daemon=True)
        self._version: Version = {}
        self._renewals = 0
        self._renewed_at = 0.0
        #: The producer that has taken over the lock; None if there is no such producer.
        self.successor: LockHolder | None = None

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        # If the store doesn't answer, don't wait for it. Another producer can then take over the lock, as it would
        # after this producer's death.
        self._thread.join(_RENEWAL_SECONDS)
        if self.successor is None and not self._thread.is_alive():
            with suppress(StorageError):
                self._store.replace_version(NAME, _FREE, self._version)

    def acquire(self) -> None:
        """Take the lock, if it is free or its holder is dead.

        Raises:
            UsageError: another producer holds the lock.
            StorageError: the lock can't be read or written.
        """
        version: Version | None = None
        while version is None:
            found = self._store.read_version(NAME)
            started = _now()
            if found is None:
                version = self._store.create_version(NAME, self._body())
            elif _token(found[0]) == self._token and json.loads(found[0])["since"] == self.holder.since:
                # The first response was lost.
                version = found[1]
            else:
                if found[0] != _FREE:
                    self._check_dead(found)
                version = self._store.replace_version(NAME, self._body(), found[1])
            self._renewed_at = started
        self._version = version

    def check(self) -> None:
        """Check that this process still holds the lock. If the last renewal is old, renew it first.

        Raises:
            StorageError: another producer has taken over the lock, or the store can't be reached.
        """
        if self.successor is None and _now() - self._renewed_at > _LIFETIME_SECONDS:
            self._renew()
        if self.successor is not None:
            raise StorageError(f"another producer has taken over the run: {self.successor.text}")

    def _check_dead(self, found: tuple[bytes, Version]) -> None:
        """Check that the holder of a lock is dead.

        Raises:
            UsageError: the holder is alive.
            StorageError: the lock can't be read.
        """
        latest = _wait_for_change(self._store, found)
        if latest is not None and latest[0] != _FREE:
            raise taken_error(self._store.location, LockHolder.from_json(latest[0]) or UNKNOWN_HOLDER)

    def _body(self) -> bytes:
        # Some stores derive an object's version from its content. So the number gives each renewal another content.
        return self.holder.to_json(token=self._token, renewals=self._renewals)

    def _renew_until_stopped(self) -> None:
        while self.successor is None and not self._stopping.wait(_RENEWAL_SECONDS):
            try:
                self._renew()
            except StorageError as error:
                _log.warning("the lock of %s can't be renewed at the moment: %s", self._store.location, error)

    def _renew(self) -> None:
        """Renew the lock. If another producer has taken over the lock, remember that producer.

        Raises:
            StorageError: the store can't be reached.
        """
        with self._lock:
            started = _now()
            self._renewals += 1
            version = self._store.replace_version(NAME, self._body(), self._version)
            if version is None:
                found = self._store.read_version(NAME)
                if found is not None and _token(found[0]) == self._token:
                    # The response to an earlier renewal was lost.
                    version = found[1]
                else:
                    other = None if found is None else LockHolder.from_json(found[0])
                    self.successor = other or UNKNOWN_HOLDER
                    return
            self._version, self._renewed_at = version, started


#: The locks that this process holds, by folder.
_held: dict[ObjectStore, _Lease] = {}


def _now() -> float:
    """Return the seconds since the host's start.

    Time in which the host was suspended is included, if the system has a clock that counts it.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@cache
def _process() -> WorkerId:
    return WorkerId.current("producer")


def _token(body: bytes) -> str | None:
    """Return the id of the process that holds a lock; None if the lock's text has no id."""
    try:
        return str(json.loads(body)["token"])
    except (ValueError, KeyError, TypeError):
        return None
