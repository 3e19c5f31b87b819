"""A job that downloads nothing, for workers that only put load on Redis.

``celery -A tasks worker --include benchmarks.empty`` starts such a worker. Like every worker, it takes messages, counts
chord parts and collects shards. Instead of fetching an image, the worker returns an Outcome of the usual size.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tasks import jobs
from tasks.download.downloader import Downloader
from tasks.errors import FetchError
from tasks.fetch import FetchRequest, worker_name
from tasks.model import Outcome, RunOptions, Status, image_key
from tasks.storage.store import Store


def fetch(
    request: FetchRequest,
    run: RunOptions,
    store: Store,
    downloader: Downloader,
    defer_long_waits: bool = False,
    judge: Callable[[FetchError], None] | None = None,
) -> Outcome:
    """Return the Outcome of an image without fetching the image.

    The arguments are the same as those of `tasks.fetch.fetch`.
    """
    return Outcome(
        image_key(request.index, run.shard_size),
        Status.SUCCESS,
        width=64,
        height=32,
        original_width=64,
        original_height=32,
        format="jpeg",
        bytes=1500,
        sha256="0" * 64,
        http_status=200,
        final_url=request.url,
        # There is no file, so the Outcome has no path. This ETag is as long as a path, so that the Outcome has its
        # usual size.
        etag='"0123456789abcdef-0123456789abcdef-0123456789"',
        last_modified="Thu, 01 Jan 2026 00:00:00 GMT",
        attempts=1,
        fetch_seconds=0.0001,
        finished_at=round(time.time(), 3),
        worker=worker_name(),
    )


jobs.fetch = fetch  # type: ignore[attr-defined]  # the task calls it by this name
