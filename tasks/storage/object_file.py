"""Read an object of an object store at any position, in blocks.

So a large object neither fills the memory nor exceeds the time limit of one request.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from io import RawIOBase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK_BYTES = 8 * 1024**2
#: Arrow reads neighbouring ranges in any order, so keep more than one block.
_KEPT_BLOCKS = 2


class ObjectFile(RawIOBase):
    """A readable file with the bytes of an object."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        """Take an object.

        Args:
            size: the object's size in bytes.
            fetch: returns the object's bytes between two positions.
        """
        self._size, self._place = size, 0
        self._block = lru_cache(_KEPT_BLOCKS)(
            lambda number: fetch(number * _BLOCK_BYTES, min((number + 1) * _BLOCK_BYTES, size))
        )

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place in the object, and return this place."""
        place = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence] + offset
        if place < 0:
            raise OSError("can't move to a place before the start of the file")
        self._place = place
        return place

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer, at most to the end of a block, and return the number of bytes.

        Raises:
            StorageError: the object can't be read.
        """
        if self._place >= self._size:
            return 0
        view = memoryview(buffer).cast("B")
        number, start = divmod(self._place, _BLOCK_BYTES)
        found = self._block(number)[start : start + len(view)]
        view[: len(found)] = found
        self._place += len(found)
        return len(found)
