"""The objects that all tasks of a worker's process share, and the preparation of that process when it starts."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from time import monotonic
from typing import Any, cast

import redis
from celery import Task
from celery.signals import worker_init, worker_shutdown

from config import SettingsError, streams
from config.settings import settings, unknown_variables
from tasks import file_descriptors, runtime_tuning
from tasks.broker import client as broker_client
from tasks.broker import keys, transport
from tasks.broker.fitness import PROBE_TIMEOUT_SECONDS, Fitness, QueueNames
from tasks.broker.heartbeat import Heartbeat
from tasks.broker.liveness import WorkerId
from tasks.broker.progress import ProgressCounters
from tasks.broker.redis_retry import retry_until_redis_is_back
from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE, app
from tasks.download import network_settings
from tasks.download.downloader import Downloader, create_downloader
from tasks.errors import CancelledError, CommandError, StorageError
from tasks.model import PreviousImage, RunOptions
from tasks.previous_image import PreviousFile
from tasks.storage import plan, shard_status
from tasks.storage.store import Store

_log = logging.getLogger(__name__)
#: Seconds for which a run's options are taken from memory: so long may a run that was given up go on.
_OPTIONS_TTL_SECONDS = 5.0
#: Seconds for which a shard that had no manifest is not looked for again: on a shared file system each look takes time.
_OPEN_SHARD_TTL_SECONDS = 1.0
#: The ids of the tasks that this process's slots are at. Celery's own list has those as well that are being dropped.
_running_ids: set[str] = set()


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
            raise CancelledError(f"run {run_id} does not exist at this broker: it has ended or was never started")
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
def redis_client() -> redis.Redis:
    """Return the client for the app's Redis."""
    return broker_client.client(app.conf.imagefleet_broker_url)


@cache
def run_cache() -> RunCache:
    """Return the cache of run options."""
    return RunCache(redis_client())


@cache
def downloader() -> Downloader:
    """Return the downloader, with its sessions and guard.

    Raises:
        SettingsError, CommandError: the worker's network settings can't be used.
    """
    return create_downloader()


@cache
def progress() -> ProgressCounters:
    """Return the counters of the images that this process has finished."""
    return ProgressCounters(redis_client)


@cache
def store(out: str) -> Store:
    """Return the Store of a run.

    Raises:
        StorageError: this worker may not write there, or the run is not there: then this is another folder.
    """
    store = Store.open_allowed(out, settings().store_roots)
    if not store.exists(plan.FOLDER):
        raise StorageError(f"the run is not in {out} on this worker's host: is the shared folder mounted there?")
    return store


def fitness() -> Fitness:
    """Return the checks of whether this worker can reach servers and save images."""
    return _create_fitness(transport.Channel.worker_id)


@cache
def _create_fitness(worker: str) -> Fitness:
    probe = None if network_settings.proxy() else _probe_connection
    return Fitness(redis_client(), worker, QueueNames(IMAGE_QUEUE, SHARD_QUEUE), transport.pause_consuming, probe)


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
        return Store.open_allowed(folder, settings().store_roots)
    except StorageError:
        _log.warning(
            "nothing is taken over from %s, and all of it is downloaded: IMAGEFLEET_STORE_ROOTS does not allow it",
            folder,
        )
        return None


def previous_file(facts: Mapping[str, Any] | None, run: RunOptions) -> PreviousFile | None:
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
        downloader()
        run_cache()
    except (SettingsError, CommandError) as error:
        # Celery logs what a signal's receiver raises and goes on, unless it is an exit.
        _log.critical("this worker can't start: %s", error)
        raise SystemExit(1) from error
    progress()
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


@contextmanager
def mark_running(task: Task[Any, Any]) -> Iterator[None]:
    """Count a task among those that this process's slots are at, for as long as the block lasts."""
    task_id = str(task.request.id)
    _running_ids.add(task_id)
    try:
        yield
    finally:
        _running_ids.discard(task_id)


def running_task_ids(run_id: str) -> list[str]:
    """Return the ids of a run's tasks that this process's slots are at."""
    return [task_id for task_id in tuple(_running_ids) if task_id.startswith(f"{run_id}.")]
