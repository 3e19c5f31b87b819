"""One run, begun or gone on with: its Source planned, its shards dispatched to a fleet, its manifests summed up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from producer.dispatch import dispatcher
from producer.dispatch.dispatcher import Dispatcher, Progress
from producer.dispatch.unfit_workers import UnfitWorker
from producer.dispatch.workers import survey_workers
from producer.local_fleet.fleet import Fleet
from producer.output import lock, shard_files
from producer.output.folder import unwritable_error
from producer.output.lock import LockHolder
from producer.output.run_file import PlanState, RunConfig, RunFile, State, new_id, resume_command
from producer.output.shard_files import load_manifest, load_requests
from producer.output.summary import COLUMNS, Summary, summarise
from producer.planning import repair
from producer.planning.planner import NOTHING_PLANNED, Planner, PlanProgress
from producer.planning.previous_run import join_previous_images
from producer.sources import text as url_list
from tasks.broker import client as broker_client
from tasks.celery import use_broker
from tasks.errors import CommandError, RunInterruptedError, StorageError, UsageError
from tasks.model import ImageRequest, RunOptions
from tasks.redaction import redacted
from tasks.storage import manifest, plan
from tasks.storage.store import Store

#: Seconds within which a producer that is told to end its run has to have ended it.
_CANCEL_TIMEOUT_SECONDS = 60.0
#: What a command that goes on with a run writes into its record before it sends anything.
_COMMAND_FIELDS = ("state", "out", "revision", "epoch", "broker", "retried")


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """Who does the work of a run: the broker, its workers and all their slots together, and a check of their health.

    ``startup_seconds`` is what it took to get them: to start a local fleet, or to ask a broker's workers. ``local`` is
    whether they are a local fleet. ``unfit`` are workers at the broker that can't do the run's work, and ``warnings``
    is what a person should know of the workers before the run.
    """

    broker_url: str
    workers: int
    slots: int
    startup_seconds: float
    check: Callable[[], None]
    local: bool = False
    unfit: Sequence[UnfitWorker] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PreviousResult:
    """An earlier command that has completed a run: when, in seconds since the epoch, and its own numbers."""

    finished_at: float
    images: int
    wall_seconds: float
    images_per_second: float
    workers: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished run has to say; times in seconds.

    The Summary is of the whole run; time, speed and fleet are of this command, and of the images that it has done.
    """

    run_id: str
    source: str
    out: Path
    summary: Summary
    wall_seconds: float
    workers: int
    slots: int
    startup_seconds: float
    #: Images that this command has seen to the end, and how many of them had to be sent again.
    images: int
    repaired: int = 0
    #: Where failed images were tried again: how many had each reason before.
    before: dict[str, int] | None = None
    #: The folder of the previous run that this one has refreshed, if it has.
    previous_run: str | None = None
    #: Where there was nothing to do, the command that had left it so.
    completion: PreviousResult | None = None
    #: Workers that could not do the run's work, and left it to the others.
    unfit: Sequence[UnfitWorker] = ()

    @property
    def images_per_second(self) -> float:
        """Images that ended, in whatever way, for each second of the wall clock."""
        return self.images / self.wall_seconds if self.wall_seconds else 0.0

    def totals(self) -> dict[str, Any]:
        """Return the numbers, as ``--json`` and ``run.json`` give them."""
        return {
            "total": self.summary.total,
            "success": self.summary.success,
            "unchanged": self.summary.unchanged,
            "failed": self.summary.failed,
            "reasons": self.summary.reasons,
            "bytes": self.summary.bytes,
            "wall_seconds": round(self.wall_seconds, 3),
            "images_per_second": round(self.images_per_second, 2),
            "shards": self.summary.shards,
            "workers": self.workers,
            "concurrency": self.slots,
            "startup_seconds": round(self.startup_seconds, 3),
            "fetched": self.images,
            "repaired": self.repaired,
            "unfit_workers": {worker.name: worker.why for worker in self.unfit},
        }


