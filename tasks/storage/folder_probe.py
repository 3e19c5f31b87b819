"""Probe an output folder from one process: check that it is the producer's own folder, and that it is writable.

The producer writes a small file with a unique name to the folder, and asks each worker by remote control to look for
the file. Regardless of the request, a worker only touches folders below the store roots set by its operator. It creates
no folder.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from config.locations import Location
from tasks.errors import StorageError
from tasks.storage.local_store import LocalStore
from tasks.storage.locations import open_allowed
from tasks.storage.store import PRIVATE_MODE, Store

_TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The state of a folder as one process sees it. If one check fails, the later results are false too."""

    #: Whether the operator lets the process write to the folder.
    allowed: bool = False
    #: Whether the process sees the producer's file, with the right content.
    same: bool = False
    #: Whether the process can create and remove a file in the folder.
    writable: bool = False
    #: Free bytes for the folder, or None if unknown.
    free: int | None = None
    #: The error message, or an empty string.
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the result in a form that JSON can encode."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ProbeResult:
        """Return the result that another process sent.

        Raises:
            KeyError, TypeError, ValueError: the value is not such a result.
        """
        free = value["free"]
        return cls(
            value["allowed"] is True,
            value["same"] is True,
            value["writable"] is True,
            None if free is None else int(free),
            str(value["error"]),
        )


def new_token() -> str:
    """Return a unique token for the name and the content of the producer's file."""
    return secrets.token_hex(16)


def probe_name(token: str) -> str:
    """Return the name of the producer's file."""
    return f".doctor-{token}"


def write_probe(store: Store, token: str) -> None:
    """Write the file by which workers recognise the folder.

    Raises:
        OSError, StorageError: the file can't be written.
    """
    if isinstance(store, LocalStore):
        _write(store.path(probe_name(token)), token.encode())
    else:
        store.create(probe_name(token), token.encode())


def remove_probe(store: Store, token: str) -> None:
    """Remove the producer's file, if it exists and can be removed."""
    with suppress(StorageError):
        store.remove(probe_name(token))


def probe_folder(out: Any, token: Any, allowed: Iterable[Location]) -> ProbeResult:
    """Return the state of a folder as this process sees it.

    Args:
        out: the folder's location at the producer.
        token: the token of the producer's file in the folder.
        allowed: the folders below which this process may write.
    """
    if not isinstance(out, str) or not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return ProbeResult(error="the producer's request is not valid")
    try:
        store = open_allowed(out, allowed)
    except StorageError as error:
        return ProbeResult(error=str(error))
    except (OSError, ValueError, RuntimeError) as error:
        # The path is not valid, is too long, or contains a cycle of links.
        return ProbeResult(error=f"{out!a:.200} can't be inspected: {error}")
    return _probe_path(store, token) if isinstance(store, LocalStore) else _probe_objects(store, token)


def _probe_objects(store: Store, token: str) -> ProbeResult:
    """Return the state of a folder in an object store. An object store has no limit of space."""
    try:
        if not store.exists(probe_name(token)):
            return ProbeResult(allowed=True, error="the producer's file does not exist")
        if store.read(probe_name(token)) != token.encode():
            return ProbeResult(allowed=True, error="the producer's file has other content")
    except StorageError as error:
        return ProbeResult(allowed=True, error=str(error))
    try:
        store.check_writable()
    except StorageError as error:
        return ProbeResult(True, True, False, error=f"no file can be created there: {error}")
    return ProbeResult(True, True, True)


def _probe_path(store: LocalStore, token: str) -> ProbeResult:
    """Return the state of a folder on a file system."""
    try:
        same = _has_content(store.path(probe_name(token)), token.encode())
    except FileNotFoundError:
        missing = "the producer's file" if store.root.is_dir() else "the folder"
        return ProbeResult(allowed=True, error=f"{missing} does not exist")
    except OSError as error:
        return ProbeResult(allowed=True, error=f"the producer's file can't be read: {error.strerror or error}")
    if not same:
        return ProbeResult(allowed=True, error="the producer's file has other content")
    try:
        free = shutil.disk_usage(store.root).free
    except OSError:
        free = None
    probe = store.path(probe_name(f"{token}-{new_token()}"))
    try:
        _write(probe, token.encode())
        probe.unlink()
    except OSError as error:
        return ProbeResult(True, True, False, free, f"no file can be created there: {error.strerror or error}")
    return ProbeResult(True, True, True, free)


def _write(path: Path, body: bytes) -> None:
    """Create a private file; if this fails, no part of the file remains."""
    # Don't use the Store's temporary folder, because its removal would disturb a run in progress.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_MODE)
    try:
        try:
            if os.write(descriptor, body) < len(body):
                raise OSError("the disk is full")
        finally:
            os.close(descriptor)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise


def _has_content(path: Path, body: bytes) -> bool:
    """Return whether a file has exactly these bytes. The check follows no link, and never waits for a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, len(body) + 1) == body
    finally:
        os.close(descriptor)
