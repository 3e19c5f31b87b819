"""The Celery tasks: one for each image, and one for each shard when its images are done."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from time import monotonic, time
from typing import Any, cast

import redis
from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from celery.signals import worker_init, worker_shutdown
from celery.worker.control import inspect_command

from config import VERSION, SettingsError, streams
from config.settings import settings, unknown_variables
from tasks import file_descriptors, isolation, runtime_tuning
from tasks.broker import client as broker_client
from tasks.broker import keys, poison, transport
from tasks.broker.ack_batcher import BatchedRequest
from tasks.broker.backend import UnloggedResult
from tasks.broker.fitness import PROBE_TIMEOUT_SECONDS, Fitness, QueueNames, RetryElsewhere
from tasks.broker.heartbeat import Heartbeat, WorkerId
from tasks.broker.progress import ProgressCounters
from tasks.broker.redis_retry import retry_until_redis_is_back
from tasks.broker.shard_signal import notify_shard_done
from tasks.celery import (
    COLLECT_SHARD,
    DRAIN,
    FETCH_IMAGE,
    IMAGE_QUEUE,
    PROBE_FOLDER,
    PROTOCOL,
    SHARD_QUEUE,
    WORKER_INFO,
    app,
)
from tasks.collect import STALE_VOID_REASONS, VOID_REASONS, IncompleteShardError, PoisonShardError, collect
from tasks.download import downloader, network_settings
from tasks.download.downloader import Downloader
from tasks.errors import CancelledError, CommandError, FetchError, InternalError, RateLimitedError, StorageError
from tasks.fetch import failed_outcome, fetch
from tasks.model import Outcome, PreviousImage, RunOptions, image_key
from tasks.previous_image import PreviousFile
from tasks.redaction import redacted
from tasks.retry_later import PriorAttempts, RetryLater
from tasks.storage import plan, shard_status
from tasks.storage.folder_probe import probe_folder
from tasks.storage.manifest import CorruptManifestError
from tasks.storage.plan import CorruptPlanError
from tasks.storage.shard_parquet import CorruptShardFileError
from tasks.storage.store import Store

_log = logging.getLogger(__name__)
#: Seconds for which a run's options are taken from memory: so long may a run that was given up go on.
_OPTIONS_TTL_SECONDS = 5.0
#: Seconds for which a shard that had no manifest is not looked for again: on a shared file system each look takes time.
_OPEN_SHARD_TTL_SECONDS = 1.0
#: How much of an Outcome a task's event shows.
_MAX_EVENT_RESULT = 1024
#: The ids of the tasks that this process's slots are at. Celery's own list has those as well that are being dropped.
_running: set[str] = set()


class RunCache:
    """The runs that this worker has met: their options, and which shards were open, known for a few seconds."""

    def __init__(self, server: redis.Redis) -> None:
        self._server = server
        self._options: dict[str, tuple[float, RunOptions]] = {}
        self._reading = threading.Lock()
        #: The shard that was looked at last, and when: tasks come in the order of their shards.
        self._open: tuple[str, int, float] = ("", -1, 0.0)

    def options(self, run_id: str, revision: int, fresh: bool = False) -> RunOptions:
        """Return a run's options.

        Args:
            run_id: the run.
            revision: the pass of it that a message belongs to.
            fresh: whether they are not to be taken from memory.

        Raises:
            CancelledError: the run has ended, or was given up, or is at another pass.
        """
        run = None if fresh else self._cached(run_id, revision)
        if run is not None:
            return run
        # All slots need them at the same moment, and would open a connection each.
        with self._reading:
            run = None if fresh else self._cached(run_id, revision)
            return run or self._read(run_id, revision)

    def _cached(self, run_id: str, revision: int) -> RunOptions | None:
        """Return a run's options if they were read a moment ago."""
        read_at, run = self._options.get(run_id, (0.0, None))
        stale = run is None or run.revision != revision or monotonic() - read_at > _OPTIONS_TTL_SECONDS
        return None if stale else run

    def _read(self, run_id: str, revision: int) -> RunOptions:
        """Return a run's options as they stand in Redis."""
        record = cast("str | None", retry_until_redis_is_back(lambda: self._server.get(keys.run(run_id))))
        if record is None:
            self._options.pop(run_id, None)
            raise CancelledError(f"there is no run {run_id} at this broker: it has ended, or never began")
        run = RunOptions.from_json(json.loads(record))
        # That a run drains is not kept: the command that resumes it may come at any moment.
        self._options[run_id] = (0.0 if run.draining else monotonic(), run)
        if run.revision != revision:
            raise CancelledError("the pass of the run that this image belongs to has ended")
        return run

    def forget(self, run_id: str) -> None:
        """Have a run's options read again at its next task."""
        self._options.pop(run_id, None)

    def is_done(self, run_id: str, shard: int, store: Store, revision: int = 0) -> bool:
        """Tell whether a shard has the manifest of a pass; that it has none is taken from memory for a moment.

        A late copy that begins in this moment is fetched for nothing, and withdrawn when it is saved.
        """
        last_run, last_shard, looked_at = self._open
        if (last_run, last_shard) == (run_id, shard) and monotonic() - looked_at < _OPEN_SHARD_TTL_SECONDS:
            return False
        if shard_status.is_done(shard, revision, store):
            return True
        self._open = run_id, shard, monotonic()
        return False


