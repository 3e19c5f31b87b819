"""While a run is in progress, find the workers that report themselves unfit."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import cast

import redis

from producer.formatting import list_names
from tasks.broker import keys
from tasks.broker.liveness import WorkerId

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnfitWorker:
    """A worker that can't process a run's tasks, and the reason."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


class UnfitWorkers:
    """The unfit workers of one run, read from Redis at intervals."""

    def __init__(self, server: redis.Redis, run_id: str) -> None:
        self._server, self._run_id = server, run_id
        self._found: dict[str, UnfitWorker] = {}
        self._before: frozenset[str] = frozenset()
        #: The reasons why workers can't save images, as found by the last read.
        self.storage_troubles: list[str] = []

    @property
    def found(self) -> list[UnfitWorker]:
        """The workers that left tasks to other workers. Each worker is listed once."""
        return list(self._found.values())

    @property
    def note(self) -> str:
        """A note on the unfit workers for the user during the run; empty if there are none."""
        if not self._found:
            return ""
        return f"workers that take no tasks of this run at present: {list_names(map(str, self._found.values()))}"

    def refresh(self, last: bool = False) -> None:
        """Read the workers' reports, and log a warning for each newly unfit worker.

        A short network failure is not worth a warning. So a worker is reported only if it is unfit in two reads in a
        row, or in the last read. If all workers are unfit, no other worker takes over their tasks, so there is no
        warning. The failed images then show the reason.
        """
        reports = {
            name: json.loads(text)
            for name, text in cast("dict[str, str]", self._server.hgetall(keys.unfit(self._run_id))).items()
        }
        self.storage_troubles = sorted({report["why"] for report in reports.values() if report["kind"] == "storage"})
        before, self._before = self._before, frozenset(reports)
        if not reports or cast("set[str]", self._server.smembers(keys.WORKERS)) <= reports.keys():
            return
        for worker_id, report in reports.items():
            if worker_id not in self._found and (last or worker_id in before or report["kind"] == "storage"):
                worker = WorkerId.parse(worker_id)
                unfit = self._found[worker_id] = UnfitWorker(worker.node if worker else worker_id, report["why"])
                _log.warning("a worker takes no tasks of this run at present: %s", unfit)
