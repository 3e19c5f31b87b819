"""The Celery tasks: one for each image, and one for each shard when its images are done."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
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
from tasks.broker.fitness import RetryElsewhere
from tasks.broker.redis_retry import retry_until_redis_is_back
from tasks.broker.shard_signal import notify_shard_done
from tasks.celery import COLLECT_SHARD, FETCH_IMAGE, app
from tasks.collect import STALE_VOID_REASONS, VOID_REASONS, IncompleteShardError, PoisonShardError, collect
from tasks.errors import CancelledError, FetchError, InternalError, RateLimitedError, StorageError
from tasks.fetch import failed_outcome, fetch
from tasks.model import Outcome, image_key
from tasks.redaction import redacted
from tasks.retry_later import PriorAttempts, RetryLater
from tasks.storage.manifest import CorruptManifestError
from tasks.storage.plan import CorruptPlanError
from tasks.storage.shard_parquet import CorruptShardFileError

_log = logging.getLogger(__name__)
#: How much of an Outcome a task's event shows.
_MAX_EVENT_RESULT = 1024


class RunTask(Task):  # type: ignore[misc]  # Celery has no annotations
    """A task of a run. One that a person sends by hand, with other arguments, fails with what to do instead."""

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send the task.

        Raises:
            TypeError: these are not its arguments.
        """
        self._check(args or (), kwargs or {})
        return super().apply_async(args, kwargs, *rest, **options)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Look at what was sent by its name alone, as by `celery call`: nothing has looked at its arguments.

        Raises:
            TypeError: these are not its arguments.
        """
        self._check(args, kwargs)

    def _check(self, args: Any, kwargs: Any) -> None:
        try:
            self.__header__(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{error}. {self.name} is a part of a run, and can't be sent by itself: to download images, call "
                "`producer run SOURCE --out OUT`"
            ) from None


@app.task(
    name=FETCH_IMAGE,
    base=RunTask,
    bind=True,
    acks_late=True,
    ignore_result=True,
    # Each countdown follows an attempt, and `Downloader` bounds those.
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
    tried_by: Collection[str] = (),
) -> dict[str, Any] | UnloggedResult:
    """Fetch one image of a run; return its Outcome as JSON, unshown where there are no events.

    Args:
        run_id: the run, whose options stand in Redis.
        index: the image's place in the Source, from 0.
        url: as it stands in the Source.
        revision: the pass of the run.
        recover: whether the image may be saved already, by a task of which nobody has heard.
        attempts: how many earlier deliveries have made, each of which ended with a wait that a server had asked for.
        seconds: how long those took.
        previous: what the previous run that this one refreshes has saved of the URL, if it has; a `PreviousImage` as
            JSON.
        tried_by: the ids of the workers that have tried it, and may have failed by a fault of their own.

    Raises:
        Retry: Celery's own: there is such a wait again, and the task is sent with it as countdown; or another worker is
            to do it.
        Ignore: Celery's own: the run ends early, and this image is left to the command that resumes it. It is no part
            of the chord's then, so what the chord has counted stays.
    """
    try:
        run = worker.run_cache().options(run_id, revision)
    except FetchError as error:
        if self.request.chord is None:
            _log.warning("task %s was sent by hand, and %s", self.request.id, redacted(str(error)))
        return _task_result(failed_outcome(str(index), error))
    if run.draining:
        raise _drop_task(self)
    shard = index // run.shard_size
    key, fitness = image_key(index, run.shard_size), worker.fitness()
    # Whoever had it first may have saved the image, or died of it.
    again = recover or _is_redelivered(self)
    elsewhere: RetryLater | RetryElsewhere | None = None
    try:
        began = fitness.check(run_id, tried_by=tried_by)
        judge = partial(fitness.judge, run_id=run_id, url=url, began=began, tried_by=tried_by)
        try:
            store, downloader = worker.store(run.out), worker.downloader()
            if worker.run_cache().is_done(run_id, shard, store, revision):
                raise CancelledError("its shard is done already")
        except FetchError as error:
            judge(error)
            outcome = failed_outcome(key, error)
        except (SettingsError, CorruptShardFileError) as error:
            outcome = failed_outcome(key, InternalError(str(error)))
        else:
            prior, previous_file = PriorAttempts(attempts, seconds), worker.previous_file(previous, run)
            with worker.mark_running(self), _track_running(self, run_id, again) as crashes:
                if crashes >= poison.ISOLATE_AFTER_CRASHES:
                    outcome = isolation.fetch(url, index, run, store, downloader, again, prior)
                else:
                    outcome = fetch(
                        url,
                        index,
                        run,
                        store,
                        downloader,
                        again,
                        prior,
                        defer_long_waits=True,
                        previous=previous_file,
                        judge=judge,
                    )
    except (RetryLater, RetryElsewhere) as error:
        elsewhere = error
    # Not where it was caught: Celery's events would show what led to it.
    if isinstance(elsewhere, RetryLater):
        raise _requeue_later(self, elsewhere)
    if elsewhere is not None:
        raise _requeue_elsewhere(self, elsewhere, {"recover": True} if again else {})
    if outcome.http_status is not None:
        fitness.note_answer(run_id, url, outcome.ok, began)
    worker.progress().add(run_id, outcome)
    return _task_result(outcome)


def _drop_task(task: Task[Any, Any]) -> Ignore:
    """Return what tells Celery to acknowledge a task and count nothing; Flower shows the task as revoked."""
    if settings().task_events:
        task.send_event("task-revoked", terminated=False, signum=None, expired=False)
    return Ignore()


def _is_redelivered(task: Task[Any, Any]) -> bool:
    """Tell whether a worker had a task before that has not told its end."""
    return bool((task.request.delivery_info or {}).get("redelivered"))


def _track_running(task: Task[Any, Any], run_id: str, again: bool) -> AbstractContextManager[int]:
    """Watch a task that was begun before, for as long as the block lasts; give how many workers died at it."""
    if not (again and transport.Channel.worker_id):
        return nullcontext(0)
    return poison.track_running(worker.redis_client(), transport.Channel.worker_id, run_id, task.request.id)


def _requeue_later(task: Task[Any, Any], retry: RetryLater) -> Retry:
    """Send a task again, with a countdown; return what tells Celery so."""
    spent = {"attempts": retry.prior.attempts, "seconds": retry.prior.seconds}
    return _requeue(task, spent, retry.countdown, RateLimitedError(str(retry)))


def _requeue_elsewhere(task: Task[Any, Any], retry: RetryElsewhere, known: Mapping[str, Any]) -> Retry:
    """Send a task again, for another worker to do it now; return what tells Celery so."""
    tried = {"tried_by": retry.tried_by} if retry.tried_by else {}
    return _requeue(task, {**known, **tried}, 0.0, retry)


def _requeue(task: Task[Any, Any], changes: Mapping[str, Any], countdown: float, why: Exception) -> Retry:
    """Send a task again, with other arguments; return what tells Celery so.

    Its message is acknowledged after that, so there is one of the two at any time. Both have the task's id: a worker
    that dies in between leaves two tasks, whose part counts once.
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
                # Celery would make them anew, with the URL as it was given.
                argsrepr=request.argsrepr,
                kwargsrepr=request.kwargsrepr,
            )
        except Reject as error:
            raise redis.ConnectionError(str(error.reason)) from error

    return retry_until_redis_is_back(send)


