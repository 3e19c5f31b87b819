"""The workers that can't do a run's work, as they have said themselves while it runs."""

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
    """A worker that can't do a run's work, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


class UnfitWorkers:
    """What the workers of one run have said, collected by looking now and then."""

    def __init__(self, server: redis.Redis, run_id: str) -> None:
        self._server, self._run_id = server, run_id
        self._found: dict[str, UnfitWorker] = {}
        self._before: frozenset[str] = frozenset()
        #: What keeps workers from saving images, as of the last look.
        self.storage_troubles: list[str] = []

    @property
    def found(self) -> list[UnfitWorker]:
        """Those that have left the work to others, each once."""
        return list(self._found.values())

    @property
    def note(self) -> str:
        """What a person should know of them while the run goes on; empty if there are none."""
        if not self._found:
            return ""
        return f"workers that leave this run to the others: {list_names(map(str, self._found.values()))}"

    def refresh(self, last: bool = False) -> None:
        """Read what workers have said, and warn of each new one that others work for.

        A network that fails for a moment is not worth a warning: it has to last for two looks, or until the last one.
        Where all workers say so, none of them works for another, and the failures of the images tell.
        """
        said = {
            name: json.loads(text)
            for name, text in cast("dict[str, str]", self._server.hgetall(keys.unfit(self._run_id))).items()
        }
        self.storage_troubles = sorted({one["why"] for one in said.values() if one["kind"] == "storage"})
        before, self._before = self._before, frozenset(said)
        if not said or cast("set[str]", self._server.smembers(keys.WORKERS)) <= said.keys():
            return
        for worker_id, one in said.items():
            if worker_id not in self._found and (last or worker_id in before or one["kind"] == "storage"):
                worker = WorkerId.parse(worker_id)
                unfit = self._found[worker_id] = UnfitWorker(worker.node if worker else worker_id, one["why"])
                _log.warning("a worker leaves this run to the others: %s", unfit)
