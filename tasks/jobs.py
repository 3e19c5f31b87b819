"""The Celery tasks: one fetches an image, the other collects a shard into its manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import redis
from celery import Task
from celery.exceptions import Ignore, Reject, Retry

from config import SettingsError
from config.settings import settings
from tasks import isolation, worker
from tasks.broker import poison, transport
from tasks.broker.ack_batcher import BatchedRequest
from tasks.broker.backend import UnloggedResult
from tasks.broker.fitness import ImageJudge, RetryElsewhere
from tasks.broker.redis_retry import retry_until_redis_is_back
from tasks.broker.requeue import unacked_keys
from tasks.broker.shard_signal import notify_shard_done
from tasks.celery import COLLECT_SHARD, FETCH_IMAGE, app
from tasks.collect import STALE_VOID_REASONS, VOID_REASONS, IncompleteShardError, PoisonShardError, collect
from tasks.download.downloader import Downloader
from tasks.errors import CancelledError, FetchError, InternalError, RateLimitedError, StorageError
from tasks.fetch import FetchRequest, failed_outcome, fetch
from tasks.metrics.counters import Deferral
from tasks.model import Outcome, Refusal, RunOptions, image_key
from tasks.redaction import redacted
from tasks.retry_later import HostBusy, PriorAttempts, RetryLater
from tasks.storage.manifest import CorruptManifestError
from tasks.storage.plan import CorruptPlanError
from tasks.storage.shard_parquet import CorruptShardFileError
from tasks.throttle.parking import ParkedTask

_log = logging.getLogger(__name__)
#: Maximum length of an Outcome in a task's event, in characters.
_MAX_EVENT_RESULT = 1024
_DEFERRALS = {HostBusy: Deferral.HOST_BUSY, RetryLater: Deferral.LONG_WAIT, RetryElsewhere: Deferral.OTHER_WORKER}


class RunTask(Task):  # type: ignore[misc]  # Celery has no annotations
    """A task of a run. If the task is sent by hand with wrong arguments, the error names the command to use instead."""

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send the task.

        Raises:
            TypeError: the arguments are not those of the task.
        """
        self._check(args or (), kwargs or {})
        return super().apply_async(args, kwargs, *rest, **options)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Check the arguments of a task that was sent by its name. Senders such as `celery call` do not check them.

        Raises:
            TypeError: the arguments are not those of the task.
        """
        self._check(args, kwargs)

    def _check(self, args: Any, kwargs: Any) -> None:
        try:
            self.__header__(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{error}. {self.name} is a task of a run, so you can't send it directly. To download images, call "
                "`producer run SOURCE --out OUT`"
            ) from None


@app.task(
    name=FETCH_IMAGE,
    base=RunTask,
    bind=True,
    acks_late=True,
    ignore_result=True,
    # No limit is needed: each countdown follows an attempt, and `Downloader` limits the attempts.
    max_retries=None,
    resultrepr_maxsize=_MAX_EVENT_RESULT,
    Request=BatchedRequest,
)
def fetch_image(
    self: Task[Any, Any],
    run_id: str,
    index: int,
    url: str,
    revision: int = 0,
    recover: bool = False,
    attempts: int = 0,
    seconds: float = 0.0,
    previous: dict[str, Any] | None = None,
    refused: dict[str, str] | None = None,
    path: str | None = None,
    expected_hash: str | None = None,
    tried_by: Collection[str] = (),
    sent: float | None = None,
) -> dict[str, Any] | UnloggedResult:
    """Fetch one image of a run and return its Outcome as JSON. Celery logs the Outcome only if task events are on.

    Args:
        run_id: the run; its options are in Redis.
        index: the image's place in the URL list, from 0.
        url: the URL as in the URL list.
        revision: the run's revision.
        recover: whether an earlier task may have saved the image without reporting it.
        attempts: the number of attempts in earlier deliveries. Each of these deliveries ended because a server
            requested a wait.
        seconds: the duration of these deliveries, in seconds.
        previous: this URL's image in the previous run, if this run refreshes a previous run; a `PreviousImage` as JSON.
        refused: why the row of the URL list is not fetched; a `Refusal` as JSON.
        path: the name of the image's file without its extension, if it is not the default.
        expected_hash: the expected hash of the downloaded bytes, as in `ImageRequest`.
        tried_by: the ids of the workers that have already tried the task; these workers may be unfit.
        sent: when the task was sent, or when its countdown ends, in seconds since the epoch.

    Raises:
        Retry: Celery's exception. The task was sent again, and this delivery ends. If the server asks for another long
            wait, the countdown is that wait plus jitter. A task for another worker is sent at once.
        Ignore: Celery's exception. The chord does not count this image's part, and its other parts stay counted. Either
            the image's host is busy and the task is parked, or the run ends early and `resume` will fetch the image.
    """
    try:
        run = worker.run_cache().options(run_id, revision)
    except FetchError as error:
        if self.request.chord is None:
            _log.warning("task %s was sent by hand: %s", self.request.id, redacted(str(error)))
        return _task_result(failed_outcome(str(index), error))
    if run.draining:
        raise _drop_task(self)
    if redelivered := _is_redelivered(self):
        worker.metrics().count_redelivery()
    # The worker of the first delivery may have saved the image, or may have died because of the image.
    again = recover or redelivered
    request = FetchRequest(
        url,
        index,
        again,
        PriorAttempts(attempts, seconds),
        worker.previous_file(previous, run),
        refused=None if refused is None else Refusal.from_json(refused),
        path=path,
        expected_hash=expected_hash,
        # The clocks of two hosts can differ.
        queued_seconds=0.0 if sent is None else max(time.time() - sent, 0.0),
    )
    retry: RetryLater | RetryElsewhere | HostBusy | None = None
    try:
        outcome = _fetch(self, request, run, tried_by)
    except (RetryLater, RetryElsewhere, HostBusy) as error:
        retry = error
    # Raise the error outside of the except block, because Celery's events would otherwise show the caught exception,
    # too.
    if retry is not None:
        worker.metrics().count_deferral(_DEFERRALS[type(retry)])
    if isinstance(retry, HostBusy):
        raise _park(self, retry, run_id, index // run.shard_size)
    if isinstance(retry, RetryLater):
        raise _requeue_later(self, retry)
    if retry is not None:
        raise _requeue_elsewhere(self, retry, {"sent": time.time(), **({"recover": True} if again else {})})
    worker.progress().add(run_id, outcome)
    worker.metrics().count_image(outcome)
    return _task_result(outcome)


def _fetch(task: Task[Any, Any], request: FetchRequest, run: RunOptions, tried_by: Collection[str]) -> Outcome:
    """Fetch an image, unless its shard is done or this worker is unfit for it; return its Outcome.

    Raises:
        RetryLater: the server asks for a wait that is too long for a slot.
        RetryElsewhere: another worker should fetch the image.
        HostBusy: the image's host is busy, and the image was not tried.
    """
    fitness = worker.fitness()
    shard, key = request.index // run.shard_size, image_key(request.index, run.shard_size)
    began = fitness.check(run.run_id, tried_by=tried_by)
    judge = ImageJudge(fitness, run.run_id, request.url, began, tried_by)
    try:
        store, downloader = worker.store(run.out), worker.downloader()
        if worker.run_cache().is_done(run.run_id, shard, store, run.revision):
            raise CancelledError("the image's shard is already done")
    except FetchError as error:
        judge(error)
        outcome = failed_outcome(key, error)
    except (SettingsError, CorruptShardFileError) as error:
        outcome = failed_outcome(key, InternalError(str(error)))
    else:
        with worker.mark_running(task), _track_running(task, run.run_id, request.recover) as crashes:
            if crashes >= poison.ISOLATE_AFTER_CRASHES and request.refused is None:
                outcome = _fetch_isolated(request, run, downloader)
            else:
                outcome = fetch(request, run, store, downloader, defer_long_waits=True, judge=judge)
    if outcome.http_status is not None:
        fitness.note_answer(run.run_id, request.url, outcome.ok, began)
    return outcome


def _fetch_isolated(request: FetchRequest, run: RunOptions, downloader: Downloader) -> Outcome:
    """Fetch a suspect image in a separate process, with a permit of this process; return its Outcome.

    Raises:
        HostBusy: the image's host is busy, and the image was not tried.
    """
    try:
        with downloader.permit(request.url, run.fetch):
            return isolation.fetch(request, run)
    except FetchError as error:
        return failed_outcome(image_key(request.index, run.shard_size), error)


def _drop_task(task: Task[Any, Any]) -> Ignore:
    """Return the exception with which Celery acknowledges a task without counting it. Flower shows it as revoked."""
    if settings().task_events:
        task.send_event("task-revoked", terminated=False, signum=None, expired=False)
    return Ignore()


def _park(task: Task[Any, Any], busy: HostBusy, run_id: str, shard: int) -> Ignore:
    """Park a task until its host is free; return the exception with which Celery ends this delivery.

    The message itself is parked. So this delivery's acknowledgement finds no message any more.
    """
    tag = task.request.properties["delivery_tag"]
    parked = ParkedTask(tag, busy.host, run_id, shard)
    unacked = unacked_keys(transport.Channel.worker_id)
    retry_until_redis_is_back(lambda: worker.parking().park(parked, unacked))
    return Ignore()


def _is_redelivered(task: Task[Any, Any]) -> bool:
    """Return whether another worker took this task earlier and did not report the task's end."""
    return bool((task.request.delivery_info or {}).get("redelivered"))


