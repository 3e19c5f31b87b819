"""The place of a URL list: open its bytes, name it in messages, and tell whether it has changed."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from io import BufferedReader, FileIO
from pathlib import Path

STANDARD_INPUT = "-"
#: Bytes of a file to read at once. So many bytes can be inspected for the format.
HEAD_BYTES = 256 * 1024
#: Bytes at each end of a file covered by its fingerprint.
_FINGERPRINT_BYTES = 1024 * 1024


def open_bytes(source: str) -> BufferedReader:
    """Return a list's bytes as they are stored.

    Args:
        source: a file's path, or ``-`` for standard input.

    Raises:
        OSError: the list can't be opened.
    """
    if source == STANDARD_INPUT:
        # Use a separate reader, because Python aborts at exit if a thread still waits for a line from `sys.stdin`.
        return BufferedReader(FileIO(sys.stdin.fileno(), closefd=False), HEAD_BYTES)
    return BufferedReader(FileIO(source), HEAD_BYTES)


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
