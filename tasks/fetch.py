"""Turn one request into one Outcome: download the image, verify it, resize it, save it. Does not use Celery.

The fleet, the baselines and the tests all fetch with this function.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import redis

from tasks.deadline import Deadline
from tasks.download.body_hash import verify_hash
from tasks.download.conditional import Validators
from tasks.download.downloader import Download, Downloader
from tasks.download.retry import countdown
from tasks.errors import (
    FetchError,
    FetchTimeoutError,
    FilteredError,
    InternalError,
    LongWaitError,
)
from tasks.images import identify
from tasks.images.exif_tags import exif_json
from tasks.images.identify import EncodedImage
from tasks.images.prepare import existing_image, is_whole, prepare_image, saved_image
from tasks.model import (
    HEADER_LIMIT,
    MESSAGE_LIMIT,
    SHA256_FIELD,
    URL_LIMIT,
    Outcome,
    Refusal,
    RunOptions,
    Status,
    image_key,
    shard_name,
    shortened,
)
from tasks.phases import Phase
from tasks.previous_image import PreviousFile
from tasks.redaction import redacted
from tasks.retry_later import NO_PRIOR_ATTEMPTS, HostBusy, PriorAttempts, RetryLater
from tasks.storage import shard_status
from tasks.storage.file_names import check_name
from tasks.storage.store import Store

_log = logging.getLogger(__name__)
#: Two limits in bytes of JSON: the longest EXIF text in an Outcome, and the size of an Outcome with this text. The
#: fields that are added after the facts about the image take at most `_OTHER_FIELDS_BYTES`.
_EXIF_LIMIT, _OUTCOME_LIMIT, _OTHER_FIELDS_BYTES = 480, 1000, 260


class Judge(Protocol):
    """Tells whether a failure may be the fault of this worker."""

    def __call__(self, error: FetchError) -> None:
        """Judge the error of a failed image. An exception means that there is no Outcome, and reaches the caller."""

    def is_host_fault(self, error: FetchError) -> bool:
        """Return whether the image's host is certainly the cause of a missing response, and not this worker."""


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """An image to fetch, with the facts from earlier deliveries of its task and from a previous run."""

    #: The URL as in the URL list.
    url: str
    #: The URL's place in the URL list, from 0.
    index: int
    #: Whether an earlier delivery may have saved the image without reporting it. In that case, a complete saved
    #: image is not downloaded again. This does not apply to resized images, or to images from an insecure run.
    recover: bool = False
    #: The attempts and seconds of earlier deliveries.
    prior: PriorAttempts = NO_PRIOR_ATTEMPTS
    #: The image of this URL in a previous run. It is reused if the server reports it as unchanged.
    previous: PreviousFile | None = None
    #: Why the row of the URL list is not fetched; None if the row is fetched.
    refused: Refusal | None = None
    #: The name of the image's file in the output folder, without its extension; None for ``{shard}/{key}``.
    path: str | None = None
    #: The expected hash of the downloaded bytes, as in `ImageRequest`.
    expected_hash: str | None = None
    #: Seconds from sending the task to its start in a slot; 0 without a queue.
    queued_seconds: float = 0.0


