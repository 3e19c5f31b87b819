"""Split the requests into shards and write the shards as the plan.

A thread does this, and works ahead of the dispatcher.

The window does not limit how far the URL list is read. A shard's plan is on the disk before its images are in flight.
So the plan survives if the URL list disappears or the producer ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from producer.sources.request_stream import closing_source, schema_of
from tasks.model import ImageRequest
from tasks.storage import plan
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import Store


@dataclass(frozen=True, slots=True)
class PlanProgress:
    """The size of the plan so far: its rows and its shards."""

    rows: int
    shards: int


NOTHING_PLANNED = PlanProgress(0, 0)


class Planner:
    """Writes a run's plan; other threads read its progress."""

    def __init__(
        self,
        requests: Iterable[ImageRequest],
        store: Store,
        shard_size: int,
        on_complete: Callable[[int, int], None],
        run_id: str = "",
        planned: PlanProgress = NOTHING_PLANNED,
    ) -> None:
        """Prepare a planner.

        Args:
            requests: the requests to plan. They are a `RequestStream` if they have columns with types. If an earlier
                plan is continued, these requests come after the ``planned`` ones.
            store: the output folder, where the plan is written.
            shard_size: requests per shard.
            on_complete: called when all requests are planned, with the numbers of rows and shards.
            run_id: the id of the run, written into each plan file.
            planned: the size of an earlier plan to continue.
        """
        self._requests, self._store, self._shard_size, self._run_id = requests, store, shard_size, run_id
        self._on_complete = on_complete
        self._moved = threading.Condition()
        self._stopped = False
        self.rows, self.shards = planned.rows, planned.shards
        #: Whether planning has ended.
        self.closed = False
        #: Whether planning was stopped before the end of the URL list.
        self.was_stopped = False
        #: Why planning ended early, if it did.
        self.error: Exception | None = None

    def start(self) -> None:
        """Start planning in a thread."""
        # The thread is a daemon thread, because it may be waiting for standard input when the command ends.
        threading.Thread(target=self._run, name="planner", daemon=True).start()

    def stop(self) -> None:
        """Stop planning before the next shard."""
        self._stopped = True

    def wait(self, shards: int, seconds: float) -> None:
        """Wait until more than this many shards are planned, planning has ended, or the time is up."""
        with self._moved:
            self._moved.wait_for(lambda: self.shards > shards or self.closed, seconds)

    def _run(self) -> None:
        try:
            with closing_source(self._requests) as source:
                self._plan(source)
        except Exception as error:  # noqa: BLE001  # the dispatcher raises it
            self.error = error
        finally:
            with self._moved:
                self.closed = True
                self._moved.notify_all()

    def _plan(self, source: Iterator[ImageRequest]) -> None:
        types = schema_of(self._requests)
        while requests := list(islice(source, self._shard_size)):
            if self._stopped:
                self.was_stopped = True
                return
            self._store.create_durably(
                plan.name(self.shards), plan.encode(requests, ShardRef(self._run_id, self.shards), types)
            )
            with self._moved:
                self.rows += len(requests)
                self.shards += 1
                self._moved.notify_all()
        self._on_complete(self.rows, self.shards)
