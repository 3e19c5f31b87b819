"""Turn the rows of a URL list into the requests of a run.

Duplicates are refused, files are named, and images of a previous run are added. Every command that plans a list, or
plans a part of it again, gets the same requests here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import pyarrow as pa

from producer.output.run_file import RunConfig
from producer.planning.duplicates import refuse_duplicates
from producer.planning.file_paths import FileNamer
from producer.planning.previous_run import join_previous_images
from producer.sources.options import Dedupe
from producer.sources.request_stream import RequestStream, closing_source, schema_of
from tasks.model import ImageRequest
from tasks.storage.store import Store

#: The scratch folders for the names and for the URLs while the list is planned.
_NAMES, _URLS = "file_paths", "duplicates"


def prepare_requests(
    listed: Iterable[ImageRequest],
    options: RunConfig,
    store: Store,
    select: Callable[[Iterator[ImageRequest]], Iterator[ImageRequest]] = iter,
) -> RequestStream:
    """Return the requests of a run, as the plan stores them.

    A row is either refused or fetched before later rows are compared with it. So no row is refused because of a row
    that is refused itself.

    The errors of `FileNamer` and of `join_previous_images` are raised at the first request.

    Args:
        listed: all requests of the list, from the first one on.
        options: the run's options.
        store: the run's folder, for temporary files.
        select: yields the needed ones of the checked requests. The previous run is searched only for these.
    """

    def open_list() -> tuple[pa.Schema | None, Iterator[ImageRequest]]:
        return schema_of(listed), select(_check(listed, options, store))

    return join_previous_images(RequestStream(open_list), options, store)


def _check(listed: Iterable[ImageRequest], options: RunConfig, store: Store) -> Iterator[ImageRequest]:
    """Yield the requests, with names and refusals."""
    with ExitStack() as stack:
        source = stack.enter_context(closing_source(listed))
        names = stack.enter_context(store.scratch_folder(_NAMES)) if options.has_own_names else None
        namer = None if names is None else stack.enter_context(FileNamer(options, schema_of(listed), names))
        if options.source.dedupe is Dedupe.URL:
            folder = stack.enter_context(store.scratch_folder(_URLS))
            check = _keep if namer is None else namer.name
            yield from refuse_duplicates(source, options.shard_size, folder, check)
        elif namer is None:
            yield from source
        else:
            yield from map(namer.name, source)


def _keep(request: ImageRequest) -> ImageRequest:
    return request
