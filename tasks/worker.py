"""Create the objects shared by all tasks of a worker process, and prepare the process when it starts."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from time import monotonic
from typing import Any, cast

import redis
from celery import Task, bootsteps
from celery.signals import worker_init, worker_shutdown

from config import SettingsError, streams
from config.locations import url_scheme
from config.settings import settings, unknown_variables
from tasks import file_descriptors, runtime_tuning
from tasks.broker import client as broker_client
from tasks.broker import keys, transport
from tasks.broker.fitness import PROBE_TIMEOUT_SECONDS, Fitness, QueueNames
from tasks.broker.heartbeat import Heartbeat
from tasks.broker.held_tasks import HELD_TASKS
from tasks.broker.liveness import WorkerId
from tasks.broker.progress import ProgressCounters
from tasks.broker.redis_retry import retry_until_redis_is_back
from tasks.broker.robots_store import RedisRobotsStore
from tasks.celery import FETCH_IMAGE, IMAGE_QUEUE, PROTOCOL, SHARD_QUEUE, app
from tasks.download import network_settings
from tasks.download.downloader import Downloader, create_downloader
from tasks.download.guard import Guard
from tasks.errors import CancelledError, CommandError, StorageError
from tasks.metrics.counters import WorkerMetrics, WorkerState
from tasks.model import PreviousImage, RunOptions
from tasks.previous_image import PreviousFile
from tasks.storage import plan, shard_status
from tasks.storage.locations import missing_folders, open_allowed
from tasks.storage.store import Store
from tasks.throttle.gate import HostGate
from tasks.throttle.host_key import HostKeys
from tasks.throttle.parking import Parking
from tasks.throttle.redis_registry import RedisRegistry

_log = logging.getLogger(__name__)
#: Seconds for which a run's options are cached. A cancelled run may continue for this time.
_OPTIONS_TTL_SECONDS = 5.0
#: The maximum number of ended runs to remember.
_MAX_ENDED_RUNS = 16
#: Seconds for which a missing manifest is cached, because each lookup takes time on a shared file system.
_OPEN_SHARD_TTL_SECONDS = 1.0
#: The ids of the tasks running in this process's slots. Celery's own list is not used, because it also has tasks that
#: are about to be dropped.
_slot_ids: set[str] = set()


class RunCache:
    """For a few seconds, remember the options of runs, and which shard was last seen unfinished."""

    def __init__(self, server: redis.Redis) -> None:
        self._server = server
        self._options: dict[str, tuple[float, RunOptions]] = {}
        #: The runs that were last found without a record.
        self._ended: deque[str] = deque(maxlen=_MAX_ENDED_RUNS)
        self._reading = threading.Lock()
        #: The last shard that was found unfinished: its run, its number, and the time of the check. One shard is
        #: enough, because tasks come in the order of shards.
        self._open: tuple[str, int, float] = ("", -1, 0.0)

    def options(self, run_id: str, revision: int, fresh: bool = False) -> RunOptions:
        """Return a run's options.

        Args:
            run_id: the run.
            revision: the revision in the task's message.
            fresh: whether to bypass the cache.

        Raises:
            CancelledError: the run has ended, was cancelled, or has another revision now.
        """
        run = None if fresh else self._cached(run_id, revision)
        if run is not None:
            return run
        # All slots need the options at the same moment. Without the lock, each slot would open a connection.
        with self._reading:
            run = None if fresh else self._cached(run_id, revision)
            return run or self._read(run_id, revision)

    def _cached(self, run_id: str, revision: int) -> RunOptions | None:
        """Return a run's options if they are cached and not stale."""
        read_at, run = self._options.get(run_id, (0.0, None))
        stale = run is None or run.revision != revision or monotonic() - read_at > _OPTIONS_TTL_SECONDS
        return None if stale else run

    def _read(self, run_id: str, revision: int) -> RunOptions:
        """Read a run's options from Redis."""
        record = cast("str | None", retry_until_redis_is_back(lambda: self._server.get(keys.run(run_id))))
        if record is None:
            self._options.pop(run_id, None)
            if run_id not in self._ended:
                self._ended.append(run_id)
            raise CancelledError(f"run {run_id} does not exist at this broker: it has ended or was never started")
        run = RunOptions.from_json(json.loads(record))
        # The options of a draining run are not cached, because the run may be resumed at any moment.
        self._options[run_id] = (0.0 if run.draining else monotonic(), run)
        with suppress(ValueError):
            self._ended.remove(run_id)
        if run.revision != revision:
            raise CancelledError("the run has a later revision than this image's task")
        return run

    def is_dropped(self, run_id: str) -> bool:
        """Return whether a run's last task was dropped, because the run had ended or was draining.

        Redis is not asked.
        """
        _, run = self._options.get(run_id, (0.0, None))
        return run.draining if run is not None else run_id in self._ended

    def forget(self, run_id: str) -> None:
        """Remove a run's options from the cache."""
        self._options.pop(run_id, None)

    def is_done(self, run_id: str, shard: int, store: Store, revision: int = 0) -> bool:
        """Return whether a shard has a manifest of this revision; a negative answer is cached for a second.

        If a late duplicate of a task starts within this second, its image is fetched unnecessarily. The unneeded file
        is saved, and then removed.
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
    return create_downloader(guard(), robots_store=RedisRobotsStore(redis_client(), PROTOCOL), gate=gate())


@cache
def guard() -> Guard:
    """Return the guard, which the downloader and the gate share, so that each name is looked up once.

    Raises:
        SettingsError: as `network_settings.guard`.
    """
    return network_settings.guard()


@cache
def gate() -> HostGate:
    """Return the gate that asks the fleet for each host's permits.

    Raises:
        SettingsError: as `guard`.
    """
    return HostGate(
        RedisRegistry(redis_client()),
        transport.Channel.worker_id,
        HostKeys(guard().address_of),
        serve=parking().serve,
        retry=retry_until_redis_is_back,
    )


@cache
def parking() -> Parking:
    """Return the parked tasks."""
    return Parking(redis_client())


@cache
def progress() -> ProgressCounters:
    """Return the counters of the images finished by this process."""
    return ProgressCounters(redis_client)


@cache
def metrics() -> WorkerMetrics:
    """Return the counters of this worker. Without a port for the metrics, nothing is counted.

    Raises:
        SettingsError: the metrics can't be served at this address and port.
    """
    port, address = settings().metrics_port, str(settings().metrics_address)
    if port is None:
        return WorkerMetrics()
    # Imported here, because most workers have no metrics.
    from tasks.metrics.prometheus import PrometheusMetrics, create_registry
    from tasks.metrics.server import MetricsServer

    registry = create_registry()
    state = WorkerState(lambda: len(_slot_ids), lambda: len(HELD_TASKS), lambda: bool(fitness().troubles))
    counters = PrometheusMetrics(registry, state)
    try:
        MetricsServer(registry, address, port, before_read=counters.update)
    except OSError as error:
        raise SettingsError(
            f"IMAGEFLEET_METRICS_PORT: the metrics can't be served at {address}, port {port}: {error.strerror}. Each "
            "worker of a machine needs a port of its own"
        ) from error
    return counters


@cache
def store(out: str) -> Store:
    """Return the Store of a run.

    Raises:
        StorageError: this worker is not allowed to write there, or the folder does not hold the run.
    """
    store = open_allowed(out, settings().store_roots)
    if not store.folder_exists(plan.FOLDER):
        hint = "is its endpoint the producer's?" if url_scheme(out) else "is the shared folder mounted there?"
        raise StorageError(f"the run is not in {out} on this worker's host: {hint}")
    return store


def fitness() -> Fitness:
    """Return the object that checks whether this worker can reach servers and save images."""
    return _create_fitness(transport.Channel.worker_id)


@cache
def _create_fitness(worker: str) -> Fitness:
    probe = None if network_settings.proxy() else _probe_connection
    return Fitness(redis_client(), worker, QueueNames(IMAGE_QUEUE, SHARD_QUEUE), transport.pause_consuming, probe)


def _probe_connection(host: str, port: int) -> None:
    """Connect to a host. A new guard is used, because a new guard has no cached names.

    Raises:
        FetchError: the connection fails.
    """
    network_settings.guard().connect(host, port, PROBE_TIMEOUT_SECONDS).close()


@cache
def _previous_run_store(folder: str) -> Store | None:
    """Return the Store of a previous run, or None.

    If this worker's operator does not allow the folder, the result is None, and a warning is logged.
    """
    try:
        return open_allowed(folder, settings().store_roots)
    except StorageError:
        _log.warning(
            "no image is reused from %s, so all images are downloaded: IMAGEFLEET_STORE_ROOTS does not include this "
            "folder",
            folder,
        )
        return None


def previous_file(facts: Mapping[str, Any] | None, run: RunOptions) -> PreviousFile | None:
    """Return a previous run's image from its description in a message; None if the run's folder is not allowed."""
    store = None if facts is None or run.previous_run is None else _previous_run_store(run.previous_run)
    return None if facts is None or store is None else PreviousFile(PreviousImage.from_json(facts), store)


def _look_up_ahead(request: Any, release: Callable[[], None]) -> bool:
    """Start to resolve the host of an image's task; return whether the task is held until the look-up has ended.

    A task that will be dropped is not held. So even with a dead name server, the tasks of an ended run are dropped at
    once, and other runs need not wait for them.
    """
    if request.type != FETCH_IMAGE or "refused" in request.kwargs:
        return False
    # A task that was sent by hand may have any arguments.
    run_id, _, url = (*request.args, None, None, None)[:3]
    if not isinstance(url, str) or run_cache().is_dropped(str(run_id)):
        return False
    return downloader().look_up_ahead(url, release)


class _HoldUnresolved(bootsteps.Step):  # type: ignore[misc]  # Celery has no annotations
    """A step of the start of Celery's consumer: a task gets a slot only when its host name has been looked up."""

    def create(self, parent: Any) -> None:
        """Let the consumer pass its tasks to `HELD_TASKS` instead of the slots."""
        parent.on_task_request = partial(
            HELD_TASKS.start_when_prepared, prepare=_look_up_ahead, start=parent.on_task_request
        )


