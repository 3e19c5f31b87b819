"""The baselines: download the same images in a plain loop and with plain threads, without Celery.

The baselines fetch, save and collect with the same functions and limits as the fleet. So they differ from the fleet
only in how the work is distributed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from producer.output.folder import unwritable_error
from tasks.collect import collect
from tasks.download.downloader import Downloader
from tasks.errors import StorageError
from tasks.fetch import FetchRequest, fetch
from tasks.model import ImageRequest, Outcome, RunOptions
from tasks.storage import plan
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import Store

#: Called with each Outcome as soon as it is known.
Listener = Callable[[Outcome], None]


def download_one_by_one(
    requests: Sequence[ImageRequest],
    run: RunOptions,
    store: Store,
    downloader: Downloader,
    listener: Listener,
) -> float:
    """Fetch the images one by one.

    Return the seconds from the first fetch to the last manifest.
    """
    started = time.monotonic()
    outcomes = (fetch(_fetch_request(request), run, store, downloader) for request in requests)
    return _write_shards(started, requests, _collect_outcomes(outcomes, listener), run, store)


def download_with_threads(
    requests: Sequence[ImageRequest],
    run: RunOptions,
    store: Store,
    downloader: Downloader,
    listener: Listener,
    threads: int,
) -> float:
    """Fetch the images with up to ``threads`` threads.

    Return the seconds from the first fetch to the last manifest.
    """
    started = time.monotonic()
    pool = ThreadPoolExecutor(min(threads, len(requests)), thread_name_prefix="baseline")
    try:
        outcomes = pool.map(lambda request: fetch(_fetch_request(request), run, store, downloader), requests)
        return _write_shards(started, requests, _collect_outcomes(outcomes, listener), run, store)
    finally:
        # After an interruption, do not wait for the running downloads.
        pool.shutdown(wait=False, cancel_futures=True)


def _fetch_request(request: ImageRequest) -> FetchRequest:
    return FetchRequest(
        request.url,
        request.index,
        refused=request.refused,
        path=request.path,
        expected_hash=request.expected_hash,
    )


def _collect_outcomes(outcomes: Iterable[Outcome], listener: Listener) -> list[Outcome]:
    ended = []
    for outcome in outcomes:
        listener(outcome)
        ended.append(outcome)
    return ended


def _write_shards(
    started: float,
    requests: Sequence[ImageRequest],
    outcomes: Sequence[Outcome],
    run: RunOptions,
    store: Store,
) -> float:
    """Write the plan and the manifests, so that the folder looks like the folder of a fleet's run.

    Raises:
        UsageError: the folder can't be written.
    """
    pairs = zip(requests, outcomes, strict=True)
    try:
        for shard, group in groupby(pairs, lambda pair: pair[0].index // run.shard_size):
            members = list(group)
            store.create_durably(
                plan.name(shard), plan.encode([request for request, _ in members], ShardRef(run.run_id, shard))
            )
            collect(shard, [outcome for _, outcome in members], run, store)
    except StorageError as error:
        raise unwritable_error(store, error) from error
    return time.monotonic() - started
