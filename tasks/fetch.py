"""One request to one Outcome: download, verify, resize, save. Knows no Celery.

The fleet, the baselines and the tests all fetch by this function.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from tasks.deadline import Deadline
from tasks.download.conditional import Validators
from tasks.download.downloader import Download, Downloader
from tasks.download.retry import countdown
from tasks.errors import (
    FetchError,
    FetchTimeoutError,
    InternalError,
    LongWaitError,
    NotAnImageError,
    TooManyPixelsError,
    UndecodableError,
)
from tasks.images import identify
from tasks.images.decode import decode_all_frames
from tasks.images.identify import EncodedImage
from tasks.images.resize import resize_image
from tasks.model import (
    HEADER_LIMIT,
    MESSAGE_LIMIT,
    URL_LIMIT,
    FetchOptions,
    Outcome,
    ResizeMode,
    RunOptions,
    Status,
    Verify,
    image_key,
    shard_name,
    shortened,
)
from tasks.previous_image import PreviousFile
from tasks.redaction import redacted
from tasks.retry_later import NO_PRIOR_ATTEMPTS, PriorAttempts, RetryLater
from tasks.storage import shard_status
from tasks.storage.store import Store

_log = logging.getLogger(__name__)
#: Formats whose decoders take zeros for pixels, and what the end of a file looks like that never reached the disk.
_TAKE_ZEROS = ("jpeg", "webp", "avif")
_ZEROS = bytes(512)


def fetch(
    url: str,
    index: int,
    run: RunOptions,
    store: Store,
    downloader: Downloader,
    recover: bool = False,
    prior: PriorAttempts = NO_PRIOR_ATTEMPTS,
    defer_long_waits: bool = False,
    previous: PreviousFile | None = None,
    judge: Callable[[FetchError], None] | None = None,
) -> Outcome:
    """Fetch one image and save it; return its Outcome whatever happens.

    Args:
        url: as it stands in the Source.
        index: its place in the Source, from 0.
        run: the run's options.
        store: the run's output folder.
        downloader: the process's own.
        recover: whether the image may be saved already, by a delivery of which nobody has heard: then it is not
            downloaded again, unless what is saved is not what came, or not all of it.
        prior: what earlier deliveries have spent on it.
        defer_long_waits: whether a wait that is too long for a slot is left to the caller; otherwise the image fails
            with it.
        previous: what a previous run has saved of the URL: it is taken over if the URL's server says that it is
            unchanged.
        judge: called with what the image would fail with; what it raises is raised, and there is no Outcome.

    Raises:
        Later: there is such a wait; only with ``defer_long_waits``.
    """
    attempts = prior.attempts

    def count_attempt() -> None:
        nonlocal attempts
        attempts += 1

    def spent() -> float:
        return round(prior.seconds + time.monotonic() - started, 4)

    def ask(counted: int, validators: Validators | None = None) -> Download:
        return downloader.download(url, run.fetch, deadline, count_attempt, counted, validators)

    started = time.monotonic()
    shard = index // run.shard_size
    key = image_key(index, run.shard_size)
    deadline = Deadline(run.fetch.timeout, run.fetch.deadline)
    download: Download | None = None
    try:
        if recover and (facts := _recover(shard, key, run, store, deadline)) is not None:
            return _outcome(key, attempts=attempts, fetch_seconds=spent(), **facts)
        download = ask(attempts, None if previous is None else previous.validators())
        unchanged = previous.load() if previous is not None and download.unchanged else None
        if download.unchanged and unchanged is None:
            # The previous run's file is gone, or no longer what it was. That attempt is none that has failed.
            download = ask(attempts - 1)
        image = unchanged or _encode_image(download.body, run.fetch, deadline)
        if deadline.remaining <= 0:
            raise FetchTimeoutError("the deadline was over before the image could be saved (--deadline)")
        facts = _save(shard, key, download, image, run, store, deadline, previous if unchanged else None)
    except FetchError as error:
        if download is not None:
            # What is wrong with an image is found without its answer.
            error.http_status, error.final_url = download.http_status, download.final_url
        if defer_long_waits and isinstance(error, LongWaitError) and error.retry_after is not None:
            raise RetryLater(_text(error), countdown(error.retry_after), PriorAttempts(attempts, spent())) from None
        if judge is not None:
            judge(error)
        facts = {**_failure_facts(error), "tls_unverified": download is not None and download.tls_unverified}
    except MemoryError as error:
        facts = _failure_facts(InternalError(f"out of memory: {error}"))
    except Exception as error:  # noqa: BLE001  # one Outcome whatever happens
        _log.exception("a fault of ours at %s", redacted(url)[:URL_LIMIT])
        facts = _failure_facts(InternalError(f"{type(error).__name__}: {error}"))
    return _outcome(key, attempts=attempts, fetch_seconds=spent(), **facts)


def failed_outcome(key: str, error: FetchError) -> Outcome:
    """Return the Outcome that an error stands for."""
    return _outcome(key, **_failure_facts(error))


def _outcome(key: str, **facts: Any) -> Outcome:
    return Outcome(key, finished_at=round(time.time(), 3), worker=worker_name(), **facts)


def _failure_facts(error: FetchError) -> dict[str, Any]:
    """Return what an Outcome says of an error."""
    return {
        "status": error.reason.status,
        "reason": error.reason,
        "error_message": _text(error),
        "http_status": error.http_status,
        "final_url": _shortened_or_none(error.final_url, URL_LIMIT),
    }


def _text(error: FetchError) -> str:
    """Return what is shown of an error."""
    return shortened(redacted(str(error)), MESSAGE_LIMIT)


@cache
def worker_name() -> str:
    """Return what an Outcome's ``worker`` says: this host and process."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}"


