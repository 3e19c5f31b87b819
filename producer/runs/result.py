"""The result of a run's command, and the result of the command that completed the run earlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producer.dispatch.unfit_workers import UnfitWorker
from producer.output.summary import Summary


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
