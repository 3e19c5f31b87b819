"""Open URL lists on web servers and in object stores, and give their names for messages.

To add a kind of server, write a module with a `RemoteObject` and add its scheme to `REMOTE_SCHEMES` and `_open`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from config.locations import SCHEMES, url_scheme
from producer.sources.remote_file import RemoteError, RemoteFile, RemoteObject
from producer.sources.stored_folder import FoundObject, find_objects, is_folder
from producer.sources.stored_object import StoredObject
from tasks.errors import UsageError
from tasks.redaction import redacted

_WEB_SCHEMES = ("http", "https")
#: The schemes of remote lists.
REMOTE_SCHEMES = (*_WEB_SCHEMES, *SCHEMES)


def is_remote(source: str) -> bool:
    """Return whether a list's URL is the URL of a server."""
    return url_scheme(source) in REMOTE_SCHEMES


def shown(source: str) -> str:
    """Return the name of a list for messages. Passwords and signatures in a URL are masked."""
    return redacted(source) if is_remote(source) else source


def file_name(source: str) -> str:
    """Return the name of a list's file. The ending of this name says the format."""
    if not is_remote(source):
        return source
    path = unquote(urlsplit(source).path) if url_scheme(source) in _WEB_SCHEMES else source
    return PurePosixPath(path).name


def open_remote(source: str) -> RemoteFile:
    """Return a remote list as a file.

    Raises:
        UsageError: the list can't be opened.
    """
    return RemoteFile(_open(source), shown(source))


def expand(source: str) -> list[str]:
    """Return the URLs of a remote list's files, sorted by name. On a web server, a list is always one file.

    Raises:
        UsageError: the list is a folder or a pattern that can't be listed or has no files.
    """
    if not _is_folder(source):
        return [source]
    found = [item.url for item in _find(source)]
    if not found:
        raise UsageError(
            f"No object matches {shown(source)}",
            "a list needs at least one file",
            "Give the URL of another object, folder or pattern.",
        )
    return found


def fingerprint(source: str) -> str | None:
    """Return the fingerprint of a remote list: its size, and its version.

    The result is None if the server gives no version. The fingerprint of several files contains
    the name, size and version of each file.

    Raises:
        UsageError: the list can't be opened.
    """
    if _is_folder(source):
        objects = _find(source)
        known = all(item.version for item in objects)
        return f"{len(objects)} files:{hashlib.sha256(repr(objects).encode()).hexdigest()}" if known else None
    found = _open(source)
    found.close()
    return None if found.version is None else f"{found.size}:{found.version}"


def _is_folder(source: str) -> bool:
    return url_scheme(source) not in _WEB_SCHEMES and is_folder(source)


def _find(source: str) -> list[FoundObject]:
    with _usage_errors(source):
        return find_objects(source)


def _open(source: str) -> RemoteObject:
    with _usage_errors(source):
        if url_scheme(source) in _WEB_SCHEMES:
            from producer.sources.http_object import HttpObject

            return HttpObject(source)
        return StoredObject(source)


@contextmanager
def _usage_errors(source: str) -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        raise UsageError(f"The list {shown(source)} can't be read", str(error), error.hint) from error
