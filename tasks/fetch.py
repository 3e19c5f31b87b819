"""One request to one Outcome: download, verify, resize, save. Knows no Celery.

The fleet, the baselines and the tests all fetch by this function.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from tasks import images, manifest
from tasks.connection import Deadline
from tasks.download import Download, Downloader
from tasks.errors import FetchError, Internal, TimedOut
from tasks.images import Picture
from tasks.model import (
    HEADER_LIMIT,
    MESSAGE_LIMIT,
    URL_LIMIT,
    FetchOptions,
    Outcome,
    ResizeMode,
    RunOptions,
    Status,
    key_of,
    shard_name,
    shortened,
)
from tasks.resize import resized
from tasks.storage import Store
from tasks.urls import masked

_log = logging.getLogger(__name__)


def fetch(url: str, index: int, run: RunOptions, store: Store, downloader: Downloader) -> Outcome:
    """Fetch one image and save it; return its Outcome whatever happens.

    Args:
        url: as it stands in the Source.
        index: its place in the Source, from 0.
        run: the run's options.
        store: the run's output folder.
        downloader: the process's own.
    """
    attempts = 0

    def count_attempt() -> None:
        nonlocal attempts
        attempts += 1

    started = time.monotonic()
    shard, offset = divmod(index, run.shard_size)
    key = key_of(shard, offset, run.shard_size)
    deadline = Deadline(run.fetch.timeout, run.fetch.deadline)
    try:
        download = downloader.download(url, run.fetch, deadline, count_attempt)
        picture = _picture(download.body, run.fetch, deadline)
        if deadline.remaining <= 0:
            raise TimedOut("the deadline was over before the image could be saved", http_status=download.http_status)
        outcome = _saved(shard, key, download, picture, run, store)
    except FetchError as error:
        outcome = failed(key, error)
    except MemoryError as error:
        outcome = failed(key, Internal(f"out of memory: {error}"))
    except Exception as error:  # noqa: BLE001  # one Outcome whatever happens
        _log.exception("a fault of ours at %s", masked(url)[:URL_LIMIT])
        outcome = failed(key, Internal(f"{type(error).__name__}: {error}"))
    return replace(outcome, attempts=attempts, fetch_seconds=round(time.monotonic() - started, 4))


def failed(key: str, error: FetchError) -> Outcome:
    """Return the Outcome that an error stands for."""
    return Outcome(
        key,
        error.reason.status,
        error.reason,
        error_message=shortened(masked(str(error)), MESSAGE_LIMIT),
        http_status=error.http_status,
        finished_at=round(time.time(), 3),
        worker=worker_name(),
    )


@cache
def worker_name() -> str:
    """Return what an Outcome's ``worker`` says: this host and process."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}"


def _picture(body: bytes, options: FetchOptions, deadline: Deadline) -> Picture:
    """Return what is to be saved of a download: the image as it came, or resized."""
    if options.resize.mode is ResizeMode.KEEP_RATIO:
        return resized(body, options.resize, options.max_pixels, deadline)
    return _as_it_came(body, options)


def _as_it_came(body: bytes, options: FetchOptions) -> Picture:
    info = images.inspect(body, options.max_pixels)
    return Picture(body, info, (info.width, info.height))


def _standing(body: bytes, options: FetchOptions) -> Picture:
    """Return what another delivery of the task has saved; if that was resized, nobody knows what it was made of."""
    picture = _as_it_came(body, options)
    return picture if options.resize.mode is ResizeMode.NO else replace(picture, original=(None, None))


def _saved(shard: int, key: str, download: Download, picture: Picture, run: RunOptions, store: Store) -> Outcome:
    name = f"{shard_name(shard)}/{key}.{picture.info.extension}"
    if not store.create(name, picture.body):
        standing = store.read(name)
        if standing != picture.body:
            # Another delivery of this task was first, and the URL served another picture to it.
            return _described(key, name, _standing(standing, run.fetch), {"recovered": True})
    elif store.exists(manifest.name(shard)):
        _withdraw_unnamed(shard, name, store)
    response = {
        "http_status": download.http_status,
        "final_url": _short(download.final_url, URL_LIMIT),
        "etag": _short(download.etag, HEADER_LIMIT),
        "last_modified": _short(download.last_modified, HEADER_LIMIT),
    }
    return _described(key, name, picture, response)


def _described(key: str, name: str, picture: Picture, origin: Mapping[str, Any]) -> Outcome:
    """Return the Outcome of what is saved; ``origin`` says what is known of where it came from."""
    info = picture.info
    return Outcome(
        key,
        Status.SUCCESS,
        path=name,
        width=info.width,
        height=info.height,
        original_width=picture.original[0],
        original_height=picture.original[1],
        format=info.format,
        bytes=len(picture.body),
        sha256=images.digest(picture.body),
        finished_at=round(time.time(), 3),
        worker=worker_name(),
        **origin,
    )


def _withdraw_unnamed(shard: int, name: str, store: Store) -> None:
    """Take a file back that came after its shard's manifest, unless the manifest names it.

    Whoever writes a manifest removes strays after it has its name, and here a file has its name before the manifest is
    looked for: whichever comes second sees the other.
    """
    paths = manifest.decode(store.read(manifest.name(shard)), ["path"])["path"].to_pylist()
    if name not in paths:
        store.remove(name)


def _short(value: str | None, limit: int) -> str | None:
    return value if value is None else shortened(value, limit)