@cache
def _redis_client() -> redis.Redis:
    return broker_client.client(app.conf.imagefleet_broker_url)


@cache
def _run_cache() -> RunCache:
    return RunCache(_redis_client())


@cache
def _downloader() -> Downloader:
    return downloader.create_downloader()


@cache
def _progress() -> ProgressCounters:
    return ProgressCounters(_redis_client)


@cache
def _store(out: str) -> Store:
    """Return the Store of a run.

    Raises:
        StorageError: this worker may not write there, or the run is not there: then this is another folder.
    """
    store = Store.below(out, settings().store_roots)
    if not store.exists(plan.FOLDER):
        raise StorageError(f"the run is not in {out} on this worker's host: is the shared folder mounted there?")
    return store


def _fitness() -> Fitness:
    return _create_fitness(transport.Channel.worker_id)


@cache
def _create_fitness(worker: str) -> Fitness:
    probe = None if network_settings.proxy() else _probe_connection
    return Fitness(_redis_client(), worker, QueueNames(IMAGE_QUEUE, SHARD_QUEUE), transport.pause_consuming, probe)


def _probe_connection(host: str, port: int) -> None:
    """Connect to a host, with a guard that has looked up no name yet.

    Raises:
        FetchError: it can't be connected to.
    """
    network_settings.guard().connect(host, port, PROBE_TIMEOUT_SECONDS).close()


@cache
def _previous_run_store(folder: str) -> Store | None:
    """Return the Store of a previous run; None, and a word in the log, where this worker's operator does not allow
    it."""
    try:
        return Store.below(folder, settings().store_roots)
    except StorageError:
        _log.warning(
            "nothing is taken over from %s, and all of it is downloaded: IMAGEFLEET_STORE_ROOTS does not allow it",
            folder,
        )
        return None


def _previous_file(facts: Mapping[str, Any] | None, run: RunOptions) -> PreviousFile | None:
    """Return what a message says of a previous run's image, in the folder that the run's options name."""
    store = None if facts is None or run.previous_run is None else _previous_run_store(run.previous_run)
    return None if facts is None or store is None else PreviousFile(PreviousImage.from_json(facts), store)


@worker_init.connect
def _prepare_worker(sender: Any, **_: Any) -> None:
    """Build what all tasks share before the first of them; a wrong setting ends the worker here."""
    streams.escape_unencodable()
    runtime_tuning.return_large_blocks()
    runtime_tuning.configure_pillow()
    most = file_descriptors.max_slots(file_descriptors.raise_limit())
    if sender.concurrency > most:
        _log.warning(
            "this worker has %d slots, and its limit of open files lets %d run at a time; use a smaller -c, or %s",
            sender.concurrency,
            most,
            file_descriptors.limit_hint(sender.concurrency),
        )
    if unknown := unknown_variables(os.environ):
        _log.warning("nothing reads these variables of the environment: %s", ", ".join(unknown))
    try:
        if not settings().store_roots:
            raise SettingsError(
                "IMAGEFLEET_STORE_ROOTS is not set, so it could save no image; set it to the folders below which this "
                "worker may write, separated by commas"
            )
        _downloader()
        _run_cache()
    except (SettingsError, CommandError) as error:
        # Celery logs what a signal's receiver raises and goes on, unless it is an exit.
        _log.critical("this worker can't start: %s", error)
        raise SystemExit(1) from error
    _progress()
    _start_heartbeat(WorkerId.current(str(sender.hostname)), sorted(sender.app.amqp.queues.consume_from))
    runtime_tuning.reduce_garbage_collection()
    # What is loaded by now stays.
    gc.freeze()


