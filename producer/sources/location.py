"""The place of a URL list: open the list, name it in messages, and tell whether it has changed."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import sys
from contextlib import suppress
from io import BufferedReader, FileIO
from pathlib import Path

from producer.sources import remote
from producer.sources.remote import is_remote, shown
from producer.sources.stored_folder import PATTERN
from tasks.errors import CommandError, UsageError

STANDARD_INPUT = "-"
#: Bytes of a file to read at once. Up to this many bytes can be inspected for the format.
HEAD_BYTES = 256 * 1024
#: The fingerprint of a file covers this many bytes at each end of the file.
_FINGERPRINT_BYTES = 1024 * 1024
#: If the list has several files, the fingerprint covers this many bytes at each end of each file. The number is smaller
#: because there may be thousands of files.
_SHORT_FINGERPRINT_BYTES = 64 * 1024


def open_bytes(source: str) -> BufferedReader:
    """Return a list's bytes as they are stored.

    Args:
        source: a file's path, the URL of a remote list, or ``-`` for standard input.

    Raises:
        OSError: the list can't be opened.
        UsageError: the remote list can't be opened.
    """
    if is_remote(source):
        return BufferedReader(remote.open_remote(source), HEAD_BYTES)
    if source == STANDARD_INPUT:
        # Use a separate reader, because Python aborts at exit if a thread still waits for a line from `sys.stdin`.
        return BufferedReader(FileIO(sys.stdin.fileno(), closefd=False), HEAD_BYTES)
    return BufferedReader(FileIO(source), HEAD_BYTES)


def expand(source: str) -> list[str]:
    """Return the files of a list in the order in which they are read: sorted by name.

    Args:
        source: a file, a folder, a pattern such as ``lists/*.csv`` (``**`` stands for any folders), or ``-``. Hidden
            files of a folder don't belong to the list. Files whose names begin with ``_`` don't belong to it either.
            A folder's subfolders don't belong to the list either. The source may be on a server.

    Raises:
        UsageError: the folder or the pattern has no files.
        OSError: the folder can't be read.
    """
    if is_remote(source):
        return remote.expand(source)
    path = Path(source)
    if source == STANDARD_INPUT or not (path.is_dir() or (PATTERN.search(source) and not path.exists())):
        return [source]
    if path.is_dir():
        found = [str(file) for file in path.iterdir() if file.is_file() and not file.name.startswith((".", "_"))]
        what = f"The folder {source} contains no files"
    else:
        found = [file for file in _glob(source) if Path(file).is_file()]
        what = f"No file matches {source}"
    if not found:
        raise UsageError(what, "a list needs at least one file", "Give another file, folder or pattern.")
    return sorted(found)


def _glob(pattern: str) -> list[str]:
    # `Path.glob` accepts no absolute patterns.
    return glob.glob(pattern, recursive=True)  # noqa: PTH207


def fingerprint(source: str) -> str | None:
    """Return the fingerprint of a URL list: its size, and a SHA-256 of its first and last MiB.

    The fingerprint of a remote list is the size and the version that the server gives. The fingerprint of several files
    contains the name and the fingerprint of each file. The result is None if the list is unreadable. It is also None if
    the list can't be read twice, like standard input or a pipe.
    """
    if source == STANDARD_INPUT:
        return None
    if is_remote(source):
        with suppress(CommandError):
            return remote.fingerprint(source)
        return None
    try:
        files = expand(source)
        if files == [source]:
            return _file_fingerprint(source, _FINGERPRINT_BYTES)
        prints = [(Path(file).name, _file_fingerprint(file, _SHORT_FINGERPRINT_BYTES)) for file in files]
    except (OSError, UsageError):
        return None
    if any(found is None for _, found in prints):
        return None
    return f"{len(prints)} files:{hashlib.sha256(repr(prints).encode()).hexdigest()}"


def _file_fingerprint(file: str, ends: int) -> str | None:
    """Return a file's size and a SHA-256 of this many bytes at each end of the file; None for a pipe or device.

    Raises:
        OSError: the file can't be read.
    """
    if not stat.S_ISREG(Path(file).stat().st_mode):
        return None
    with Path(file).open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        for start in (0, max(size - ends, 0)):
            stream.seek(start)
            digest.update(stream.read(ends))
    return f"{size}:{digest.hexdigest()}"


def is_unchanged(source: str, expected: str | None) -> bool:
    """Return whether a URL list can be read again and still has this fingerprint."""
    return expected is not None and fingerprint(source) == expected


def is_single_pass(source: str) -> bool:
    """Return whether a list can be read only once, as standard input and pipes can.

    A missing file is not such a list.
    """
    if is_remote(source):
        return fingerprint(source) is None and not expand(source)[1:]
    try:
        files = expand(source)
    except OSError:
        # The error is reported when the list is opened.
        return False
    return source == STANDARD_INPUT or any(Path(file).exists() and not Path(file).is_file() for file in files)


def explain_difference(source: str) -> str:
    """Return the reason why `is_unchanged` is false, for messages."""
    if source == STANDARD_INPUT:
        return "the list was read from standard input"
    if is_remote(source):
        try:
            if remote.fingerprint(source) is None:
                return f"the server gives no ETag or Last-Modified for the list {shown(source)}, which shows changes"
        except CommandError as error:
            return f"the list {shown(source)} can't be read: {error.why}"
    return f"the list {shown(source)} is missing or has changed"


def display_name(source: str) -> str:
    """Return a URL list's name for the beginning of a sentence."""
    return "The list on standard input" if source == STANDARD_INPUT else f"The list {shown(source)}"
