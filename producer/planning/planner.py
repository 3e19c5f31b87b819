"""Requests cut into shards and written as the plan, ahead of the dispatch, in a thread of its own.

Reading the Source is not bounded by the window: the plan is on the disk before its images are in flight, so it
outlives the Source and the producer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import islice

from tasks.model import ImageRequest
from tasks.storage import plan
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import Store


@dataclass(frozen=True, slots=True)
class PlanProgress:
    """How much of a plan stands: its rows, in so many shards."""

    rows: int
    shards: int


NOTHING_PLANNED = PlanProgress(0, 0)


class Planner:
    """Writes a run's plan; other threads ask it how far it is."""

    def __init__(
        self,
        requests: Iterable[ImageRequest],
        store: Store,
        shard_size: int,
        on_complete: Callable[[int, int], None],
        run_id: str = "",
        planned: PlanProgress = NOTHING_PLANNED,
    ) -> None:
        """Take the requests, where the plan goes, and what to call with rows and shards once all is planned.

        Where a plan goes on that was begun earlier, the requests are those after what is ``planned``.
        """
        self._requests, self._store, self._shard_size, self._run_id = requests, store, shard_size, run_id
        self._on_complete = on_complete
        self._moved = threading.Condition()
        self._stopped = False
        self.rows, self.shards = planned.rows, planned.shards
        #: Whether nothing more will be planned.
        self.closed = False
        #: Whether that is so although the Source has more: planning was stopped.
        self.cut = False
        #: Why planning ended early, if it did.
        self.error: Exception | None = None

    def start(self) -> None:
        """Begin to plan."""
        # A daemon: it may be waiting for standard input when the command ends.
        threading.Thread(target=self._run, name="planner", daemon=True).start()

    def stop(self) -> None:
        """Plan no further shard."""
        self._stopped = True

    def wait(self, shards: int, seconds: float) -> None:
        """Wait until more than this many shards are planned, or planning is over, or the time is."""
        with self._moved:
            self._moved.wait_for(lambda: self.shards > shards or self.closed, seconds)

    def _run(self) -> None:
        try:
            source = iter(self._requests)
            while requests := list(islice(source, self._shard_size)):
                if self._stopped:
                    self.cut = True
                    return
                self._store.create_durably(
                    plan.name(self.shards), plan.encode(requests, ShardRef(self._run_id, self.shards))
                )
                with self._moved:
                    self.rows += len(requests)
                    self.shards += 1
                    self._moved.notify_all()
            self._on_complete(self.rows, self.shards)
        except Exception as error:  # noqa: BLE001  # it is raised again where the run is waited for
            self.error = error
        finally:
            if isinstance(self._requests, Generator):
                # It may hold something while it is read.
                self._requests.close()
            with self._moved:
                self.closed = True
                self._moved.notify_all()