def fetch(
    request: FetchRequest,
    run: RunOptions,
    store: Store,
    downloader: Downloader,
    defer_long_waits: bool = False,
    judge: Judge | None = None,
) -> Outcome:
    """Fetch one image, save it, and always return its Outcome.

    Args:
        request: the image.
        run: the run's options.
        store: the run's output folder.
        downloader: the process's downloader.
        defer_long_waits: whether to raise RetryLater if the server asks for a wait that is too long to hold a slot for.
            If false, the image fails as ``rate_limited``.
        judge: tells whether a failure may be this worker's fault; None for a process that is no worker.

    Raises:
        RetryLater: the server asks for a wait that is too long for a slot; only with ``defer_long_waits``.
        HostBusy: the gate of the downloader gives no permission for a first request soon.
        redis.RedisError: the worker is stopping while Redis is unreachable.
    """
    delivery = _Delivery(request, run, store, downloader, judge)
    if request.refused is not None:
        return refused_outcome(delivery.key, request.refused)
    try:
        facts = delivery.fetch()
    except HostBusy as busy:
        if delivery.attempts == request.prior.attempts:
            raise
        # The task's message does not count these attempts, so the task is sent again with their number.
        raise RetryLater(str(busy), countdown(busy.wait), delivery.spent()) from None
    except FetchError as error:
        download = delivery.download
        if download is not None:
            # An error in the image itself has no facts about the response, so add these facts.
            error.http_status, error.final_url = download.http_status, download.final_url
        if defer_long_waits and isinstance(error, LongWaitError) and error.retry_after is not None:
            raise RetryLater(_text(error), countdown(error.retry_after), delivery.spent()) from None
        if judge is not None:
            judge(error)
        # The answer to a probe must be reported, because the fleet waits for it.
        is_known = delivery.has_reported and not error.is_probe
        rest = None if is_known else downloader.report_unreachable(error, run.fetch.throttle)
        if defer_long_waits and error.is_probe and rest is not None and delivery.attempts <= run.fetch.retries:
            raise RetryLater(_text(error), countdown(rest), delivery.spent()) from None
        facts = {**_failure_facts(error), "tls_unverified": download is not None and download.tls_unverified}
    except redis.RedisError:
        # The worker is stopping and can't ask for a permit. Another worker gets the task.
        raise
    except MemoryError as error:
        facts = _failure_facts(InternalError(f"out of memory: {error}"))
    except Exception as error:  # noqa: BLE001  # every request has an Outcome
        _log.exception("internal error while fetching %s", redacted(request.url)[:URL_LIMIT])
        facts = _failure_facts(InternalError(f"{type(error).__name__}: {error}"))
    return _outcome(
        delivery.key,
        attempts=delivery.attempts,
        fetch_seconds=delivery.seconds(),
        phases=delivery.deadline.clock.finish(),
        **facts,
    )


def failed_outcome(key: str, error: FetchError) -> Outcome:
    """Return the Outcome of an image that failed with this error."""
    return _outcome(key, **_failure_facts(error))


def refused_outcome(key: str, refusal: Refusal) -> Outcome:
    """Return the Outcome of a row that is not fetched."""
    message = shortened(redacted(refusal.message), MESSAGE_LIMIT)
    return _outcome(key, status=refusal.reason.status, reason=refusal.reason, error_message=message)


def _outcome(key: str, **facts: Any) -> Outcome:
    return Outcome(key, finished_at=round(time.time(), 3), worker=worker_name(), **facts)


def _failure_facts(error: FetchError) -> dict[str, Any]:
    """Return an error's facts as fields of an Outcome."""
    width, height = error.size if isinstance(error, FilteredError) else (None, None)
    return {
        "original_width": width,
        "original_height": height,
        "status": error.reason.status,
        "reason": error.reason,
        "error_message": _text(error),
        "http_status": error.http_status,
        "final_url": _shortened_or_none(error.final_url, URL_LIMIT),
    }


def _text(error: FetchError) -> str:
    """Return an error's message, redacted and shortened."""
    return shortened(redacted(str(error)), MESSAGE_LIMIT)


