"""Read a URL list lazily, in any format, and check it before a run starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from typing import Any

from producer.sources import location
from producer.sources.files import ListFiles
from producer.sources.location import (
    STANDARD_INPUT,
    display_name,
    explain_difference,
    fingerprint,
    is_unchanged,
)
from producer.sources.options import DEFAULT, SourceOptions
from producer.sources.remote import shown
from producer.sources.request_stream import OpenedList, RequestStream, schema_of
from producer.sources.requests import make_requests
from producer.sources.subset import choose_rows, part
from tasks.download.urls import looks_like_url
from tasks.errors import UsageError
from tasks.model import ImageRequest
from tasks.redaction import redacted

__all__ = [
    "STANDARD_INPUT",
    "display_name",
    "explain_difference",
    "fingerprint",
    "is_unchanged",
    "read",
    "require_urls",
    "shown",
]
#: At least one of this many first rows must be a URL.
_ROWS = 1000


def read(source: str, options: SourceOptions = DEFAULT) -> RequestStream:
    """Return the requests of a URL list in order, reading only as far as needed.

    Args:
        source: the path of a file or folder, a pattern such as ``lists/*.csv``, the URL of a remote list, or ``-`` for
            standard input.
        options: how to read it.

    Raises:
        UsageError: the list does not exist, can't be read, has an unknown format, or lacks a column. The error is
            raised when the list is opened. If a later part of the list is damaged, the error is raised when reading
            reaches that part.
    """
    return RequestStream(lambda: _open(source, options))


def _open(source: str, options: SourceOptions) -> OpenedList:
    # The generator opens the list itself, so that it also closes the list, however the generator ends.
    steps = _schema_and_requests(source, options)
    schema, url_column = next(steps)
    return OpenedList(schema, steps, url_column)


def _schema_and_requests(source: str, options: SourceOptions) -> Iterator[Any]:
    """Yield the types of a list's columns with the name of the column with the URLs, then its requests."""
    total = 0 if options.sample is None else _count(source, options)
    with ExitStack() as stack:
        files = ListFiles(source, options, stack)
        yield files.schema, files.url_column
        yield from make_requests(choose_rows(files.rows(), options, total, display_name(source)), files, options)


def _count(source: str, options: SourceOptions) -> int:
    """Return the number of rows from which a sample is taken.

    Raises:
        UsageError: the list can't be read, or can't be read a second time.
    """
    if location.is_single_pass(source):
        raise UsageError(
            f"{display_name(source)} can't be sampled",
            "a sample needs two passes over the list, but this list can be read only once",
            "Save the list to a file, and give that file.",
        )
    with ExitStack() as stack:
        return sum(1 for _ in part(ListFiles(source, options, stack).rows(), options, display_name(source)))


def require_urls(requests: Iterable[ImageRequest], source: str) -> RequestStream:
    """Return the requests if one of the first 1,000 is a URL. A list without URLs is refused before anything starts.

    Raises:
        UsageError: none of the first rows is a URL, or the list can't be read.
    """
    rows: list[ImageRequest] = []
    rest = iter(requests)
    for request in islice(rest, _ROWS):
        rows.append(request)
        if looks_like_url(request.url):
            return RequestStream(lambda: (schema_of(requests), chain(rows, rest)))
    raise UsageError(
        f"{display_name(source)} contains no URLs",
        _describe_first(rows, requests) if rows else "it is empty, or all its lines are blank or comments",
        "Give a list of URLs that begin with http:// or https://, or complete its URLs with --base-url.",
    )


def _describe_first(rows: list[ImageRequest], requests: Iterable[ImageRequest]) -> str:
    first = rows[0]
    column = requests.url_column if isinstance(requests, RequestStream) else None
    found = f"row 1 is {redacted(first.url)[:80]!r}" if first.refused is None else first.refused.message
    if column is None:
        return f"none of its first {len(rows):,} rows is a URL; {found}"
    return f"none of its first {len(rows):,} rows has a URL in column {column}; {found}"