def _task_result(outcome: Outcome) -> dict[str, Any] | UnloggedResult:
    return outcome.to_json() if settings().task_events else UnloggedResult(outcome.to_json())


class CollectError(Exception):
    """A shard could not be collected; its producer knows."""


@app.task(
    name=COLLECT_SHARD,
    base=RunTask,
    bind=True,
    acks_late=True,
    ignore_result=True,
    # Each retry hands it to another worker.
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
    """Write a shard's manifest from its Outcomes, and tell the producer; the body of the shard's chord.

    A shard that can't be collected is told to the producer as well, with what is wrong: it decides what to do. So is
    one of which one worker after the other dies.

    Args:
        outcomes: of all images of the shard.
        run_id: the run, whose options stand in Redis.
        shard: the shard's number.
        revision: the pass of the run; in a later one, the Outcomes are those of the images that are tried again.
        count: how many images that are.
        epoch: the command that has sent the shard's images.
        tried_by: the ids of the workers that could not save the manifest.

    Raises:
        Retry: Celery's own: this worker can't save the manifest, and another one may.
        CollectError: the shard could not be collected. The producer was told, so nothing tries again; raised so that
            the task counts as failed in Flower.
    """
    try:
        run = worker.run_cache().options(run_id, revision, fresh=True)
    except CancelledError:
        _log.info("run %s has ended: shard %d is not collected", run_id, shard)
        return
    message: dict[str, Any] = {"shard": shard}
    elsewhere: RetryElsewhere | None = None
    try:
        known = [Outcome.from_json(outcome) for outcome in outcomes]
        # What is cancelled was so while the run had no record; and what an earlier command could not save, before it
        # ended, is tried again by the one that goes on. Its producer misses the shard.
        void = STALE_VOID_REASONS if epoch < run.epoch else VOID_REASONS
        if any(outcome.reason in void for outcome in known):
            _log.info("some of shard %d of run %s ended with the run: it is not collected", shard, run_id)
            return
        with worker.mark_running(self), _track_running(self, run_id, _is_redelivered(self)) as crashes:
            if crashes >= poison.ABANDON_AFTER_CRASHES:
                raise PoisonShardError(
                    f"{crashes} workers died while they were at it, as those do that run out of memory"
                )
            began = worker.fitness().check(run_id, collects=True)
            try:
                collect(shard, known, run, worker.store(run.out), count)
            except StorageError as error:
                worker.fitness().judge(error, run_id, "", began, tried_by, collects=True)
                raise
    except RetryElsewhere as other:
        elsewhere = other
    except (StorageError, CorruptPlanError, CorruptManifestError, IncompleteShardError, PoisonShardError) as error:
        _log.error("shard %d of run %s can't be collected: %s", shard, run_id, error)
        message["error"] = str(error)
    except redis.RedisError:
        # This worker stops; another one gets it.
        raise
    except Exception as error:  # noqa: BLE001  # the producer has to hear of it, or it would wait
        _log.exception("a fault of ours at shard %d of run %s", shard, run_id)
        message["error"] = f"{type(error).__name__}: {error}"
    if elsewhere is not None:
        raise _requeue_elsewhere(self, elsewhere, {})
    notify_shard_done(worker.redis_client(), run_id, message)
    if "error" in message:
        # Not where it was caught: Celery's events would show what led to it.
        raise CollectError(message["error"])
