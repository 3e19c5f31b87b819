"""Read a list that has one URL on each line.

Blank lines and lines beginning with ``#`` are skipped, and surrounding space is stripped. Each of the remaining lines
is a request with its own Outcome, even if it can't be a URL. A line ends with LF, CRLF or CR. A text of several
concatenated files may have a byte order mark in the middle. The mark ends a line. One comma or semicolon after a URL is
removed first, then quotation marks or angle brackets around the URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from urllib.parse import quote

import pyarrow as pa

from producer.sources import list_format
from producer.sources.encoding import BYTE_ORDER_MARK
from producer.sources.reader import TextLines
from tasks.download.urls import looks_like_url, parse
from tasks.errors import InvalidUrlError

#: The maximum number of characters to keep of a line. No URL is that long. The remaining characters of the line are
#: skipped.
LINE_LIMIT = 1024 * 1024
_QUOTES = {'"': '"', "'": "'", "<": ">", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_TRAILING = frozenset({",", ";", *_QUOTES.values()})
#: The characters that parsers of URLs remove: these three anywhere, and the others at both ends.
_REMOVED = str.maketrans("", "", "\t\n\r")
_STRIPPED = "".join(map(chr, range(0x21)))
#: Characters of a URL that a list can't contain, at least at the end of a line. Parsers of URLs encode them.
_ENCODED = re.compile(f"[\x00-\x1f\x7f{BYTE_ORDER_MARK}]|(?![\x00-\x7f])\\s")


class TextReader(TextLines):
    """Reads a list that has one URL on each line."""

    names: Sequence[str] = ("url",)
    url_column: str | None = "url"
    url_in_header: str | None = None
    description = "a text with one URL on each line"

    def __init__(self, text: TextIOWrapper) -> None:
        self._text = text

    def rows(self, columns: Sequence[str], schema: pa.Schema) -> Iterator[tuple[str]]:
        """Yield the URLs."""
        for line in read_lines(self._text):
            self._line += 1
            # Most lines contain no byte order mark and need no split.
            for part in line.split(BYTE_ORDER_MARK) if BYTE_ORDER_MARK in line else (line,):
                row = part.strip()
                if row and not row.startswith("#"):
                    yield (_unquote(row),)


def read_lines(text: TextIOWrapper) -> Iterator[str]:
    """Yield the lines, each truncated to the limit."""
    while line := text.readline(LINE_LIMIT):
        whole = line
        while not whole.endswith("\n") and (rest := text.readline(LINE_LIMIT)):
            whole = rest
        yield line


def _unquote(row: str) -> str:
    """Return the URL of a row, without a comma after the URL and without quotation marks or brackets around the URL."""
    if row[-1] not in _TRAILING:
        return row
    found = row[:-1].rstrip() if row[-1] in ",;" else row
    if len(found) > 1 and _QUOTES.get(found[0]) == found[-1]:
        found = found[1:-1].strip()
    # Other rows stay unchanged, so that their Outcomes show the original text.
    return found if looks_like_url(found) else row


def format_line(url: str) -> str | None:
    """Return the line for a URL in a list of URLs. If the line is read again, it gives an equal URL.

    Return None for a text that is not a URL, or not one that can be downloaded.
    """
    try:
        parse(url)
    except InvalidUrlError:
        return None
    line = _ENCODED.sub(lambda found: quote(found[0]), url.strip(_STRIPPED).translate(_REMOVED))
    # Without brackets, this line would be read as a row of a table, or the URL would lose its last character.
    return f"<{line}>" if line[-1] in _TRAILING or list_format.from_rows([line]) else line
