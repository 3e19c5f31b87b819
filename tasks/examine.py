"""An output folder as one process sees it: whether it is the producer's own folder, and can be written.

The producer leaves a small file with a name of its own in the folder, and asks each worker by remote control what it
sees. What a worker touches is decided by its operator's store roots, whatever the message says, and it makes no folder.
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

from tasks.errors import StorageFailed
from tasks.storage import PRIVATE, Store

_TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a process sees of a folder; each is false, too, where the ones before are."""

    #: Whether its operator lets it write there.
    allowed: bool = False
    #: Whether it sees the file that was left, with what is in it.
    same: bool = False
    #: Whether it can make a file there and remove it.
    writable: bool = False
    #: Bytes that are free there, if it can tell.
    free: int | None = None
    #: What is wrong, in words; empty where nothing is.
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Seen:
        """Return what another process has said.

        Raises:
            KeyError, TypeError, ValueError: it has said something else.
        """
        free = said["free"]
        return cls(
            said["allowed"] is True,
            said["same"] is True,
            said["writable"] is True,
            None if free is None else int(free),
            str(said["error"]),
        )


def new_token() -> str:
    """Return what a file is named by, and holds, that nobody else has."""
    return secrets.token_hex(16)


def name_of(token: str) -> str:
    """Return the name of the file that is left."""
    return f".doctor-{token}"


def leave(store: Store, token: str) -> None:
    """Leave the file by which others know the folder.

    Raises:
        OSError: it can't be written.
    """
    _write(store.path(name_of(token)), token.encode())


def take_away(store: Store, token: str) -> None:
    """Remove the file, if it is there and can be removed."""
    with suppress(OSError):
        store.path(name_of(token)).unlink()


def examine(out: Any, token: Any, allowed: Iterable[Path]) -> Seen:
    """Return what this process sees of a folder.

    Args:
        out: the folder's path, as the producer has it.
        token: what the file is named by that the producer has left there.
        allowed: the folders below which this process may write.
    """
    if not isinstance(out, str) or not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return Seen(error="what was asked is not understood")
    try:
        store = Store.below(out, allowed)
    except StorageFailed as error:
        return Seen(error=str(error))
    except (OSError, ValueError, RuntimeError) as error:
        # No path, too long for one, or links that go round in a circle.
        return Seen(error=f"{out!a:.200} can't be looked at: {error}")
    try:
        same = _holds(store.path(name_of(token)), token.encode())
    except FileNotFoundError:
        what = "the producer's file is not there" if store.root.is_dir() else "the folder is not there"
        return Seen(allowed=True, error=what)
    except OSError as error:
        return Seen(allowed=True, error=f"the producer's file can't be read: {error.strerror or error}")
    if not same:
        return Seen(allowed=True, error="another file has the name of the producer's")
    try:
        free = shutil.disk_usage(store.root).free
    except OSError:
        free = None
    probe = store.path(name_of(f"{token}-{new_token()}"))
    try:
        _write(probe, token.encode())
        probe.unlink()
    except OSError as error:
        return Seen(True, True, False, free, f"no file can be made there: {error.strerror or error}")
    return Seen(True, True, True, free)


def _write(path: Path, body: bytes) -> None:
    """Make a new private file; nothing of it is left where that fails."""
    # Not by way of a Store's temporary folder: removing that would disturb a run that goes on there.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
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


def _holds(path: Path, body: bytes) -> bool:
    """Tell whether a file holds these bytes and no more; a link, or what would have to be waited for, does not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, len(body) + 1) == body
    finally:
        os.close(descriptor)
