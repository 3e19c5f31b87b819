"""A Source, read lazily: a text file with one URL on each line, or standard input.

Blank lines and lines that begin with ``#`` are skipped and surrounding space is stripped; a byte order mark and CRLF
are accepted. Every other line is a request, also one that can't be a URL: it gets its Outcome like all others.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from io import BufferedReader
from itertools import chain
from pathlib import Path

from tasks.errors import UsageFault
from tasks.model import ImageRequest

STANDARD_INPUT = "-"
#: The longest part of a line that is kept, in bytes. No URL is as long; the rest of such a line is skipped.
_LINE_LIMIT = 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_BINARY_PROBE = 8192
#: How much of each end of a file its fingerprint covers, in bytes.
_PRINTED = 1024 * 1024


def read(source: str) -> Iterator[ImageRequest]:
    """Yield the requests of a Source, in order, reading as far as they are asked for.

    Args:
        source: a file's path, or ``-`` for standard input.

    Raises:
        UsageFault: it does not exist, can't be read, or is no text. Raised at the first request.
    """
    try:
        with _opened(source) as stream:
            index = 0
            for line in _lines(stream, source):
                url = line.decode("utf-8", errors="replace").strip()
                if url and not url.startswith("#"):
                    yield ImageRequest(index, url)
                    index += 1
    except OSError as error:
        raise UsageFault(
            f"{named(source)} can't be read",
            error.strerror or str(error),
            "Give the path of a text file with one URL on each line, or - for standard input.",
        ) from error


def fingerprint(source: str) -> str | None:
    """Return what tells a Source from another of the same name: its size, and a SHA-256 of its first and last MiB.

    None for one that can't be read again, as standard input and pipes, and for one that can't be read at all.
    """
    if source == STANDARD_INPUT:
        return None
    try:
        if not stat.S_ISREG(Path(source).stat().st_mode):
            return None
        with Path(source).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            digest = hashlib.sha256()
            for start in (0, max(size - _PRINTED, 0)):
                stream.seek(start)
                digest.update(stream.read(_PRINTED))
    except OSError:
        return None
    return f"{size}:{digest.hexdigest()}"


def is_same(source: str, printed: str | None) -> bool:
    """Tell whether a Source can be read again and has a fingerprint that was taken of it."""
    return printed is not None and fingerprint(source) == printed


def why_not(source: str) -> str:
    """Return why a Source is not the same: what `is_same` can't tell apart, in words."""
    if source == STANDARD_INPUT:
        return "the list was read from standard input"
    return f"the list {source} is gone, or was changed"


def named(source: str) -> str:
    """Return what a Source is called at the beginning of a sentence."""
    return "The list on standard input" if source == STANDARD_INPUT else f"The list {source}"


def nonempty(requests: Iterator[ImageRequest], source: str) -> Iterator[ImageRequest]:
    """Return the requests, once there is a first one: a list without any is refused before anything is started.

    Raises:
        UsageFault: there is none, or the Source can't be read.
    """
    first = next(requests, None)
    if first is None:
        raise UsageFault(
            f"{named(source)} has no URL in it",
            "it is empty, or all its lines are blank or comments",
            "Give a list with one URL on each line.",
        )
    return chain([first], requests)


def _opened(source: str) -> BufferedReader:
    if source == STANDARD_INPUT:
        # A reader of our own: Python aborts at its end where a thread still waits for a line of its own one.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    return Path(source).open("rb")


def _lines(stream: BufferedReader, source: str) -> Iterator[bytes]:
    """Yield the lines, each cut to the limit."""
    start = stream.peek(_BINARY_PROBE)
    if b"\0" in start:
        raise UsageFault(
            f"{named(source)} is no text",
            "it holds zero bytes, as binary files and UTF-16 text do",
            "Give a text file in UTF-8 with one URL on each line.",
        )
    if start.startswith(_BOM):
        stream.read(len(_BOM))
    while line := stream.readline(_LINE_LIMIT):
        whole = line
        while not whole.endswith(b"\n") and (rest := stream.readline(_LINE_LIMIT)):
            whole = rest
        yield line
