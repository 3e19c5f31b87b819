"""Read a URL list lazily, in any format, and check it before a run starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from producer.sources import columns, compression, formats
from producer.sources.columns import Selection
from producer.sources.location import (
    STANDARD_INPUT,
    display_name,
    explain_difference,
    fingerprint,
    is_unchanged,
)
from producer.sources.options import DEFAULT, SourceOptions
from producer.sources.reader import BadRow, DamagedListError, Reader
from producer.sources.request_stream import RequestStream, schema_of
from tasks.download.urls import looks_like_url
from tasks.errors import UsageError
from tasks.model import ImageRequest, Reason, Refusal
from tasks.redaction import redacted

__all__ = [
    "STANDARD_INPUT",
    "display_name",
    "explain_difference",
    "fingerprint",
    "is_unchanged",
    "read",
    "require_urls",
]
#: The number of first rows that must include a URL.
_ROWS = 1000


def read(source: str, options: SourceOptions = DEFAULT) -> RequestStream:
    """Return the requests of a URL list in order, reading only as far as needed.

    Args:
        source: a file's path, or ``-`` for standard input.
        options: how to read it.

    Raises:
        UsageError: the list does not exist, can't be read, has an unknown format, or lacks a column. This is raised
            when the list is opened. If the list is damaged further on, it is raised there.
    """
    return RequestStream(lambda: _open(source, options))


def _open(source: str, options: SourceOptions) -> tuple[pa.Schema, Iterator[ImageRequest]]:
    # The generator itself opens the list, so that it also closes the list, however it ends.
    steps = _schema_and_requests(source, options)
    return next(steps), steps


def _schema_and_requests(source: str, options: SourceOptions) -> Iterator[Any]:
    """Yield the types of a list's columns, then its requests."""
    with ExitStack() as stack:
        with _translated_errors(source, None):
            reader = formats.open_reader(source, options, stack)
            selection = columns.choose(reader, options, display_name(source))
            schema = selection.schema(reader)
        yield schema
        with _translated_errors(source, reader):
            yield from _requests(reader, selection, schema)


def _requests(reader: Reader, selection: Selection, schema: pa.Schema) -> Iterator[ImageRequest]:
    names = schema.names
    nothing = dict.fromkeys(names)
    for index, row in enumerate(reader.rows(selection.columns, schema)):
        if isinstance(row, BadRow):
            yield _refused(index, row.why, nothing)
            continue
        url = row[0]
        values = dict(zip(names, row[1:], strict=True)) if names else {}
        if isinstance(url, str) and (url := url.strip()):
            yield ImageRequest(index, url, values)
        else:
            yield _refused(index, f"{reader.where()} has no URL", values)


def _refused(index: int, why: str, values: Mapping[str, object]) -> ImageRequest:
    return ImageRequest(index, "", values, refused=Refusal(Reason.INVALID_ROW, why))


@contextmanager
def _translated_errors(source: str, reader: Reader | None) -> Iterator[None]:
    """Raise the errors of reading a list as a `UsageError` that names the place."""
    try:
        yield
    except compression.ERRORS as error:
        place = "at its start" if reader is None else f"near {reader.where()}"
        what = "the compressed data is truncated" if isinstance(error, EOFError) else f"the data is damaged ({error})"
        raise UsageError(
            f"{display_name(source)} can't be read {place}",
            what,
            "Restore a good copy of the list.",
        ) from error
    except DamagedListError as error:
        raise UsageError(
            f"{display_name(source)} can't be read", str(error), "Restore a good copy of the list."
        ) from error
    except OSError as error:
        raise UsageError(
            f"{display_name(source)} can't be read",
            error.strerror or str(error),
            "Give the path of a list, or - for standard input.",
        ) from error


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
        _describe_first(rows) if rows else "it is empty, or all its lines are blank or comments",
        "Give a list of URLs that begin with http:// or https://.",
    )


def _describe_first(rows: list[ImageRequest]) -> str:
    first = rows[0]
    found = first.refused.message if first.refused is not None else f"row 1 is {redacted(first.url)[:80]!r}"
    return f"none of its first {len(rows):,} rows is a URL; {found}"
