"""One run: its Source planned, its shards dispatched to a fleet, its manifests summed up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from producer.dispatch import Dispatcher, Progress, online_workers
from producer.local import Fleet
from producer.output import unwritable
from producer.runfile import Options, PlanState, RunFile, State, new_id
from producer.sharding import Planner
from producer.summary import COLUMNS, Summary, summarise
from tasks import broker, manifest
from tasks.celery import use_broker
from tasks.errors import StorageFailed
from tasks.model import ImageRequest, RunOptions
from tasks.storage import Store


@dataclass(frozen=True, slots=True)
class Crew:
    """Who does the work of a run: the broker, its workers and all their slots together, and a check of their health.

    ``startup_seconds`` is what it took to get them: to start a local fleet, or to ask a broker's workers.
    """

    broker_url: str
    workers: int
    concurrency: int
    startup_seconds: float
    check: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What a finished run has to say; times in seconds."""

    run_id: str
    source: str
    out: Path
    summary: Summary
    wall_seconds: float
    workers: int
    concurrency: int
    startup_seconds: float

    @property
    def images_per_second(self) -> float:
        """Images that ended, in whatever way, for each second of the wall clock."""
        return self.summary.total / self.wall_seconds if self.wall_seconds else 0.0

    def totals(self) -> dict[str, Any]:
        """Return the numbers, as ``--json`` and ``run.json`` give them."""
        return {
            "total": self.summary.total,
            "success": self.summary.success,
            "failed": self.summary.failed,
            "reasons": self.summary.reasons,
            "bytes": self.summary.bytes,
            "wall_seconds": round(self.wall_seconds, 3),
            "images_per_second": round(self.images_per_second, 2),
            "shards": self.summary.shards,
            "workers": self.workers,
            "concurrency": self.concurrency,
            "startup_seconds": round(self.startup_seconds, 3),
        }


def crew_of(fleet: Fleet) -> Crew:
    """Return a local fleet as a run's crew."""
    size = fleet.size
    return Crew(fleet.broker_url, size.workers, size.workers * size.concurrency, fleet.startup_seconds, fleet.check)


def crew_at(broker_url: str) -> Crew:
    """Return the workers at a broker that others keep as a run's crew; there may be none yet.

    Raises:
        Fault: the broker can't be reached, or is not fit to hold a run.
    """
    started = time.monotonic()
    with broker.client(broker_url, patient=False) as server:
        broker.check_server(server, broker_url)
    use_broker(broker_url)
    slots = online_workers()
    return Crew(broker_url, len(slots), sum(slots), time.monotonic() - started, lambda: None)


class Run:
    """A run that is set up: its folder is taken and its plan is growing; nothing is sent before `execute`."""

    def __init__(self, requests: Iterable[ImageRequest], source: str, store: Store, options: Options) -> None:
        """Take the output folder and begin to plan.

        Raises:
            UsageFault: the folder holds a run.
            Fault: it can't be written.
        """
        self._store = store
        self._record = RunFile(new_id(), source, str(store.root), options)
        self._lock = threading.Lock()
        try:
            self._record.create(store)
        except StorageFailed as error:
            raise unwritable(store, error) from error
        self._planner = Planner(requests, store, options.shard_size, self._plan_is_complete)
        self._planner.start()

    def execute(self, crew: Crew, listener: Callable[[Progress], None]) -> Report:
        """See the run through with a crew, and return its report.

        Raises:
            Fault: it can't go on. ``run.json`` says so, and what is collected stays.
        """
        record = self._record
        server = broker.client(crew.broker_url)
        options = RunOptions(record.out, record.options.shard_size, record.options.fetch)
        dispatcher = Dispatcher(record.id, options, self._store, self._planner, server)
        try:
            timing = dispatcher.run(record.options.window, crew.check, listener)
            report = Report(
                run_id=record.id,
                source=record.source,
                out=self._store.root,
                summary=summarise(self._manifests()),
                wall_seconds=timing.wall_seconds,
                workers=crew.workers,
                concurrency=crew.concurrency,
                startup_seconds=crew.startup_seconds,
            )
            self._save(state=State.COMPLETE, finished_at=time.time(), totals=report.totals())
        except BaseException as error:
            self._planner.stop()
            with suppress(StorageFailed):
                self._save(state=State.INTERRUPTED if isinstance(error, KeyboardInterrupt) else State.FAILED)
            if isinstance(error, StorageFailed):
                raise unwritable(self._store, error) from error
            raise
        finally:
            server.close()
        return report

    def _manifests(self) -> Iterator[pa.Table]:
        for shard in range(self._planner.shards):
            yield manifest.decode(self._store.read(manifest.name(shard)), COLUMNS)

    def _plan_is_complete(self, rows: int, shards: int) -> None:
        self._save(plan=PlanState.COMPLETE, planned_rows=rows, planned_shards=shards)

    def _save(self, **changes: Any) -> None:
        # The planner's thread and the main one both have something to say.
        with self._lock:
            self._record = self._record.save(self._store, **changes)
