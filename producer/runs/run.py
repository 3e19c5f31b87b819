"""One run, begun or gone on with: its Source planned, its shards dispatched to a fleet, its manifests summed up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from producer.dispatch.dispatcher import Dispatcher, DispatchOptions
from producer.dispatch.progress import Progress
from producer.output import shard_files
from producer.output.folder import unwritable_error
from producer.output.run_file import PlanState, RunConfig, RunFile, State, new_id, resume_command
from producer.output.shard_files import load_manifest
from producer.output.summary import COLUMNS, summarise
from producer.planning import repair
from producer.planning.planner import NOTHING_PLANNED, Planner, PlanProgress
from producer.planning.previous_run import join_previous_images
from producer.runs.result import PreviousResult, RunResult
from producer.runs.resume import (
    all_manifests_exist,
    is_plan_complete,
    mark_running,
    plan_progress,
    planned_shards,
    remaining_requests,
)
from producer.runs.worker_pool import WorkerPool
from producer.sources import text as url_list
from tasks.broker import client as broker_client
from tasks.errors import CommandError, RunInterruptedError, StorageError, UsageError
from tasks.model import ImageRequest, RunOptions
from tasks.redaction import redacted
from tasks.storage import manifest
from tasks.storage.store import Store

#: What a command that goes on with a run writes into its record before it sends anything.
_COMMAND_FIELDS = ("state", "out", "revision", "epoch", "broker", "retried")


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
        shards = planned_shards(record, store)
        done = record.state is State.COMPLETE and all_manifests_exist(store, shards)
        try:
            repair.repair_plan(record, store, shards)
        except CommandError:
            # A run that is done needs its plan no more.
            if not done:
                raise
        planned = plan_progress(record, store)
        whole = is_plan_complete(record, planned)
        requests = (
            iter(())
            if whole
            else join_previous_images(remaining_requests(record, store, planned), record.options, store)
        )
        for shard in range(planned.shards):
            # Now, and not when all the others are done; all of the file is checked, for a tenth of a millisecond each.
            if store.exists(manifest.name(shard)):
                load_manifest(shard, store, record.id, COLUMNS)
        if not done:
            record = mark_running(record, store)
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
        planned = plan_progress(record, store)
        before: Counter[str] = Counter()
        for shard in range(planned.shards):
            reasons_of = load_manifest(shard, store, record.id, ["reason"])["reason"].drop_null()
            failed = Counter(map(str, reasons_of.to_pylist()))
            before.update(failed)
            if failed.keys() & set(reasons):
                shard_files.load_plan(shard, store, record.id)
        chosen = Counter({reason: number for reason, number in before.items() if reason in reasons})
        if chosen:
            record = mark_running(record, store, revision=record.revision + 1, retried=tuple(sorted(chosen)))
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
        dispatch = DispatchOptions(record.options.window, self._resumed, record.retried, pool.local)
        self._dispatcher = Dispatcher(options, self._store, self._planner, server, pool.check, dispatch)
        if self._finishing:
            # It was told so before there was anyone to send.
            self._dispatcher.finish()
        try:
            timing = self._dispatcher.run(listener)
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


def _state_after(error: BaseException) -> State:
    if isinstance(error, RunInterruptedError):
        return State.CANCELLED if error.cancelled else State.INTERRUPTED
    return State.INTERRUPTED if isinstance(error, KeyboardInterrupt) else State.FAILED
