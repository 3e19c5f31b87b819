"""Present a list on a server as a file that is read in blocks.

Each block is requested by its byte range. Nothing is written to the disk.

A block is requested on the condition that the list has not changed. So all blocks belong to one version of the list. If
a request fails, only the block of this request is requested again.
"""

from __future__ import annotations

import os
from io import RawIOBase
from typing import TYPE_CHECKING, Protocol

from producer.formatting import format_size
from tasks.errors import CommandError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Bytes to request at once if a list is read from its start to its end. A reader of Parquet jumps between places, so
#: its requests are only as large as needed.
_BLOCK_BYTES = 4 * 1024**2
_AGAIN = "Try again later. To continue a run that has started, use `producer resume`."


class RemoteError(Exception):
    """A remote list can't be read; the message says why, without secrets."""

    def __init__(self, why: str, hint: str = _AGAIN) -> None:
        super().__init__(why)
        self.hint = hint


class RemoteChangedError(RemoteError):
    """The list has changed since it was opened."""

    def __init__(self) -> None:
        super().__init__("it was changed meanwhile", "Start another run in another folder.")


class RemoteObject(Protocol):
    """One version of a list on a server."""

    #: The size in bytes; None if the server does not tell.
    size: int | None
    #: The server's name for this version, such as an ETag; None if the server does not tell.
    version: str | None
    #: Whether arbitrary ranges can be fetched. If not, each range must begin at the end of the last range.
    has_ranges: bool

    def fetch(self, start: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``start`` on. The result is empty only at the end of the list.

        Raises:
            RemoteError: the bytes can't be read, or the list has changed.
        """

    def close(self) -> None:
        """Close the connection."""


class RemoteFile(RawIOBase):
    """A list on a server, as a file to read."""

    def __init__(self, found: RemoteObject, name: str) -> None:
        """Take a list, and its name for messages."""
        self._found, self._name = found, name
        self._place = 0
        self._block, self._block_start = b"", 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the server can send arbitrary ranges of the list."""
        return self._found.has_ranges and self._found.size is not None

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place, and return it."""
        if not self.seekable():
            raise OSError("the server sends this list only from its start to its end")
        assert self._found.size is not None
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._found.size}[whence]
        self._place = max(origin + offset, 0)
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer, and return the number of bytes.

        Raises:
            CommandError: reading can't continue; the message says how far the list was read.
        """
        view = memoryview(buffer).cast("B")
        end = self._block_start + len(self._block)
        if not self._block_start <= self._place < end:
            count = max(len(view), _BLOCK_BYTES) if self._place == end else len(view)
            self._block, self._block_start = self._fetch(self._place, count), self._place
        at = self._place - self._block_start
        found = self._block[at : at + len(view)]
        view[: len(found)] = found
        self._place += len(found)
        return len(found)

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            self._found.close()
        super().close()

    def _fetch(self, start: int, count: int) -> bytes:
        size = self._found.size
        if size is not None:
            count = max(min(count, size - start), 0)
        if not count:
            return b""
        try:
            found = self._found.fetch(start, count)
            if not found and size is not None:
                raise RemoteError("the server's response ended before the end of the list")
        except RemoteError as error:
            of = "" if size is None else f" of {format_size(size)}"
            raise CommandError(
                f"The list {self._name} can't be read further",
                f"reading stopped after {format_size(start)}{of}: {error}",
                error.hint,
            ) from error
        return found