def _start_heartbeat(worker: WorkerId, queues: Collection[str]) -> None:
    """Let this worker give signs of life until it stops; what it is given is recorded under its id from now on."""
    transport.Channel.worker_id = worker.name
    connect = partial(broker_client.client, app.conf.imagefleet_broker_url, retry=False)
    heartbeat = Heartbeat(worker, connect, transport.known_tags, queues)
    heartbeat.start()

    @worker_shutdown.connect(weak=False)
    def _stop(**_: Any) -> None:
        heartbeat.stop()


@inspect_command(name=WORKER_INFO)
def _worker_info(state: Any, **_: Any) -> dict[str, Any]:
    """Tell a producer what this worker is, what it takes, where it may write, its troubles, and its time."""
    return {
        "protocol": PROTOCOL,
        "version": VERSION,
        "slots": state.consumer.pool.num_processes,
        "queues": sorted(queue.name for queue in state.consumer.task_consumer.queues),
        "store_roots": [str(root) for root in settings().store_roots],
        "insecure_tls": settings().allow_insecure_tls,
        "troubles": _fitness().troubles,
        "time": time(),
        "descriptors": file_descriptors.limit(),
    }


@inspect_command(name=PROBE_FOLDER)
def _probe_folder(state: Any, out: Any = None, token: Any = None, **_: Any) -> dict[str, Any]:
    """Tell a producer how this worker sees an output folder in which the producer has left a file."""
    return probe_folder(out, token, settings().store_roots).to_json()


@inspect_command(name=DRAIN)
def _drain(state: Any, run_id: Any = None, **_: Any) -> dict[str, int]:
    """Drop what is queued of a run whose options say that it drains; tell how many images and shards slots are at."""
    _run_cache().forget(str(run_id))
    at = [task_id for task_id in tuple(_running) if task_id.startswith(f"{run_id}.")]
    shards = sum(task_id.endswith(".collect") for task_id in at)
    return {"images": len(at) - shards, "shards": shards}


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
        run = _run_cache().options(run_id, revision)
    except FetchError as error:
        if self.request.chord is None:
            _log.warning("task %s was sent by hand, and %s", self.request.id, redacted(str(error)))
        return _task_result(failed_outcome(str(index), error))
    if run.draining:
        raise _drop_task(self)
    shard, offset = divmod(index, run.shard_size)
    key, fitness = image_key(shard, offset, run.shard_size), _fitness()
    # Whoever had it first may have saved the image, or died of it.
    again = recover or _is_redelivered(self)
    elsewhere: RetryLater | RetryElsewhere | None = None
    try:
        began = fitness.check(run_id, tried_by=tried_by)
        judge = partial(fitness.judge, run_id=run_id, url=url, began=began, tried_by=tried_by)
        try:
            store, downloader = _store(run.out), _downloader()
            if _run_cache().is_done(run_id, shard, store, revision):
                raise CancelledError("its shard is done already")
        except FetchError as error:
            judge(error)
            outcome = failed_outcome(key, error)
        except (SettingsError, CorruptShardFileError) as error:
            outcome = failed_outcome(key, InternalError(str(error)))
        else:
            prior, previous_file = PriorAttempts(attempts, seconds), _previous_file(previous, run)
            with _mark_running(self), _track_running(self, run_id, again) as crashes:
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
    _progress().add(run_id, outcome)
    return _task_result(outcome)


@contextmanager
def _mark_running(task: Task[Any, Any]) -> Iterator[None]:
    """Count a task among those that this process's slots are at, for as long as the block lasts."""
    task_id = str(task.request.id)
    _running.add(task_id)
    try:
        yield
    finally:
        _running.discard(task_id)


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
    return poison.track_running(_redis_client(), transport.Channel.worker_id, run_id, task.request.id)


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
        run = _run_cache().options(run_id, revision, fresh=True)
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
        with _mark_running(self), _track_running(self, run_id, _is_redelivered(self)) as crashes:
            if crashes >= poison.ABANDON_AFTER_CRASHES:
                raise PoisonShardError(
                    f"{crashes} workers died while they were at it, as those do that run out of memory"
                )
            began = _fitness().check(run_id, collects=True)
            try:
                collect(shard, known, run, _store(run.out), count)
            except StorageError as error:
                _fitness().judge(error, run_id, "", began, tried_by, collects=True)
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
    notify_shard_done(_redis_client(), run_id, message)
    if "error" in message:
        # Not where it was caught: Celery's events would show what led to it.
        raise CollectError(message["error"])
