"""Remember URLs on disk, each with the first row that had the URL.

The memory use does not depend on the number of URLs.

The file is a hash table with linear probing. The leading bits of an entry's hash are the number of its slot. If that
slot is taken, the entry goes into the next free slot. A slot has 24 bytes: 16 bytes of the URL's hash, then 8 bytes of
its row. At most half of the slots are used, so a URL takes 48 to 96 bytes. When half of the slots are used, the entries
move to a file with twice as many slots. `UrlIndex` can't be used for this: it finds URLs only after all of them were
added.

The URL itself is not stored. The hash has 128 bits. The probability that any two of 10^9 different URLs have the same
hash is below 10^-20. The hash is salted. So nobody can slow the table down with URLs for the same slot.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks.errors import StorageError

_HASH_BYTES, _ENTRY_BYTES = 16, 24
_NO_HASH = bytes(_HASH_BYTES)
#: Slots to read at once. Most searches end within them.
_WINDOW_BYTES = 16 * _ENTRY_BYTES
#: The number of slots to read at once when the entries move to a larger file.
_CHUNK_BYTES = 32 * 1024 * _ENTRY_BYTES
#: The first file has 2^18 slots. It is sparse, so a short list takes little space.
_FIRST_BITS = 18


class SeenUrls:
    """Remember URLs, each with the first row that had it. A context manager that removes its files at the end."""

    def __init__(self, folder: Path) -> None:
        """Use this folder exclusively. Files left there by a killed process are removed."""
        self._folder, self._salt = folder, secrets.token_bytes(hashlib.blake2b.SALT_SIZE)

    def __enter__(self) -> Self:
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            self._table = _Table(self._folder, _FIRST_BITS)
        except OSError as error:
            raise _storage_error(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def find(self, url: str) -> int | None:
        """Return the first row with this URL; None if the URL is new.

        Raises:
            StorageError: the file can't be read.
        """
        try:
            return self._table.find(self._key(url))[1]
        except OSError as error:
            raise _storage_error(error) from error

    def first_row(self, url: str, row: int) -> int:
        """Return the first row with this URL. If the URL is new, remember it and return the given row.

        Raises:
            StorageError: the file can't be written or read.
        """
        try:
            first = self._table.find_or_add(self._key(url), row)
            if self._table.is_full():
                self._grow()
        except OSError as error:
            raise _storage_error(error) from error
        return first

    def _key(self, url: str) -> bytes:
        return hashlib.blake2b(url.encode(), digest_size=_HASH_BYTES, salt=self._salt).digest()

    def _grow(self) -> None:
        larger = _Table(self._folder, self._table.bits + 1)
        try:
            self._table.move_to(larger)
        finally:
            self._table.close()
            self._table = larger


class _Table:
    """A file of 2^bits slots. If the last of these slots are taken, the file grows by further slots."""

    def __init__(self, folder: Path, bits: int) -> None:
        self.bits, self._count = bits, 0
        self._path = folder / f"{bits}"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def find_or_add(self, key: bytes, row: int) -> int:
        """Return the row of a hash. If the hash is new, it is added with this row."""
        place, first = self.find(key)
        if first is None:
            self._write(key + row.to_bytes(_ENTRY_BYTES - _HASH_BYTES), place)
            return row
        return first

    def find(self, key: bytes) -> tuple[int, int | None]:
        """Return the place and the row of a hash. If the hash is new, return its free place and None."""
        place = self._slot(key) * _ENTRY_BYTES
        while True:
            # There are free slots after the end of the file.
            window = os.pread(self._file, _WINDOW_BYTES, place).ljust(_WINDOW_BYTES, b"\0")
            for at in range(0, _WINDOW_BYTES, _ENTRY_BYTES):
                found = window[at : at + _HASH_BYTES]
                if found == key:
                    return place + at, int.from_bytes(window[at + _HASH_BYTES : at + _ENTRY_BYTES])
                if found == _NO_HASH:
                    return place + at, None
            place += _WINDOW_BYTES

    def is_full(self) -> bool:
        """Return whether half of the slots are used. Searches in a fuller table would be slow."""
        return self._count >= 1 << (self.bits - 1)

    def move_to(self, larger: _Table) -> None:
        """Write all entries into a new, larger table, and remove this table's file. The caller closes this table."""
        next_slot = 0
        with larger._path.open("wb", _CHUNK_BYTES) as file:
            for entry in self._sorted_entries():
                slot = max(larger._slot(entry), next_slot)
                file.write(bytes((slot - next_slot) * _ENTRY_BYTES) + entry)
                next_slot = slot + 1
        larger._count = self._count
        self._path.unlink()

    def _sorted_entries(self) -> Iterator[bytes]:
        """Yield the entries in the order of their hashes."""
        # An entry is never moved over a free slot, so the entries between two free slots belong together.
        group: list[bytes] = []
        place = 0
        while chunk := os.pread(self._file, _CHUNK_BYTES, place):
            for at in range(0, len(chunk), _ENTRY_BYTES):
                entry = chunk[at : at + _ENTRY_BYTES]
                if not entry.startswith(_NO_HASH):
                    group.append(entry)
                elif group:
                    yield from sorted(group)
                    group.clear()
            place += len(chunk)
        yield from sorted(group)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _slot(self, key: bytes) -> int:
        return int.from_bytes(key[:8]) >> (64 - self.bits)

    def _write(self, entry: bytes, place: int) -> None:
        if os.pwrite(self._file, entry, place) < len(entry):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._count += 1


def _storage_error(error: OSError) -> StorageError:
    return StorageError(f"could not remember the URLs of the list: {error.strerror or error}")
