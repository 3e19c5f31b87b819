"""An index from URLs to their places on disk. Its memory use does not depend on the number of URLs.

The index is a sorted file of 16-byte records: 8 bytes of the URL's hash, then 8 bytes of its place. A lookup is a
binary search. To sort the records, the hashes are divided into about a thousand ranges. The records are first written
to one file per range. Each of these files is small enough to sort in memory. For 10^8 URLs, the index takes 1.6 GB on
the disk. Memory holds only the write buffer. SQLite can't be used: the folder may be on a shared file system without
the locks that SQLite needs. SQLite's temporary files would also be in another folder.

Several URLs can have the same hash, so the caller must check that a result is for the right URL.
"""

from __future__ import annotations

import bisect
import hashlib
import mmap
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

_HASH_BYTES, _RECORD_BYTES = 8, 16
#: The number of leading hash bits that select the range.
_RANGE_BITS = 10
#: Records buffered in memory before they are written: 16 MB.
_MAX_BUFFERED = 1 << 20
#: The maximum number of places returned for a hash. Without this limit, a lookup could return a million places, because
#: a list may repeat a URL.
_MAX_PLACES = 4


class UrlIndex:
    """Index URLs with their places, then look them up. A context manager that removes its files at the end."""

    def __init__(self, folder: Path) -> None:
        """Use this folder exclusively. Files left there by a killed process are removed."""
        self._folder = folder
        self._buffered: dict[int, bytearray] = {}
        self._written: set[int] = set()
        self._count = 0
        self._records: _Records | None = None

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._records is not None:
            self._records.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, url: str, place: int) -> None:
        """Add a URL and its place, from 0 to 2^64 - 1. Call it only before the first `find`.

        Raises:
            OSError: the index can't be written.
        """
        key = _hash(url)
        number = int.from_bytes(key[:2]) >> (16 - _RANGE_BITS)
        self._buffered.setdefault(number, bytearray()).extend(key + place.to_bytes(_HASH_BYTES))
        self._count += 1
        if self._count % _MAX_BUFFERED == 0:
            self._write_buffered()

    def find(self, url: str) -> list[int]:
        """Return up to four places, in ascending order: the places of a URL, and of other URLs with the same hash.

        Raises:
            OSError: the index can't be written or read.
        """
        if self._records is None:
            self._records = self._build_records()
        key = _hash(url)
        first = bisect.bisect_left(self._records, key)
        found = (self._records[number] for number in range(first, min(first + _MAX_PLACES, len(self._records))))
        return [int.from_bytes(record[_HASH_BYTES:]) for record in found if record.startswith(key)]

    def _write_buffered(self) -> None:
        for number, records in self._buffered.items():
            with self._range(number).open("ab") as file:
                file.write(records)
        self._written.update(self._buffered)
        self._buffered.clear()

    def _build_records(self) -> _Records:
        path = self._folder / "records"
        with path.open("wb") as file:
            for number in sorted(self._written | self._buffered.keys()):
                records = bytes(self._buffered.pop(number, b""))
                if number in self._written:
                    records += self._range(number).read_bytes()
                    self._range(number).unlink()
                file.writelines(
                    sorted(records[at : at + _RECORD_BYTES] for at in range(0, len(records), _RECORD_BYTES))
                )
        return _Records(path)

    def _range(self, number: int) -> Path:
        return self._folder / f"{number:04d}"


class _Records:
    """The sequence of records in a file."""

    def __init__(self, path: Path) -> None:
        self._length = path.stat().st_size // _RECORD_BYTES
        with path.open("rb") as file:
            # An empty file can't be mapped.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._length else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> bytes:
        assert self._map is not None
        return self._map[number * _RECORD_BYTES : (number + 1) * _RECORD_BYTES]

    def close(self) -> None:
        """Close the mapping."""
        if self._map is not None:
            self._map.close()


def _hash(url: str) -> bytes:
    return hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()
