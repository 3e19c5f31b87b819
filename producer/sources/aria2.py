"""Read an input file of aria2. Each download has a line of URLs, and then indented lines with its options.

The URLs of a line are separated by tabs, and lead to copies of one file on several mirrors. The first URL is used. The
options ``out``, ``dir`` and ``checksum`` are columns. The other options are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import TextIOWrapper

import pyarrow as pa

from producer.sources.encoding import BYTE_ORDER_MARK
from producer.sources.reader import TextLines
from producer.sources.text import read_lines

_URL = "url"


class Aria2Reader(TextLines):
    """Reads an input file of aria2."""

    names: Sequence[str] = (_URL, "out", "dir", "checksum")
    url_column: str | None = _URL
    url_in_header: str | None = None
    description = "an input file of aria2"

    def __init__(self, text: TextIOWrapper) -> None:
        self._text = text

    def rows(self, columns: Sequence[str], schema: pa.Schema) -> Iterator[list[str | None]]:
        """Yield the rows, with the values of these columns in this order."""
        for number, found in self._downloads():
            self._line = number
            yield [found.get(name) for name in columns]

    def _downloads(self) -> Iterator[tuple[int, dict[str, str]]]:
        """For each line with URLs, yield its number and the columns of its row."""
        current: tuple[int, dict[str, str]] | None = None
        for number, line in enumerate(read_lines(self._text), 1):
            bare = line.replace(BYTE_ORDER_MARK, "")
            text = bare.strip()
            if not text or text.startswith("#"):
                continue
            if bare[0] in " \t":
                name, _, value = text.partition("=")
                if current is not None and name in self.names:
                    current[1].setdefault(name, value)
                continue
            if current is not None:
                yield current
            current = number, {_URL: text.split("\t")[0]}
        if current is not None:
            yield current
