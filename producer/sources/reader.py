"""The interface of the readers. A reader reads one format: the columns of a file, and its rows one after another.

To add a format, add a member to `InputFormat` and write a module with a `Reader`. Add both to
``producer/sources/formats.py``. Then add the format to the tests of sources, which read the same rows from each format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa


class DamagedListError(Exception):
    """The remaining part of a file can't be read. The error's text says why."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be read, and why."""

    why: str


#: The values of the chosen columns in their order, or a row that can't be read.
Row = Sequence[Any] | BadRow


class TextLines:
    """A base of readers of text: every column is text, and each row is at a line."""

    _line = 0

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """Return the types of these columns."""
        return pa.schema([(name, pa.string()) for name in columns])

    def where(self) -> str:
        """Return the place of the last yielded row."""
        return f"line {self._line:,}"


class Reader(Protocol):
    """Reads one file of a URL list."""

    #: The names by which options can select the file's columns.
    names: Sequence[str]
    #: The column with the URLs, if the format or the content identifies it.
    url_column: str | None
    #: The number of a column that has a URL in the place of the header, if the format has a header.
    url_in_header: str | None
    #: The file's content for messages, such as "a CSV file".
    description: str

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """Return the types of these columns."""

    def rows(self, columns: Sequence[str], schema: pa.Schema) -> Iterator[Row]:
        """Yield the file's rows, with the values of these columns in this order. Called once.

        Args:
            columns: the names of existing columns: first the column of the URLs, then the columns to pass through.
            schema: the types of the columns to pass through. If the list has several files, the first file decides the
                types. A row with a value of another type is a `BadRow`.
        """

    def where(self) -> str:
        """Return the place of the last yielded row, such as "line 17"."""
