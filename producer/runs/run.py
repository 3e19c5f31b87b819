"""One run, new or existing: plan its URL list, dispatch its shards to workers, and sum up its manifests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import redis

from producer.dispatch.dispatcher import Dispatcher, DispatchOptions
from producer.dispatch.host_report import HostReport
from producer.dispatch.progress import Progress, Timing
from producer.output import failures, lock
from producer.output.folder import unwritable_error
from producer.output.run_file import PlanState, RunConfig, RunFile, State, new_id
from producer.output.shard_files import load_manifest, planned_shards
from producer.output.summary import COLUMNS, summarise
from producer.planning import repair
from producer.planning.current_list import renumbered
from producer.planning.file_paths import check_names
from producer.planning.planner import NOTHING_PLANNED, Planner, PlanProgress
from producer.planning.run_requests import prepare_requests
from producer.runs.result import PreviousResult, RunResult
from producer.runs.resume import (
    all_manifests_exist,
    check_manifests,
    count_failures,
    is_plan_complete,
    load_complete,
    mark_running,
    plan_progress,
    remaining_requests,
    remove_packed_images,
)
from producer.runs.worker_pool import WorkerPool
from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks.broker import client as broker_client
from tasks.errors import CommandError, RunInterruptedError, StorageError
from tasks.model import ImageRequest, RunOptions, shard_name
from tasks.outputs.packing import packed_name
from tasks.redaction import redacted
from tasks.storage.parallel import parallel_map
from tasks.storage.store import Store

#: The fields that a command on an existing run changes in its record before it sends a task.
_COMMAND_FIELDS = ("state", "out", "revision", "epoch", "broker", "retried")


class Run:
    """A run with a locked folder and a growing plan. Nothing is sent before `execute`.

    The caller holds the lock of the folder. Use the run as a context manager. If the block fails, even before
    `execute`, the failure is saved in the run's record. But if a command on an existing run fails before it has sent a
    task, the record stays as it was.
    """

    def __init__(
        self,
        record: RunFile,
        store: Store,
        requests: Iterable[ImageRequest],
        planned: PlanProgress = NOTHING_PLANNED,
        before: Counter[str] | None = None,
        found: RunFile | None = None,
    ) -> None:
        """Take the run, and start planning.

        Args:
            record: the run's record.
            store: the run's folder.
            requests: the unplanned requests.
            planned: how much is planned.
            before: for a retry, the number of images to retry, by their failure reason.
            found: the record of an existing run before this command changed it; None for a new run.
        """
        #: Whether the previous producer died without recording its end. In this case, the record still says that the
        #: run is running.
        self.abandoned = found is not None and found.state is State.RUNNING
        self._record, self._store, self._before, self._found = record, store, before, found
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
        """Start a new run in a folder that holds no run.

        Raises:
            UsageError: the folder holds a run, or holds other files whose names an image could get.
            CommandError: the folder is not writable.
        """
        record = RunFile(new_id(), source, store.location, options, url_list.fingerprint(source))
        try:
            check_names(store, options)
            record.create(store)
        except StorageError as error:
            raise unwritable_error(store, error) from error
        return cls(record, store, prepare_requests(requests, options, store))

    @classmethod
    def resume(cls, store: Store) -> Self:
        """Resume a run, however it ended.

        Raises:
            UsageError: the folder holds no run.
            CommandError: a file of the run is damaged. A damaged plan file is an error only if it can't be rebuilt.
        """
        record = found = RunFile.load_usable(store)
        shards = planned_shards(record, store)
        done = record.state is State.COMPLETE and all_manifests_exist(store, shards)
        try:
            repair.repair_plan(record, store, shards)
        except CommandError:
            # A completed run no longer needs its plan.
            if not done:
                raise
        planned = plan_progress(record, store)
        requests: Iterable[ImageRequest] = ()
        if not is_plan_complete(record, planned):
            requests = remaining_requests(record, store, planned)
        check_manifests(record, store, planned.shards)
        remove_packed_images(record, store, planned.shards)
        if not done:
            record = mark_running(record, store)
        return cls(record, store, requests, planned, found=found)

    @classmethod
    def retry(cls, store: Store, reasons: Collection[str]) -> Self:
        """Start another revision of a completed run, to retry the images that failed for the given reasons.

        Raises:
            UsageError: the folder holds no run, or an incomplete run.
            CommandError: a file of the run is damaged. Nothing was changed.
        """
        record = found = load_complete(store, "retried")
        planned = plan_progress(record, store)
        before = count_failures(record, store, planned.shards, reasons)
        chosen = Counter({reason: number for reason, number in before.items() if reason in reasons})
        if chosen:
            record = mark_running(record, store, revision=record.revision + 1, retried=tuple(sorted(chosen)))
        return cls(record, store, iter(()), planned, before=chosen, found=found)

    @classmethod
    def extend(cls, store: Store, requests: Iterable[ImageRequest], source: str, options: SourceOptions) -> Self:
        """Add the rows of a further list to a complete run, as new shards. Existing shards and keys stay as they are.

        From then on, the run is incomplete. It stays extended even if it fails at once, and it can be resumed.

        Args:
            store: the run's folder.
            requests: the requests of the list, with indexes from 0 on.
            source: the URL list, as it was given.
            options: how to read the list. All other options of the run stay the same.

        Raises:
            UsageError: the folder holds no run, or an incomplete run.
            CommandError: a file of the run is damaged. Nothing was changed.
        """
        found = load_complete(store, "extended")
        planned = PlanProgress(found.planned_rows, found.planned_shards)
        # From now on, the plan of the existing shards can't be rebuilt.
        repair.repair_plan(found, store, planned.shards)
        check_manifests(found, store, planned.shards)
        record = mark_running(
            found,
            store,
            source=source,
            options=replace(found.options, source=options),
            fingerprint=url_list.fingerprint(source),
            plan=PlanState.OPEN,
            earlier_shards=planned.shards,
            earlier_rows=planned.rows,
        )
        added = prepare_requests(renumbered(requests, record.first_index), record.options, store)
        return cls(record, store, added, planned, found=found)

    @property
    def id(self) -> str:
        """The run's id."""
        return self._record.id

    @property
    def source(self) -> str:
        """The URL list as it was given, with secrets of a URL masked."""
        return url_list.shown(self._record.source)

    @property
    def broker(self) -> str | None:
        """The redacted URL of the broker last used; None for a local fleet."""
        return self._record.broker

    @property
    def config(self) -> RunConfig:
        """The options of the run."""
        return self._record.options

    @property
    def previous_run(self) -> str | None:
        """The folder of the previous run that this run refreshes, or None."""
        return self._record.options.previous_run

    @property
    def is_done(self) -> bool:
        """Whether the run is complete."""
        return self._record.state is State.COMPLETE

    def finish(self) -> None:
        """End `execute` after the current downloads. Safe to call from a signal handler."""
        self._finishing = True
        self._planner.stop()
        if self._dispatcher is not None:
            self._dispatcher.finish()

    def summary(self) -> RunResult:
        """Return the result of a complete run.

        Raises:
            CommandError: a manifest is damaged.
        """
        totals = self._record.totals or {}
        return RunResult(
            run_id=self.id,
            source=self.source,
            out=self._store.location,
            summary=summarise(self._manifests()),
            wall_seconds=0.0,
            workers=0,
            slots=0,
            startup_seconds=0.0,
            images=0,
            before=self._before,
            previous_run=self._record.options.previous_run,
            first_images=self._first_images(),
            hosts=[HostReport.from_json(facts) for facts in totals.get("hosts", ())],
            completion=PreviousResult.from_totals(self._record.finished_at or 0.0, totals),
        )

    def execute(self, pool: WorkerPool, listener: Callable[[Progress], None]) -> RunResult:
        """Run until everything is complete, and return the result.

        Args:
            pool: the workers.
            listener: called with the run's progress, a few times a second.

        Raises:
            CommandError: the run can't continue. ``run.json`` records the failure, and collected shards stay.
            RunInterruptedError: the run was told to end early.
        """
        self._save_broker(pool)
        server = broker_client.client(pool.broker_url)
        dispatcher = self._dispatcher = self._create_dispatcher(pool, server)
        if self._finishing:
            # `finish` was called before there was a dispatcher.
            dispatcher.finish()
        try:
            timing = dispatcher.run(listener)
            result = self._create_result(pool, timing, dispatcher)
            failures.write(self._record, self._store, self._planner.shards if result.summary.failed else 0)
            self._save(state=State.COMPLETE, finished_at=timing.finished_at, totals=result.totals())
            # All shards are done, so only a late duplicate of a task may still be writing a file.
            self._store.remove_leftovers()
        except BaseException as error:
            self._record_end(error)
            if isinstance(error, StorageError):
                lock.check_held(self._store)
                raise unwritable_error(self._store, error) from error
            raise
        finally:
            server.close()
        return result

    def _save_broker(self, pool: WorkerPool) -> None:
        """Save how other commands find the run's Redis: in the record, or in the lock for a local fleet."""
        if pool.local:
            lock.set_fleet(self._store, pool.broker_url)
        broker = None if pool.local else redacted(pool.broker_url)
        if broker == self._record.broker:
            return
        try:
            self._save(broker=broker)
        except StorageError as error:
            raise unwritable_error(self._store, error) from error

    def _create_dispatcher(self, pool: WorkerPool, server: redis.Redis) -> Dispatcher:
        record = self._record
        options = RunOptions(
            out=self._store.location,
            shard_size=record.options.shard_size,
            fetch=record.options.fetch,
            output=record.options.output,
            run_id=record.id,
            revision=record.revision,
            epoch=record.epoch,
            previous_run=record.options.previous_run,
        )
        dispatch = DispatchOptions(
            record.options.window,
            record.options.max_parked,
            resumed=self._found is not None,
            retried=record.retried,
            local=pool.local,
        )
        return Dispatcher(options, self._store, self._planner, server, partial(self._check, pool), dispatch)

    def _check(self, pool: WorkerPool) -> None:
        """Check that the workers are there, and that this producer still holds the folder's lock.

        Raises:
            CommandError: the workers are gone, or another producer has taken over the lock.
        """
        pool.check()
        lock.check_held(self._store)

    def _create_result(self, pool: WorkerPool, timing: Timing, dispatcher: Dispatcher) -> RunResult:
        summary = summarise(self._manifests())
        return RunResult(
            run_id=self.id,
            source=self.source,
            out=self._store.location,
            summary=summary,
            wall_seconds=timing.wall_seconds,
            started_at=timing.started_at,
            workers=pool.workers,
            slots=pool.slots,
            startup_seconds=pool.startup_seconds,
            images=timing.images,
            fetched_bytes=summary.bytes if self._found is None else timing.bytes,
            repaired=timing.repaired,
            before=self._before,
            previous_run=self.previous_run,
            first_images=self._first_images(),
            unfit=list({worker.name: worker for worker in (*pool.unfit, *dispatcher.unfit)}.values()),
            hosts=dispatcher.troubled_hosts(),
        )

    def _first_images(self) -> str:
        output = self._record.options.output
        return packed_name(0, output) or output.path_template or f"{shard_name(0)}/"

    def _manifests(self) -> Iterator[pa.Table]:
        shards = range(self._planner.shards)
        return parallel_map(lambda shard: load_manifest(shard, self._store, self.id, COLUMNS), shards, self._store)

    def _record_plan_complete(self, rows: int, shards: int) -> None:
        if self._record.plan is not PlanState.COMPLETE:
            self._save(plan=PlanState.COMPLETE, planned_rows=rows, planned_shards=shards)

    def _record_end(self, error: BaseException) -> None:
        """Record how the run ended, unless its end is already recorded."""
        self._planner.stop()
        if self._record.state is not State.RUNNING:
            return
        changes: dict[str, Any] = {"state": _state_after(error)}
        has_sent = self._dispatcher is not None and self._dispatcher.has_sent
        found = self._found
        if changes["state"] is State.FAILED and found is not None and not has_sent and self._is_restorable(found):
            changes = {name: getattr(found, name) for name in _COMMAND_FIELDS}
        with suppress(StorageError):
            self._save(**changes)

    def _is_restorable(self, found: RunFile) -> bool:
        """Return whether a failed command can set the run's record back to ``found``, its state before the command.

        An extended run stays extended, because some of its new shards may be planned already.
        """
        return found.state is not State.RUNNING and found.earlier_shards == self._record.earlier_shards

    def _save(self, **changes: Any) -> None:
        # Both the planner's thread and the main thread save the record.
        with self._lock:
            self._record = self._record.save(self._store, **changes)


def _state_after(error: BaseException) -> State:
    if isinstance(error, RunInterruptedError):
        return State.CANCELLED if error.cancelled else State.INTERRUPTED
    return State.INTERRUPTED if isinstance(error, KeyboardInterrupt) else State.FAILED
