"""Find the rows of a URL list that have the same URL as an earlier row (``--dedupe url``).

Two URLs are the same if imagefleet would send the same request for both. So both are normalised by the rules of the URL
Standard, and compared without their fragments. A duplicate row stays in the run, but it is refused, so it costs no HTTP
request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from producer.output.run_file import RunConfig
from producer.planning.seen_urls import SeenUrls
from producer.sources.options import Dedupe
from producer.sources.request_stream import RequestStream, closing_source, schema_of
from tasks.download import urls
from tasks.errors import InvalidUrlError
from tasks.model import ImageRequest, Reason, Refusal, image_key
from tasks.storage.store import Store

#: The scratch folder for the URLs while the list is planned.
_SEEN = "duplicates"


def refuse_duplicates(requests: Iterable[ImageRequest], options: RunConfig, store: Store) -> RequestStream:
    """Return the requests of a run.

    If the run's options ask for it, duplicates are refused.

    Args:
        requests: all requests of the list, from the first one on.
        options: the run's options.
        store: the run's folder, for temporary files.
    """
    return RequestStream(lambda: (schema_of(requests), _refuse(requests, options, store)))


def _refuse(requests: Iterable[ImageRequest], options: RunConfig, store: Store) -> Iterator[ImageRequest]:
    with closing_source(requests) as source:
        if options.source.dedupe is not Dedupe.URL:
            yield from source
            return
        with store.scratch_folder(_SEEN) as folder:
            yield from refuse_seen(source, options.shard_size, folder)


def refuse_seen(requests: Iterable[ImageRequest], shard_size: int, folder: Path) -> Iterator[ImageRequest]:
    """Yield the requests, and refuse the duplicates among them.

    A request is refused if an earlier request has its URL. The refusal names the key of the first request with that
    URL.

    Rows that are refused for another reason, and invalid URLs, are never duplicates.

    Args:
        requests: the requests.
        shard_size: requests per shard; the keys depend on this number.
        folder: a folder for temporary files, which may not exist yet.

    Raises:
        StorageError: the temporary files can't be written, for example because the disk is full.
    """
    with SeenUrls(folder) as seen:
        for request in requests:
            first = request.index
            if request.refused is None:
                first = _first_row(request, seen)
            if first == request.index:
                yield request
            else:
                message = f"the same URL as {image_key(first, shard_size)}"
                yield replace(request, refused=Refusal(Reason.DUPLICATE, message))


def _first_row(request: ImageRequest, seen: SeenUrls) -> int:
    try:
        url = urls.parse(request.url)
    except InvalidUrlError:
        return request.index
    # Two users may get different images from one URL. A normalised URL contains no spaces.
    text = url.text if url.userinfo is None else f"{url.userinfo} {url.text}"
    return seen.first_row(text, request.index)