def local_pool(fleet: Fleet) -> WorkerPool:
    """Return a local fleet as a run's crew."""
    size = fleet.size
    slots = size.workers * size.concurrency
    return WorkerPool(fleet.broker_url, size.workers, slots, fleet.startup_seconds, fleet.check, local=True)


def broker_pool(broker_url: str, out: Path, insecure: bool = False) -> WorkerPool:
    """Return the workers at a broker that others keep as a run's crew; there may be none yet.

    Args:
        broker_url: the broker's.
        out: the run's output folder, which they have to be able to write.
        insecure: whether the run is to do without the verification of servers, which they have to allow.

    Raises:
        UsageError: workers are there, and none of them can save the run's images, or none may do what it asks for.
        CommandError: the broker can't be reached or used now, or is not fit to hold a run.
    """
    started = time.monotonic()
    with broker_client.client(broker_url, retry=False) as server:
        broker_client.check_server(server, broker_url)
        broker_client.check_connections(server, broker_url, workers=0)
        use_broker(broker_url)
        with broker_client.translate_errors(broker_url):
            pool = survey_workers(out, insecure)
        broker_client.check_connections(server, broker_url, len(pool.fit))
    return WorkerPool(
        broker_url,
        len(pool.fit),
        sum(worker.slots for worker in pool.fit),
        time.monotonic() - started,
        lambda: None,
        unfit=pool.unfit,
        warnings=pool.warnings(),
    )