def _track_running(task: Task[Any, Any], run_id: str, again: bool) -> AbstractContextManager[int]:
    """Record a redelivered task as running while the block runs; yield how many workers the task has killed."""
    if not (again and transport.Channel.worker_id):
        return nullcontext(0)
    return poison.track_running(worker.redis_client(), transport.Channel.worker_id, run_id, task.request.id)


def _requeue_later(task: Task[Any, Any], retry: RetryLater) -> Retry:
    """Send a task again with a countdown; return the exception for Celery."""
    spent = {"attempts": retry.prior.attempts, "seconds": retry.prior.seconds, "sent": time.time() + retry.countdown}
    return _requeue(task, spent, retry.countdown, RateLimitedError(str(retry)))


def _requeue_elsewhere(task: Task[Any, Any], retry: RetryElsewhere, known: Mapping[str, Any]) -> Retry:
    """Send a task again at once, so that another worker takes it. Return the exception for Celery."""
    tried = {"tried_by": retry.tried_by} if retry.tried_by else {}
    return _requeue(task, {**known, **tried}, 0.0, retry)


def _requeue(task: Task[Any, Any], changes: Mapping[str, Any], countdown: float, why: Exception) -> Retry:
    """Send a task again with changed arguments; return the exception that makes Celery end this delivery.

    The old message is acknowledged only after the new one is sent, so at least one of the two exists at any time. Both
    messages have the same task id. If the worker dies between sending and acknowledging, the task runs twice, but the
    chord counts its part once.
    """
    request = task.request

    def send() -> Retry:
        try:
            return task.retry(
                args=request.args,
                kwargs={**(request.kwargs or {}), **changes},
                countdown=countdown,
                exc=why,
                throw=False,
                # If these texts were missing, Celery would build its own texts from the unredacted URL.
                argsrepr=request.argsrepr,
                kwargsrepr=request.kwargsrepr,
            )
        except Reject as error:
            raise redis.ConnectionError(str(error.reason)) from error

    return retry_until_redis_is_back(send)


