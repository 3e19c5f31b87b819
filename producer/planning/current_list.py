"""Read the current list of a run: its only list, or the last list that extended it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from producer.output.run_file import RunFile
from producer.sources import url_list
from producer.sources.request_stream import RequestStream, closing_source, schema_of
from tasks.model import ImageRequest


def read(record: RunFile) -> RequestStream:
    """Return the requests of a run's current list, with their indexes in the run.

    The errors of `url_list.read` are raised at the first request.
    """
    requests = url_list.read(record.source, record.options.source)
    return renumbered(requests, record.first_index) if record.first_index else requests


def renumbered(requests: Iterable[ImageRequest], first: int) -> RequestStream:
    """Return the same requests with other indexes: ``first`` instead of 0, and so on."""
    return RequestStream(lambda: (schema_of(requests), _renumber(requests, first)))


def _renumber(requests: Iterable[ImageRequest], first: int) -> Iterator[ImageRequest]:
    with closing_source(requests) as source:
        for request in source:
            yield request._replace(index=request.index + first)