class Run:
    """A run that is set up: its folder is its own and its plan is growing; nothing is sent before `execute`.

    Whoever makes one holds the lock of the folder. It is a context manager: where its block fails, also before
    `execute`, its record says so. A command that goes on with a run and fails before it has sent anything leaves the
    record as it was.
    """

    def __init__(
        self,
        record: RunFile,
        store: Store,
        requests: Iterable[ImageRequest],
        planned: PlanProgress = NOTHING_PLANNED,
        resumed: bool = False,
        before: Counter[str] | None = None,
        found: RunFile | None = None,
    ) -> None:
        """Take its record, its folder, the requests that are not planned yet, and what is planned.

        Where it goes on, ``found`` is the record as it was found.
        """
        #: Whether the producer before this one has died without a word: its record still said that it runs.
        self.abandoned = resumed and found is not None and found.state is State.RUNNING
        self._record, self._store, self._resumed, self._before = record, store, resumed, before
        self._found = found
        self._lock = threading.Lock()
        self._planner = Planner(
            requests, store, record.options.shard_size, self._record_plan_complete, record.id, planned
        )
        self._dispatcher: Dispatcher | None = None
        self._finishing = False
        self._planner.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._record_end(error)

    @classmethod
    def begin(cls, requests: Iterable[ImageRequest], source: str, store: Store, options: RunConfig) -> Self:
        """Begin a run in a folder without one.

        Raises:
            UsageError: the folder holds a run.
            CommandError: it can't be written.
        """
        record = RunFile(new_id(), source, str(store.root), options, url_list.fingerprint(source))
        try:
            record.create(store)
        except StorageError as error:
            raise unwritable_error(store, error) from error
        return cls(record, store, join_previous_images(requests, options, store))

    @classmethod
    def resume(cls, store: Store) -> Self:
        """Go on with a run, whatever has ended it.

        Raises:
            UsageError: the folder holds no run.
            CommandError: what is there can't be trusted, nor, of the plan, made anew.
        """
        record = found = RunFile.load(store)
        shards = _planned_shards(record, store)
        done = record.state is State.COMPLETE and _all_manifests_exist(store, shards)
        try:
            repair.repair_plan(record, store, shards)
        except CommandError:
            # A run that is done needs its plan no more.
            if not done:
                raise
        planned = _plan_progress(record, store)
        whole = _is_plan_complete(record, planned)
        requests = (
            iter(())
            if whole
            else join_previous_images(_remaining_requests(record, store, planned), record.options, store)
        )
        for shard in range(planned.shards):
            # Now, and not when all the others are done; all of the file is checked, for a tenth of a millisecond each.
            if store.exists(manifest.name(shard)):
                load_manifest(shard, store, record.id, COLUMNS)
        if not done:
            record = _mark_running(record, store)
        return cls(record, store, requests, planned, resumed=True, found=found)

    @classmethod
    def retry(cls, store: Store, reasons: Collection[str]) -> Self:
        """Begin another pass over a finished run, over the images that failed for some reasons.

        Raises:
            UsageError: the folder holds no run, or one that is not finished.
            CommandError: what is there can't be trusted. Nothing was changed.
        """
        record = found = RunFile.load(store)
        if record.state is not State.COMPLETE:
            raise UsageError(
                f"The run in {store.root} is not finished",
                "it was not completed, and only what has ended can be tried again",
                f"Finish it by `{resume_command(store)}`.",
            )
        planned = _plan_progress(record, store)
        before: Counter[str] = Counter()
        for shard in range(planned.shards):
            reasons_of = load_manifest(shard, store, record.id, ["reason"])["reason"].drop_null()
            failed = Counter(map(str, reasons_of.to_pylist()))
            before.update(failed)
            if failed.keys() & set(reasons):
                shard_files.load_plan(shard, store, record.id)
        chosen = Counter({reason: number for reason, number in before.items() if reason in reasons})
        if chosen:
            record = _mark_running(record, store, revision=record.revision + 1, retried=tuple(sorted(chosen)))
        return cls(record, store, iter(()), planned, resumed=True, before=chosen, found=found)

    @property
    def id(self) -> str:
        """Its id."""
        return self._record.id

    @property
    def source(self) -> str:
        """Its Source, as it was given."""
        return self._record.source

    @property
    def broker(self) -> str | None:
        """The URL of the broker that it was last at, redacted; None for a local fleet."""
        return self._record.broker

    @property
    def previous_run(self) -> str | None:
        """The folder of the previous run that it refreshes, if it does."""
        return self._record.options.previous_run

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self._record.state is State.COMPLETE

    def finish(self) -> None:
        """Have `execute` end when what is being downloaded is done; may be called from a signal's handler."""
        self._finishing = True
        self._planner.stop()
        if self._dispatcher is not None:
            self._dispatcher.finish()

    def summary(self) -> RunResult:
        """Return the report of a run of which nothing is left to do.

        Raises:
            CommandError: a manifest can't be trusted.
        """
        totals = self._record.totals or {}
        return RunResult(
            run_id=self.id,
            source=self.source,
            out=self._store.root,
            summary=summarise(self._manifests()),
            wall_seconds=0.0,
            workers=0,
            slots=0,
            startup_seconds=0.0,
            images=0,
            before=self._before,
            previous_run=self._record.options.previous_run,
            completion=PreviousResult(
                self._record.finished_at or 0.0,
                totals.get("fetched", 0),
                totals.get("wall_seconds", 0.0),
                totals.get("images_per_second", 0.0),
                totals.get("workers", 0),
                totals.get("concurrency", 0),
            ),
        )

    def execute(self, pool: WorkerPool, listener: Callable[[Progress], None]) -> RunResult:
        """See the run through with a crew, and return its report.

        Raises:
            CommandError: it can't go on. ``run.json`` says so, and what is collected stays.
            RunInterruptedError: it was told to end early.
        """
        at = None if pool.local else redacted(pool.broker_url)
        if at != self._record.broker:
            try:
                self._save(broker=at)
            except StorageError as error:
                raise unwritable_error(self._store, error) from error
        record = self._record
        server = broker_client.client(pool.broker_url)
        options = RunOptions(
            out=str(self._store.root),
            shard_size=record.options.shard_size,
            fetch=record.options.fetch,
            run_id=record.id,
            revision=record.revision,
            epoch=record.epoch,
            previous_run=record.options.previous_run,
        )
        self._dispatcher = Dispatcher(
            options, self._store, self._planner, server, self._resumed, record.retried, pool.local
        )
        if self._finishing:
            # It was told so before there was anyone to send.
            self._dispatcher.finish()
        try:
            timing = self._dispatcher.run(record.options.window, pool.check, listener)
            report = RunResult(
                run_id=record.id,
                source=record.source,
                out=self._store.root,
                summary=summarise(self._manifests()),
                wall_seconds=timing.wall_seconds,
                workers=pool.workers,
                slots=pool.slots,
                startup_seconds=pool.startup_seconds,
                images=timing.images,
                repaired=timing.repaired,
                before=self._before,
                previous_run=record.options.previous_run,
                unfit=list({worker.name: worker for worker in (*pool.unfit, *self._dispatcher.unfit)}.values()),
            )
            self._save(state=State.COMPLETE, finished_at=time.time(), totals=report.totals())
            # What is still being written belongs to late copies, of shards that are done.
            self._store.remove_leftovers()
        except BaseException as error:
            self._record_end(error)
            if isinstance(error, StorageError):
                raise unwritable_error(self._store, error) from error
            raise
        finally:
            server.close()
        return report

    def _manifests(self) -> Iterator[pa.Table]:
        for shard in range(self._planner.shards):
            yield load_manifest(shard, self._store, self.id, COLUMNS)

    def _record_plan_complete(self, rows: int, shards: int) -> None:
        if self._record.plan is not PlanState.COMPLETE:
            self._save(plan=PlanState.COMPLETE, planned_rows=rows, planned_shards=shards)

    def _record_end(self, error: BaseException) -> None:
        """Have the record say what has ended the run, unless it says how it ended."""
        self._planner.stop()
        if self._record.state is not State.RUNNING:
            return
        changes: dict[str, Any] = {"state": _state_after(error)}
        has_sent = self._dispatcher is not None and self._dispatcher.has_sent
        found = self._found
        if changes["state"] is State.FAILED and found is not None and found.state is not State.RUNNING and not has_sent:
            changes = {name: getattr(found, name) for name in _COMMAND_FIELDS}
        with suppress(StorageError):
            self._save(**changes)

    def _save(self, **changes: Any) -> None:
        # The planner's thread and the main one both have something to say.
        with self._lock:
            self._record = self._record.save(self._store, **changes)