def _encode_image(body: bytes, options: FetchOptions, deadline: Deadline) -> EncodedImage:
    """Return what is to be saved of a download: the image as it came, or resized."""
    if options.resize.mode is ResizeMode.KEEP_RATIO:
        return resize_image(body, options.resize, options.max_pixels, deadline)
    if options.verify is Verify.DECODE:
        info = decode_all_frames(body, options.max_pixels, deadline)
        return EncodedImage(body, info, (info.width, info.height))
    return _unchanged_image(body, options)


def _unchanged_image(body: bytes, options: FetchOptions) -> EncodedImage:
    info = identify.inspect(body, options.max_pixels)
    return EncodedImage(body, info, (info.width, info.height))


def _existing_image(
    existing: bytes, downloaded: EncodedImage, options: FetchOptions, deadline: Deadline
) -> EncodedImage | None:
    """Return what another delivery of the task has saved, to which the URL served another picture; None if it is lost.

    The first one stays, as its Outcome may be counted; but not what is damaged, if what came now is whole. If it was
    resized, nobody knows what it was made of.
    """
    if not _is_whole(existing, options, deadline) and _is_whole(downloaded.body, options, deadline):
        return None
    try:
        image = _unchanged_image(existing, options)
    except (NotAnImageError, UndecodableError):
        return None
    return image if options.resize.mode is ResizeMode.NO else replace(image, original=(None, None))


def _is_whole(body: bytes, options: FetchOptions, deadline: Deadline) -> bool:
    """Tell whether an image can be decoded to its end; what would take too much for that is taken at its header's word.

    Whoever gave a file its name had written all of it, but not put it on the disk: after a loss of power a name may
    stand without its bytes, or with zeros in place of the last ones. Some decoders make pixels of these.
    """
    try:
        info = decode_all_frames(body, options.max_pixels, deadline)
    except (NotAnImageError, UndecodableError):
        return False
    except (TooManyPixelsError, FetchTimeoutError):
        return True
    return not (info.format in _TAKE_ZEROS and body.endswith(_ZEROS))


def _save(
    shard: int,
    key: str,
    download: Download,
    image: EncodedImage,
    run: RunOptions,
    store: Store,
    deadline: Deadline,
    previous: PreviousFile | None = None,
) -> dict[str, Any]:
    """Save a picture, which may be a previous run's, and return what an Outcome says of it."""
    name = f"{shard_name(shard)}/{key}.{image.info.extension}"
    if previous is None:
        created = store.create(name, image.body)
    else:
        download = previous.with_stored_headers(download)
        created = store.create_linked(name, image.body, previous.file)
    if not created:
        existing = store.read(name)
        if existing != image.body:
            existing_image = _existing_image(existing, image, run.fetch, deadline)
            if existing_image is None:
                _log.warning("%s is not all there any more, and what came now takes its place", name)
                store.remove(name)
                return _save(shard, key, download, image, run, store, deadline, previous)
            # Nobody knows how that came; in such a run it may have come from anybody.
            return _image_facts(name, existing_image, {"recovered": True, "tls_unverified": run.fetch.insecure})
    elif shard_status.is_done(shard, run.revision, store):
        _remove_if_unlisted(shard, name, store)
    response = {
        "exif": None if previous is None else previous.image.exif,
        "http_status": download.http_status,
        "final_url": _shortened_or_none(download.final_url, URL_LIMIT),
        "etag": _shortened_or_none(download.etag, HEADER_LIMIT),
        "last_modified": _shortened_or_none(download.last_modified, HEADER_LIMIT),
        "tls_unverified": download.tls_unverified,
    }
    return _image_facts(name, image, response)


def _recover(shard: int, key: str, run: RunOptions, store: Store, deadline: Deadline) -> dict[str, Any] | None:
    """Return what an Outcome says of an image that stands as it came; None where none does, or none that is whole.

    The name alone says nothing of what a file holds, so all of it is decoded: that is done for few images. What is not
    whole stays until another has come, as it may be just what the URL serves, and its Outcome may be counted.
    """
    if run.fetch.resize.mode is not ResizeMode.NO or run.fetch.insecure:
        # Its file does not tell what it was made of, or whether its server was verified.
        return None
    for extension in sorted(set(identify.EXTENSIONS.values())):
        name = f"{shard_name(shard)}/{key}.{extension}"
        if not store.exists(name):
            continue
        body = store.read(name)
        if _is_whole(body, run.fetch, deadline):
            return _image_facts(name, _unchanged_image(body, run.fetch), {"recovered": True})
        _log.warning("%s is not all there, and is fetched again", name)
    return None


def _image_facts(name: str, image: EncodedImage, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an Outcome says of what is saved; ``origin`` is what is known of where it came from."""
    info = image.info
    return {
        "status": Status.SUCCESS,
        "path": name,
        "width": info.width,
        "height": info.height,
        "original_width": image.original[0],
        "original_height": image.original[1],
        "format": info.format,
        "bytes": len(image.body),
        "sha256": identify.digest(image.body),
        **origin,
    }


def _remove_if_unlisted(shard: int, name: str, store: Store) -> None:
    """Take a file back that came after its shard's manifest, unless the manifest names it.

    Whoever writes a manifest removes strays after it has its name, and here a file has its name before the manifest is
    looked for: whichever comes second sees the other.
    """
    if name not in shard_status.listed_paths(shard, store):
        store.remove(name)


def _shortened_or_none(value: str | None, limit: int) -> str | None:
    """Return what a server says, as far as an Outcome has room; a text with controls in it says nothing."""
    return shortened(value, limit) if value is not None and value.isprintable() else None
