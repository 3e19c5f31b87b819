"""An index of URLs on the disk: which places each one has, in memory that does not grow with their number.

A file of records in order, each the first 8 bytes of a URL's hash and its place as 8 more, searched by halves. It is
made by way of a file for each of a thousand ranges of hashes, which are small enough to be sorted in memory: for 10^8
URLs it takes 1.6 GB on the disk, and in memory what is held before it is written. Not SQLite: the folder may be shared
between hosts, by a file system without the locks that it needs, and its own temporary files would lie elsewhere.

Two URLs may share a hash: who looks one up makes sure that it is the right one.
"""

from __future__ import annotations

import bisect
import hashlib
import mmap
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

_HASH, _RECORD = 8, 16
#: Ranges of hashes: the first 10 bits tell.
_RANGE_BITS = 10
#: Records that are held in memory before they are written: 16 MB of them.
_HELD = 1 << 20
#: The most places that are told of one hash: a list may hold a URL a million times.
_MOST = 4


class UrlIndex:
    """Takes URLs with their places, then tells the places; a context manager, at whose end nothing is left of it."""

    def __init__(self, folder: Path) -> None:
        """Take a folder of its own; what a killed one has left there is removed."""
        self._folder = folder
        self._held: dict[int, bytearray] = {}
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
        """Take a URL and its place, from 0 to 2^64 - 1; to be called before the first `find`.

        Raises:
            OSError: it can't be written.
        """
        key = _hash(url)
        number = int.from_bytes(key[:2]) >> (16 - _RANGE_BITS)
        self._held.setdefault(number, bytearray()).extend(key + place.to_bytes(_HASH))
        self._count += 1
        if self._count % _HELD == 0:
            self._write_held()

    def find(self, url: str) -> list[int]:
        """Return the places of a URL, and of others of the same hash, the lowest first: at most four.

        Raises:
            OSError: the index can't be written, or read.
        """
        if self._records is None:
            self._records = self._sorted()
        key = _hash(url)
        first = bisect.bisect_left(self._records, key)
        found = (self._records[number] for number in range(first, min(first + _MOST, len(self._records))))
        return [int.from_bytes(record[_HASH:]) for record in found if record.startswith(key)]

    def _write_held(self) -> None:
        for number, records in self._held.items():
            with self._range(number).open("ab") as file:
                file.write(records)
        self._written.update(self._held)
        self._held.clear()

    def _sorted(self) -> _Records:
        path = self._folder / "records"
        with path.open("wb") as file:
            for number in sorted(self._written | self._held.keys()):
                records = bytes(self._held.pop(number, b""))
                if number in self._written:
                    records += self._range(number).read_bytes()
                    self._range(number).unlink()
                file.writelines(sorted(records[at : at + _RECORD] for at in range(0, len(records), _RECORD)))
        return _Records(path)

    def _range(self, number: int) -> Path:
        return self._folder / f"{number:04d}"


class _Records:
    """The records of a file, by their numbers."""

    def __init__(self, path: Path) -> None:
        self._length = path.stat().st_size // _RECORD
        with path.open("rb") as file:
            # What is empty can't be mapped.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._length else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> bytes:
        assert self._map is not None
        return self._map[number * _RECORD : (number + 1) * _RECORD]

    def close(self) -> None:
        """Let go of the file."""
        if self._map is not None:
            self._map.close()


def _hash(url: str) -> bytes:
    return hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=_HASH).digest()