def cancel(store: Store, broker_url: str | None, end: Callable[[LockHolder], bool]) -> str:
    """End a run: by its producer, if it has one, else by dropping what is queued of it; return what was done.

    Args:
        store: its folder.
        broker_url: its Redis, if it was given; else it is known by the run's record.
        end: asks a producer with a local fleet to end, and tells whether it could be asked.

    Raises:
        UsageError: the folder holds no run, or its broker has to be given.
        CommandError: it can't be ended.
    """
    record = RunFile.load(store)
    producer = lock.current_holder(store)
    if producer is None and record.state is State.COMPLETE:
        return "The run is complete; there is nothing to cancel."
    if producer is not None and producer.pid:
        # It may not have got as far as to say so in the record.
        record = replace(record, broker=producer.broker)
    url = broker_url or record.broker_url()
    if producer is not None and (url is None or (producer.pid and producer.broker is None)):
        if not end(producer):
            raise CommandError(
                "The run can't be cancelled from here",
                "its producer lives on another host, with a fleet of its own",
                "Cancel it there, or end that producer by Ctrl-C.",
            )
    elif url is not None:
        with broker_client.client(url, retry=False) as server, broker_client.translate_errors(url):
            broker_client.check_server(server, url)
            # It may have ended meanwhile.
            if lock.current_holder(store) is None:
                dispatcher.drop_run(server, record.id)
            else:
                dispatcher.request_cancel(server, record.id)
    ends = time.monotonic() + _CANCEL_TIMEOUT_SECONDS
    while lock.current_holder(store) is not None:
        if time.monotonic() > ends:
            raise CommandError(
                "The run has not ended",
                f"its producer was told, and was still there {_CANCEL_TIMEOUT_SECONDS:.0f} s later",
                "Look at what it prints, or end it by Ctrl-C.",
            )
        time.sleep(0.1)
    record = RunFile.load(store)
    if record.state is State.COMPLETE:
        return "The run was completed meanwhile."
    if record.state is not State.CANCELLED:
        try:
            record.save(store, state=State.CANCELLED)
        except StorageError as error:
            raise unwritable_error(store, error) from error
    return f"The run is cancelled. What is done stays; go on by: {resume_command(store)}"


