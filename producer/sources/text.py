"""Read a URL list lazily: a text file with one URL on each line, or standard input.

Blank lines and lines beginning with ``#`` are skipped, and surrounding space is stripped. Every other line is a
request with its own Outcome, even if it can't be a URL. A line ends with LF, CRLF or CR. The text is UTF-8, or
UTF-16 or UTF-32 with a byte order mark. Concatenated files may have such a mark in the middle; it ends a line. One
comma or semicolon after a URL is removed, then quotation marks or angle brackets around it.

A list in another format (`producer.sources.list_format`) is refused before its first request.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from io import BufferedReader, FileIO, TextIOWrapper
from itertools import chain, islice
from pathlib import Path

from producer.sources import list_format
from tasks.download.urls import looks_like_url
from tasks.errors import UsageError
from tasks.model import ImageRequest
from tasks.redaction import redacted

STANDARD_INPUT = "-"
#: Maximum number of characters kept of a line. No URL is that long. The rest of the line is skipped.
_LINE_LIMIT = 1024 * 1024
_BYTE_ORDER_MARK = "\ufeff"
#: The encodings by their byte order marks. UTF-32 comes first because its mark begins with the mark of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_QUOTES = {'"': '"', "'": "'", "<": ">", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_TRAILING = frozenset({",", ";", *_QUOTES.values()})
#: Bytes of a list to inspect for its format.
_HEAD_BYTES = 256 * 1024
#: Rows to inspect for the format, and characters to inspect of each row.
_ROWS, _ROW_HEAD = 1000, 2048
#: Bytes at each end of a file covered by its fingerprint.
_FINGERPRINT_BYTES = 1024 * 1024


def read(source: str) -> Iterator[ImageRequest]:
    """Yield the requests of a URL list in order, reading only as far as needed.

    Args:
        source: a file's path, or ``-`` for standard input.

    Raises:
        UsageError: the list does not exist, can't be read, or is not a text file with one URL on each line. The error
            is raised at the first request.
    """
    try:
        with _open(source) as stream, TextIOWrapper(stream, _encoding(stream, source), "replace") as text:
            index = 0
            for line in _lines(text):
                # Most lines contain no mark and need no split.
                for part in line.split(_BYTE_ORDER_MARK) if _BYTE_ORDER_MARK in line else (line,):
                    row = part.strip()
                    if row and not row.startswith("#"):
                        yield ImageRequest(index, _unquote(row))
                        index += 1
    except OSError as error:
        raise UsageError(
            f"{display_name(source)} can't be read",
            error.strerror or str(error),
            "Give the path of a text file with one URL on each line, or - for standard input.",
        ) from error


def fingerprint(source: str) -> str | None:
    """Return the fingerprint of a URL list: its size, and a SHA-256 of its first and last MiB.

    Return None if the list is unreadable or can't be read twice, like standard input or a pipe.
    """
    if source == STANDARD_INPUT:
        return None
    try:
        if not stat.S_ISREG(Path(source).stat().st_mode):
            return None
        with Path(source).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            digest = hashlib.sha256()
            for start in (0, max(size - _FINGERPRINT_BYTES, 0)):
                stream.seek(start)
                digest.update(stream.read(_FINGERPRINT_BYTES))
    except OSError:
        return None
    return f"{size}:{digest.hexdigest()}"


def is_unchanged(source: str, expected: str | None) -> bool:
    """Return whether a URL list can be read again and still has this fingerprint."""
    return expected is not None and fingerprint(source) == expected


def explain_difference(source: str) -> str:
    """Return the reason why `is_unchanged` is false, for messages."""
    if source == STANDARD_INPUT:
        return "the list was read from standard input"
    return f"the list {source} is missing or has changed"


def display_name(source: str) -> str:
    """Return the name of a URL list for the beginning of a sentence."""
    return "The list on standard input" if source == STANDARD_INPUT else f"The list {source}"


def require_urls(requests: Iterator[ImageRequest], source: str) -> Iterator[ImageRequest]:
    """Return the requests if one of the first 1,000 is a URL. A list without URLs is refused before anything starts.

    Raises:
        UsageError: none of the first rows is a URL, or the list can't be read.
    """
    rows: list[ImageRequest] = []
    for request in islice(requests, _ROWS):
        rows.append(request)
        if looks_like_url(request.url):
            return chain(rows, requests)
    first = f"none of its first {len(rows):,} rows is a URL; row 1 is {redacted(rows[0].url)[:80]!r}" if rows else ""
    raise UsageError(
        f"{display_name(source)} contains no URLs",
        first or "it is empty, or all its lines are blank or comments",
        "Give a list with one URL on each line, each beginning with http:// or https://.",
    )


def _open(source: str) -> BufferedReader[FileIO]:
    if source == STANDARD_INPUT:
        # Use a separate reader, because Python aborts at exit if a thread still waits for a line from `sys.stdin`.
        return BufferedReader(FileIO(sys.stdin.fileno(), closefd=False), _HEAD_BYTES)
    return BufferedReader(FileIO(source), _HEAD_BYTES)


def _encoding(stream: BufferedReader[FileIO], source: str) -> str:
    """Return the encoding of a list without consuming input. For a pipe, only the data that has arrived is inspected.

    Raises:
        UsageError: the input is not a list of URLs.
    """
    head = stream.peek(_HEAD_BYTES)
    encoding = next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "utf-8")
    found = list_format.from_bytes(head)
    if found is None and encoding == "utf-8" and _is_binary(head):
        raise UsageError(
            f"{display_name(source)} is not a text file",
            "it contains zero bytes, like binary files and UTF-16 text without a byte order mark",
            "Give a text file in UTF-8 with one URL on each line.",
        )
    if found is None:
        lines = head.decode(encoding, "replace").replace("\r", "\n").replace(_BYTE_ORDER_MARK, "\n").split("\n")
        rows = (row[:_ROW_HEAD] for line in lines if (row := line.strip()) and not row.startswith("#"))
        found = list_format.from_rows(list(islice(rows, _ROWS)))
    if found is None:
        return encoding
    if found.decompress is None:
        hint = "Write its URLs to a text file, one on each line. docs/lists.md has a command for each format."
    else:
        hint = f"Pipe it into the command: `{found.decompress} FILE | producer run - --out OUT`."
    raise UsageError(
        f"{display_name(source)} looks like {found.name}", "only text files with one URL on each line can be read", hint
    )


def _is_binary(head: bytes) -> bool:
    """Return whether at least a tenth of the rows contain zero bytes. A few bad rows don't make a list binary."""
    if b"\0" not in head:
        return False
    rows = [row for row in head.split(b"\n") if row]
    return 10 * sum(b"\0" in row for row in rows) >= len(rows)


def _lines(text: TextIOWrapper) -> Iterator[str]:
    """Yield the lines, each truncated to the limit."""
    while line := text.readline(_LINE_LIMIT):
        whole = line
        while not whole.endswith("\n") and (rest := text.readline(_LINE_LIMIT)):
            whole = rest
        yield line


def _unquote(row: str) -> str:
    """Return the URL of a row without the comma after it, and without the quotation marks or brackets around it."""
    if row[-1] not in _TRAILING:
        return row
    found = row[:-1].rstrip() if row[-1] in ",;" else row
    if len(found) > 1 and _QUOTES.get(found[0]) == found[-1]:
        found = found[1:-1].strip()
    # Other rows stay unchanged, so that their Outcomes show the original text.
    return found if looks_like_url(found) else row