app.steps["consumer"].add(_HoldUnresolved)


@worker_init.connect
def _prepare_worker(sender: Any, **_: Any) -> None:
    """Prepare the process and create the shared objects before the first task; a wrong setting stops the worker."""
    streams.escape_unencodable()
    runtime_tuning.return_large_blocks()
    runtime_tuning.configure_pillow()
    most = file_descriptors.max_slots(file_descriptors.raise_limit())
    if sender.concurrency > most:
        _log.warning(
            "this worker has %d slots, but its limit of open files allows only %d downloads at a time; use a smaller "
            "-c, or raise the limit with %s",
            sender.concurrency,
            most,
            file_descriptors.limit_hint(sender.concurrency),
        )
    if unknown := unknown_variables(os.environ):
        _log.warning("these environment variables are unknown and have no effect: %s", ", ".join(unknown))
    worker = WorkerId.current(str(sender.hostname))
    transport.Channel.worker_id = worker.name
    try:
        if not settings().store_roots:
            raise SettingsError(
                "IMAGEFLEET_STORE_ROOTS is not set, so no image could be saved; set it to the folders in which this "
                "worker may write, separated by commas"
            )
        if missing := missing_folders(settings().store_roots):
            _log.warning(
                "these folders of IMAGEFLEET_STORE_ROOTS do not exist on this machine: %s; create or mount them, or "
                "correct the setting",
                ", ".join(missing),
            )
        downloader()
        run_cache()
        metrics().set_slots(sender.concurrency)
    except (SettingsError, CommandError) as error:
        # If a signal's receiver raises an exception, Celery logs it and continues, unless the exception is SystemExit.
        _log.critical("this worker can't start: %s", error)
        raise SystemExit(1) from error
    progress()
    _start_heartbeat(worker, sorted(sender.app.amqp.queues.consume_from))
    runtime_tuning.reduce_garbage_collection()
    # The objects loaded so far are kept until the process ends, so the garbage collector need not search them.
    gc.freeze()


def _start_heartbeat(worker: WorkerId, queues: Collection[str]) -> None:
    """Start this worker's heartbeats, and its part in the limits of hosts."""
    connect = partial(broker_client.client, app.conf.imagefleet_broker_url, retry=False)
    heartbeat = Heartbeat(worker, connect, transport.known_tags, queues)
    heartbeat.start()
    gate().start()

    @worker_shutdown.connect(weak=False)
    def _stop(**_: Any) -> None:
        gate().stop()
        heartbeat.stop()


@contextmanager
def mark_running(task: Task[Any, Any]) -> Iterator[None]:
    """List a task as running in this process, while the block runs."""
    task_id = str(task.request.id)
    _slot_ids.add(task_id)
    try:
        yield
    finally:
        _slot_ids.discard(task_id)


def slot_task_ids(run_id: str) -> list[str]:
    """Return the ids of a run's tasks running in this process's slots."""
    return [task_id for task_id in tuple(_slot_ids) if task_id.startswith(f"{run_id}.")]
