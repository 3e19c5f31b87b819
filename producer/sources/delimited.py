"""Read a table in text: CSV, TSV, or a similar format that has another delimiter.

Python's own csv module reads the rows. It streams text in any encoding, keeps the line numbers, and accepts the same
quotation marks as pandas. All columns are text, and an empty field is null. A row is a `BadRow` if it has too few or
too many fields, contains a zero byte, or has a quotation mark that is never closed. Reading then continues on the
second line of that row. So a bad quotation mark costs only one row.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from itertools import chain
from operator import itemgetter
from typing import Any

import pyarrow as pa

from producer.formatting import pluralized
from producer.sources.encoding import BYTE_ORDER_MARK
from producer.sources.reader import BadRow, Row, TextLines
from producer.sources.text import LINE_LIMIT
from tasks.download.urls import looks_like_url

_DELIMITERS = ",;\t|"
_QUOTED = re.compile('"[^"]*"')
#: The host and the folders of a URL. Commas and semicolons in this part of a URL separate no columns.
_FOLDERS = re.compile(r"https?://(?:(?!https?:)\S)*/", re.IGNORECASE)
_UNCLOSED = "has a quotation mark that is never closed"
#: The maximum number of lines in a row. Without a limit, each unclosed quotation mark would cost a pass over the whole
#: remaining file.
_MAX_LINES = 1000
_TOO_LONG = f"has a quotation mark that is not closed within {_MAX_LINES:,} lines or {LINE_LIMIT:,} characters"
# A longer field has an opening quotation mark that is never closed.
csv.field_size_limit(LINE_LIMIT)


class DelimitedReader(TextLines):
    """Reads a table in text."""

    def __init__(self, text: TextIOWrapper, delimiter: str | None, header: bool) -> None:
        """Open a table, and read its first row.

        Args:
            text: the text, with its line ends unchanged.
            delimiter: the character between two fields; None chooses the delimiter of the first row.
            header: whether the first row has the names of the columns. Without a header, the columns' numbers are their
                names.
        """
        self._lines = _Lines(text)
        self._delimiter = delimiter or find_delimiter(self._lines.first())
        self._header, self._width = header, 0
        self._rows = self._parse()
        row = next(self._rows, None)
        first = row if isinstance(row, list) else []
        urls = [str(number) for number, value in enumerate(first, 1) if looks_like_url(value)]
        #: The number of a column that has a URL in the first row, although the first row is read as the header.
        self.url_in_header = urls[0] if urls and header else None
        self.url_column = urls[0] if len(urls) == 1 and not header else None
        self.names: Sequence[str]
        if header:
            self.names = [name.strip() for name in first]
        else:
            self.names = [str(number) for number in range(1, len(first) + 1)]
            self._rows = chain(() if row is None else (row,), self._rows)
        separator = "tabs" if self._delimiter == "\t" else repr(self._delimiter)
        self.description = f"a table with {separator} between its columns"

    def rows(self, columns: Sequence[str], schema: pa.Schema) -> Iterator[Row]:
        """Yield the rows, with the values of these columns in this order."""
        choose = itemgetter(*(self.names.index(name) for name in columns))
        one = len(columns) == 1
        for row in self._rows:
            if isinstance(row, BadRow):
                yield row
                continue
            values = (choose(row),) if one else choose(row)
            yield values if all(values) else tuple(value or None for value in values)

    def where(self) -> str:
        """Return the place of the last yielded row."""
        return f"line {self._lines.row_number:,}"

    def _parse(self) -> Iterator[list[str] | BadRow]:
        """Yield the fields of the rows. Blank lines are skipped."""
        lines = self._lines
        table = csv.reader(lines, delimiter=self._delimiter)
        while True:
            lines.start_row()
            fields, why = _next_row(table)
            if fields is None:
                return
            if not fields and why is None:
                continue
            why = why or lines.damage
            if (
                why is None
                and len(lines.row) > 1
                and (self._is_literal(lines.row, len(fields)) or not self._is_strict(lines.row))
            ):
                why = _UNCLOSED
            why = why or self._wrong_width(fields)
            if why is None:
                yield fields
                continue
            literal = lines.row[0].rstrip("\r\n").split("\t")
            if self._delimiter == "\t" and "\0" not in lines.row[0] and not self._wrong_width(literal):
                # In many TSV files, quotation marks are plain text.
                yield literal
            else:
                yield BadRow(f"line {lines.row_number:,} {why}")
            if lines.read_again_after_first():
                table = csv.reader(lines, delimiter=self._delimiter)

    def _is_literal(self, lines: Sequence[str], width: int) -> bool:
        """Return whether the lines of a TSV row are separate rows if quotation marks are read as plain text.

        Blank lines don't count.
        """
        width = self._width or width
        return self._delimiter == "\t" and all(line.count("\t") == width - 1 for line in lines if line.strip("\r\n"))

    def _is_strict(self, lines: Sequence[str]) -> bool:
        """Return whether each quotation mark of a row is doubled, or is at the start or end of a field.

        If not, a field with several lines probably began with a quotation mark that is never closed.
        """
        try:
            return len(list(csv.reader(lines, delimiter=self._delimiter, strict=True))) == 1
        except csv.Error:
            return False

    def _wrong_width(self, fields: Sequence[str]) -> str | None:
        """Return an error text if a row has too few or too many fields; otherwise None."""
        width = self._width = self._width or len(fields)
        if len(fields) == width:
            return None
        return f"has {pluralized(len(fields), 'field')}, the {'header' if self._header else 'first row'} has {width}"


class _Lines:
    """Lines for the csv module. The lines of the current row are kept, so that they can be read again."""

    def __init__(self, text: TextIOWrapper) -> None:
        self._text = text
        self._ahead: deque[str] = deque()
        self._number = 0
        #: The lines of the current row, and the number of its first line.
        self.row: list[str] = []
        self.row_number = 0
        self._characters = 0
        #: What is wrong with the lines of the current row, or None.
        self.damage: str | None = None

    def first(self) -> str:
        """Return the first line that is not blank, without consuming it."""
        while (line := self._read()) and not line.strip():
            self._ahead.append(line)
        self._ahead.append(line)
        return line

    def start_row(self) -> None:
        self.row, self.row_number, self._characters, self.damage = [], self._number + 1, 0, None

    def read_again_after_first(self) -> bool:
        """Let all lines of the current row except its first line be read again.

        Return False if the row has only one line.
        """
        again = self.row[1:]
        self._ahead.extendleft(reversed(again))
        self._number -= len(again)
        return bool(again)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.row) >= _MAX_LINES or self._characters >= LINE_LIMIT:
            self.damage = self.damage or _TOO_LONG
            raise StopIteration
        line = self._ahead.popleft() if self._ahead else self._read()
        if not line:
            if self.row:
                # The csv module asks for a further line only within quotation marks.
                self.damage = _UNCLOSED
            raise StopIteration
        self._number += 1
        if "\0" in line:
            self.damage = "contains a zero byte"
        if len(line) >= LINE_LIMIT:
            self.damage = f"is longer than {LINE_LIMIT:,} characters"
        self.row.append(line)
        self._characters += len(line)
        return line

    def _read(self) -> str:
        line = whole = self._text.readline(LINE_LIMIT)
        while len(whole) == LINE_LIMIT and not whole.endswith(("\n", "\r")):
            whole = self._text.readline(LINE_LIMIT)
        return line.replace(BYTE_ORDER_MARK, "") if BYTE_ORDER_MARK in line else line


def _next_row(table: Any) -> tuple[list[str] | None, str | None]:
    """Return the fields of the next row, and its error if it has one.

    At the end of the table, there are no fields.
    """
    try:
        return next(table, None), None
    except csv.Error:
        # Without the csv module's strict mode, its only error is a field that is longer than the limit.
        return [], _UNCLOSED


def find_delimiter(row: str) -> str:
    """Return the delimiter that occurs most in a row, or a comma if there is none.

    The hosts and folders of URLs are ignored.
    """
    bare = _QUOTED.sub("", row)
    outside = _FOLDERS.sub("", bare)
    if _has_delimiter(bare) and not _has_delimiter(outside):
        # The row is a single URL that contains delimiters, but no tab.
        return "\t"
    return max(_DELIMITERS, key=outside.count)


def is_one_url(row: str) -> bool:
    """Return whether a row of a text is certainly a single URL, with no quotation marks and no further column."""
    return (
        row.lower().startswith(("http://", "https://"))
        and not any(character.isspace() or character == '"' for character in row)
        and not _has_delimiter(_FOLDERS.sub("", row))
    )


def _has_delimiter(text: str) -> bool:
    return any(delimiter in text for delimiter in _DELIMITERS)