def _all_manifests_exist(store: Store, shards: int) -> bool:
    """Tell whether all manifests stand: one that can't be trusted may have been removed, to be made again."""
    return all(store.exists(manifest.name(shard)) for shard in range(shards))


def _mark_running(record: RunFile, store: Store, **changes: Any) -> RunFile:
    """Return a record that says that the run goes on, here."""
    try:
        return record.save(store, state=State.RUNNING, out=str(store.root), epoch=record.epoch + 1, **changes)
    except StorageError as error:
        raise CommandError(
            f"The run in {store.root} can't go on",
            str(error),
            "Make space there, or see to it that you may write there; then call the command again.",
        ) from error


def _state_after(error: BaseException) -> State:
    if isinstance(error, RunInterruptedError):
        return State.CANCELLED if error.cancelled else State.INTERRUPTED
    return State.INTERRUPTED if isinstance(error, KeyboardInterrupt) else State.FAILED


def _plan_progress(record: RunFile, store: Store) -> PlanProgress:
    """Return how much of a run's plan stands.

    Raises:
        CommandError: the last part of it can't be read, or some of it is gone.
    """
    if record.plan is PlanState.COMPLETE:
        return PlanProgress(record.planned_rows, record.planned_shards)
    shards = _planned_shards(record, store)
    if not shards:
        return NOTHING_PLANNED
    size = record.options.shard_size
    return PlanProgress((shards - 1) * size + len(load_requests(shards - 1, store, record.id)), shards)


def _planned_shards(record: RunFile, store: Store) -> int:
    """Return how many shards are planned: while the Source is not read to its end, those without a gap between them."""
    if record.plan is PlanState.COMPLETE:
        return record.planned_shards
    return next(shard for shard in count() if not store.exists(plan.name(shard)))


def _is_plan_complete(record: RunFile, planned: PlanProgress) -> bool:
    """Tell whether a plan is known to be complete: a shard that is not full is the last one of its Source."""
    return record.plan is PlanState.COMPLETE or planned.rows % record.options.shard_size != 0


def _remaining_requests(record: RunFile, store: Store, planned: PlanProgress) -> Iterator[ImageRequest]:
    """Yield the requests of a Source after those that are planned.

    Raises:
        CommandError: the Source is gone, or is another one. What is planned is done before that is told.
    """
    if not url_list.is_same(record.source, record.fingerprint):
        raise _source_changed_error(record, planned)
    requests = url_list.read(record.source)
    last = load_requests(planned.shards - 1, store, record.id) if planned.shards else []
    first = planned.rows - len(last)
    for request in requests:
        if request.index >= planned.rows:
            yield request
        elif request.index >= first and request.url != last[request.index - first].url:
            raise _source_changed_error(record, planned)


def _source_changed_error(record: RunFile, planned: PlanProgress) -> CommandError:
    return CommandError(
        f"{url_list.named(record.source)} can't be read on",
        f"{url_list.why_not(record.source)}. The {planned.rows:,} rows that were planned from it are done",
        "Run the rest of the list into another folder.",
    )