def _task_result(outcome: Outcome) -> dict[str, Any] | UnloggedResult:
    return outcome.to_json() if settings().task_events else UnloggedResult(outcome.to_json())


class CollectError(Exception):
    """A shard could not be collected; the producer was notified."""


@app.task(
    name=COLLECT_SHARD,
    base=RunTask,
    bind=True,
    acks_late=True,
    ignore_result=True,
    # Each retry goes to another worker.
    max_retries=None,
    throws=(CollectError,),
)
def collect_shard(
    self: Task[Any, Any],
    outcomes: list[Mapping[str, Any]],
    run_id: str,
    shard: int,
    revision: int = 0,
    count: int | None = None,
    epoch: int = 0,
    tried_by: Collection[str] = (),
) -> None:
    """Write a shard's manifest from its Outcomes, and notify the producer.

    This task is the body of the shard's chord. If the shard can't be collected, or if its collect task kills one worker
    after another, the producer gets the error and decides what to do.

    Args:
        outcomes: the Outcomes of all images of the shard; in a later revision, the Outcomes of the retried images.
        run_id: the run; its options are in Redis.
        shard: the shard's number.
        revision: the run's revision.
        count: how many images a later revision retries in this shard.
        epoch: the producer epoch in which the shard's images were sent.
        tried_by: the ids of the workers that were unable to save the manifest.

    Raises:
        Retry: Celery's exception. This worker can't save the manifest, but another one may.
        CollectError: the shard could not be collected. The producer was notified, so nothing is retried; the exception
            makes the task count as failed in Flower.
    """
    try:
        run = worker.run_cache().options(run_id, revision, fresh=True)
    except CancelledError:
        _log.info("run %s has ended, so its shard %d is not collected", run_id, shard)
        return
    message: dict[str, Any] = {"shard": shard}
    elsewhere: RetryElsewhere | None = None
    try:
        known = [Outcome.from_json(outcome) for outcome in outcomes]
        # Images are cancelled while the run has no record in Redis. If images could not be saved before an earlier
        # command ended, the resumed run retries them, because its producer finds the shard missing.
        void = STALE_VOID_REASONS if epoch < run.epoch else VOID_REASONS
        if any(outcome.reason in void for outcome in known):
            _log.info(
                "shard %d of run %s is not collected, because some of its images were cancelled, or were not saved "
                "before the run ended",
                shard,
                run_id,
            )
            return
        _collect(self, shard, known, run, count, tried_by)
    except RetryElsewhere as error:
        elsewhere = error
    except (StorageError, CorruptPlanError, CorruptManifestError, IncompleteShardError, PoisonShardError) as error:
        _log.error("shard %d of run %s can't be collected: %s", shard, run_id, error)
        message["error"] = str(error)
    except redis.RedisError:
        # This worker is stopping. Another worker gets the task.
        raise
    except Exception as error:  # noqa: BLE001 # without a notification, the producer would wait
        _log.exception("internal error while collecting shard %d of run %s", shard, run_id)
        message["error"] = f"{type(error).__name__}: {error}"
    if elsewhere is not None:
        raise _requeue_elsewhere(self, elsewhere, {})
    notify_shard_done(worker.redis_client(), run_id, message)
    if "error" in message:
        # Raise the error outside of the except block, because Celery's events would otherwise show the caught
        # exception, too.
        raise CollectError(message["error"])


def _collect(
    task: Task[Any, Any],
    shard: int,
    outcomes: list[Outcome],
    run: RunOptions,
    count: int | None,
    tried_by: Collection[str],
) -> None:
    """Collect a shard, unless its collect task has killed too many workers.

    Raises:
        RetryElsewhere: this worker can't save the manifest, but another one may.
        PoisonShardError: too many workers died while they collected the shard.
        StorageError, CorruptPlanError, CorruptManifestError, IncompleteShardError: as in `collect`.
    """
    with worker.mark_running(task), _track_running(task, run.run_id, _is_redelivered(task)) as crashes:
        if crashes >= poison.ABANDON_AFTER_CRASHES:
            raise PoisonShardError(f"{crashes} workers died while they collected it; perhaps they ran out of memory")
        fitness = worker.fitness()
        began = fitness.check(run.run_id, collects=True)
        try:
            with worker.metrics().collecting():
                collect(shard, outcomes, run, worker.store(run.out), count)
        except StorageError as error:
            fitness.judge(error, run.run_id, "", began, tried_by, collects=True)
            raise
