"""The requests of a URL list together with the types of their columns."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa

from tasks.model import ImageRequest


class OpenedList(NamedTuple):
    """An opened URL list."""

    #: The types of the requests' columns, or None if the requests don't come from a list.
    schema: pa.Schema | None
    requests: Iterator[ImageRequest]
    #: The name of the column with the URLs, or None if the list has no columns.
    url_column: str | None = None


class RequestStream(Iterable[ImageRequest]):
    """The requests of a URL list, and the types of the passed columns. The requests can be iterated once.

    The list is opened only when the first request or the types are needed.
    """

    def __init__(self, open_list: Callable[[], OpenedList | tuple[pa.Schema | None, Iterator[ImageRequest]]]) -> None:
        self._open = open_list

    @cached_property
    def _opened(self) -> OpenedList:
        return OpenedList(*self._open())

    @property
    def schema(self) -> pa.Schema | None:
        """The types of the requests' columns, or None if the requests don't come from a list.

        Raises:
            UsageError: the list can't be opened.
        """
        return self._opened.schema

    @property
    def url_column(self) -> str | None:
        """The name of the list's column with the URLs, or None if there is no list or it has no columns.

        Raises:
            UsageError: the list can't be opened.
        """
        return self._opened.url_column

    def __iter__(self) -> Iterator[ImageRequest]:
        return self._opened.requests


def schema_of(requests: Iterable[ImageRequest]) -> pa.Schema | None:
    """Return the types of the requests' columns, or None if they are unknown.

    Raises:
        UsageError: the list can't be opened.
    """
    return requests.schema if isinstance(requests, RequestStream) else None


@contextmanager
def closing_source(requests: Iterable[ImageRequest]) -> Iterator[Iterator[ImageRequest]]:
    """Yield the iterator of requests, and close the iterator afterwards.

    A generator may hold files until it is closed.
    """
    source = iter(requests)
    try:
        yield source
    finally:
        if isinstance(source, Generator):
            source.close()