@cache
def worker_name() -> str:
    """Return the value for an Outcome's field ``worker``: this host and process."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}"


class _Delivery:
    """One delivery of a request: its deadline, its attempts so far, and its steps."""

    __slots__ = (
        *("attempts", "deadline", "download", "downloader", "has_reported", "judge", "key", "request", "run", "shard"),
        *("started", "store"),
    )

    def __init__(
        self, request: FetchRequest, run: RunOptions, store: Store, downloader: Downloader, judge: Judge | None
    ) -> None:
        self.request, self.run, self.store, self.downloader, self.judge = request, run, store, downloader, judge
        self.shard, self.key = request.index // run.shard_size, image_key(request.index, run.shard_size)
        self.started = time.monotonic()
        self.deadline = Deadline(run.fetch.timeout, run.fetch.deadline)
        self.deadline.clock.add(Phase.QUEUED, request.queued_seconds)
        self.attempts = request.prior.attempts
        #: Whether the host has been reported as unreachable. Except for probes, an image reports its host once.
        self.has_reported = False
        #: The last response.
        self.download: Download | None = None

    def seconds(self) -> float:
        """Return the seconds spent on the image, including earlier deliveries."""
        return round(self.request.prior.seconds + time.monotonic() - self.started, 4)

    def spent(self) -> PriorAttempts:
        """Return the attempts and seconds so far, for the next delivery."""
        return PriorAttempts(self.attempts, self.seconds())

    def fetch(self) -> dict[str, Any]:
        """Fetch and save the image; return the fields of its Outcome.

        Raises:
            FetchError: the image failed.
        """
        previous = self._usable_previous()
        if self.request.recover and (facts := self._recover()) is not None:
            return facts
        download = self._ask(self.attempts, None if previous is None else previous.validators())
        unchanged = previous.load() if previous is not None and download.unchanged else None
        if download.unchanged and unchanged is None:
            # The previous run's file was removed or changed, so the image is downloaded. This extra attempt does not
            # use up a retry.
            download = self._ask(self.attempts - 1)
        self.deadline.clock.enter(Phase.VERIFY)
        if self.request.expected_hash is not None:
            body = download.body if unchanged is None else unchanged.body
            verify_hash(body, self.request.expected_hash)
        image = unchanged or prepare_image(download.body, self.run.fetch, self.deadline)
        if self.deadline.remaining <= 0:
            raise FetchTimeoutError("the deadline (--deadline) passed before the image could be saved")
        self.deadline.clock.enter(Phase.SAVE)
        return self._save(download, image, previous if unchanged else None)

    def _usable_previous(self) -> PreviousFile | None:
        """Return the image of the previous run; None if there is none, or if it can't be verified.

        An expected hash is a hash of the downloaded bytes. An image that was encoded again can't be compared with this
        hash. So such an image must be downloaded to be verified.
        """
        if self.request.expected_hash is not None and self.run.fetch.resize.encodes:
            return None
        return self.request.previous

    def _ask(self, prior_attempts: int, validators: Validators | None = None) -> Download:
        fetch_options = self.run.fetch
        self.download = self.downloader.download(
            self.request.url, fetch_options, self.deadline, self._count_attempt, prior_attempts, validators
        )
        return self.download

    def _count_attempt(self, error: FetchError | None) -> None:
        """Count an attempt. If its host gave no response, report the host at once, before the retries.

        With long timeouts, the retries may take minutes, and meanwhile other images would wait for the host in vain.
        """
        self.attempts += 1
        if error is None or error.silent_host is None or error.is_probe or self.attempts > 1:
            return
        if not self.run.fetch.retries:
            return
        started = time.monotonic()
        if self.judge is None or self.judge.is_host_fault(error):
            self.has_reported = True
            error.rest = self.downloader.report_unreachable(error, self.run.fetch.throttle)
        # The judge may connect to other hosts, and the report waits while Redis is unreachable. The retries still need
        # their time.
        self.deadline.extend(time.monotonic() - started)

    def _save(self, download: Download, image: EncodedImage, previous: PreviousFile | None) -> dict[str, Any]:
        """Save an image from a download or from a previous run; return the fields of its Outcome."""
        store, run = self.store, self.run
        name = self._file_name(image.info.extension, image.body)
        if previous is None:
            created = store.create(name, image.body)
        else:
            download = previous.with_stored_headers(download)
            created = store.create_linked(name, image.body, previous.store, previous.image.path)
        if not created:
            existing = store.read(name)
            if existing != image.body:
                kept = existing_image(existing, image, run.fetch, self.deadline)
                if kept is None:
                    _log.warning("the file %s is damaged, so this download replaces it", name)
                    store.remove(name)
                    return self._save(download, image, previous)
                # The origin of the existing image is unknown. In an insecure run, the server of the existing image may
                # have been unverified.
                return _image_facts(name, kept, {"recovered": True, "tls_unverified": run.fetch.insecure})
        elif not self._is_named_by_content() and shard_status.is_done(self.shard, run.revision, store):
            # A file named by its content may also be the file of another image.
            _remove_if_unlisted(self.shard, name, store)
        response: dict[str, Any] = {
            "http_status": download.http_status,
            "final_url": _shortened_or_none(download.final_url, URL_LIMIT),
            "etag": _shortened_or_none(download.etag, HEADER_LIMIT),
            "last_modified": _shortened_or_none(download.last_modified, HEADER_LIMIT),
            "tls_unverified": download.tls_unverified,
        }
        if previous is not None:
            response |= {"exif": previous.image.exif, "phash": previous.image.phash}
        return _image_facts(name, image, response)

    def _file_name(self, extension: str, body: bytes = b"") -> str:
        """Return the name of the image's file in the output folder. If the name contains a hash, ``body`` is needed.

        Raises:
            InternalError: the name in the task's message could lead out of the folder.
        """
        path = self.request.path
        if path is None:
            return f"{shard_name(self.shard)}/{self.key}.{extension}"
        if SHA256_FIELD in path:
            path = path.replace(SHA256_FIELD, identify.digest(body))
        try:
            return f"{check_name(path)}.{extension}"
        except ValueError as error:
            # The planner had checked the name, so someone has changed the message since.
            raise InternalError(f"the file name in the task's message is not valid: {error}") from error

    def _is_named_by_content(self) -> bool:
        return self.request.path is not None and SHA256_FIELD in self.request.path

    def _recover(self) -> dict[str, Any] | None:
        """Return an Outcome's fields for an image saved by an earlier delivery; None if there is no complete image.

        A file's name does not show whether its content is complete, so the whole image is decoded. Few images need this
        check. An incomplete file is kept until a new download of the image succeeds. The URL may have stopped working,
        and the file's Outcome may already be counted.
        """
        options = self.run.fetch
        if options.resize.encodes or options.insecure or self._is_named_by_content():
            # The file alone shows neither the image's original size nor whether the image's server was verified. A name
            # that contains the image's hash is unknown before the download.
            return None
        for extension in identify.FILE_EXTENSIONS:
            name = self._file_name(extension)
            if not self.store.exists(name):
                continue
            body = self.store.read(name)
            if is_whole(body, options, self.deadline):
                return _image_facts(name, saved_image(body, options, self.deadline), {"recovered": True})
            _log.warning("the file %s is damaged, so its image is downloaded again", name)
        return None


def _image_facts(name: str, image: EncodedImage, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Outcome's fields for a saved image; ``origin`` has the fields about the response."""
    info = image.info
    facts = {
        "status": Status.SUCCESS,
        "path": name,
        "width": info.width,
        "height": info.height,
        "original_width": image.original[0],
        "original_height": image.original[1],
        "format": info.format,
        "bytes": len(image.body),
        "sha256": identify.digest(image.body),
        "phash": image.phash,
        **origin,
    }
    if image.exif:
        room = _OUTCOME_LIMIT - _OTHER_FIELDS_BYTES - len(json.dumps(facts))
        facts["exif"] = exif_json(image.exif, min(room, _EXIF_LIMIT))
    return facts


def _remove_if_unlisted(shard: int, name: str, store: Store) -> None:
    """Remove a file that was saved after its shard's manifest, unless the manifest lists the file.

    A collect task writes the manifest first and then removes unlisted files. A fetch saves the file first and then
    looks for the manifest. So the second of these two tasks sees the file that the first task has written.
    """
    if name not in shard_status.listed_paths(shard, store):
        store.remove(name)


def _shortened_or_none(value: str | None, limit: int) -> str | None:
    """Return a text from a server, shortened to the limit of an Outcome; None if the text has control characters."""
    return shortened(value, limit) if value is not None and value.isprintable() else None
