"""Find the rows of a URL list that have the same URL as an earlier row (``--dedupe url``).

Two URLs are the same if imagefleet would send the same request for both. So both are normalised by the rules of the URL
Standard, and compared without their fragments. A duplicate row stays in the run, but it is refused, so it costs no HTTP
request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from producer.planning.seen_urls import SeenUrls
from tasks.download import urls
from tasks.errors import InvalidUrlError
from tasks.model import ImageRequest, Reason, Refusal, image_key


def refuse_duplicates(
    requests: Iterable[ImageRequest], shard_size: int, folder: Path, check: Callable[[ImageRequest], ImageRequest]
) -> Iterator[ImageRequest]:
    """Yield the requests, and refuse the duplicates among them.

    A request is refused if an earlier request has its URL and is not refused itself. So an image is fetched once, even
    if the first row with its URL is refused. The refusal names the key of the earlier request.

    Rows that are refused for another reason, and invalid URLs, are never duplicates.

    Args:
        requests: all requests of the list.
        shard_size: requests per shard; the keys depend on this number.
        folder: a folder for temporary files, which may not exist yet.
        check: returns a request that is no duplicate as it is, changed or refused.

    Raises:
        StorageError: the temporary files can't be written, for example because the disk is full.
    """
    with SeenUrls(folder) as seen:
        for request in requests:
            url = _comparable_url(request)
            first = None if url is None else seen.find(url)
            if first is not None:
                message = f"the same URL as {image_key(first, shard_size)}"
                yield request._replace(path=None, refused=Refusal(Reason.DUPLICATE, message))
                continue
            checked = check(request)
            if url is not None and checked.refused is None:
                seen.first_row(url, request.index)
            yield checked


def _comparable_url(request: ImageRequest) -> str | None:
    """Return the normalised URL of a request; None if the request is refused, or its URL is invalid."""
    if request.refused is not None:
        return None
    try:
        url = urls.parse(request.url)
    except InvalidUrlError:
        return None
    # Two users may get different images from one URL. A normalised URL contains no spaces.
    return url.text if url.userinfo is None else f"{url.userinfo} {url.text}"
