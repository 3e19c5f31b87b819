"""The result of a command that works on a run. It can include the result of the command that completed the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from config.locations import parse_location
from producer.dispatch.host_report import HostReport
from producer.dispatch.unfit_workers import UnfitWorker
from producer.output.folder import open_output
from producer.output.shard_files import load_manifest
from producer.output.summary import Summary
from tasks.model import Outcome
from tasks.storage import manifest


@dataclass(frozen=True, slots=True)
class PreviousResult:
    """The earlier command that completed a run.

    The figures are those of this command alone. `finished_at` is a Unix timestamp.
    """

    finished_at: float
    images: int
    wall_seconds: float
    images_per_second: float
    workers: int
    concurrency: int

    @classmethod
    def from_totals(cls, finished_at: float, totals: Mapping[str, Any]) -> Self:
        """Create the value from the figures in ``run.json``."""
        return cls(
            finished_at,
            totals.get("fetched", 0),
            totals.get("wall_seconds", 0.0),
            totals.get("images_per_second", 0.0),
            totals.get("workers", 0),
            totals.get("concurrency", 0),
        )


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a finished run; times are in seconds.

    The summary covers the whole run. Times, speed and workers are those of this command alone.
    """

    run_id: str
    source: str
    #: The location of the output folder.
    out: str
    summary: Summary
    wall_seconds: float
    workers: int
    slots: int
    startup_seconds: float
    #: The number of images finished by this command, and the number of these images that were resent.
    images: int
    repaired: int = 0
    #: The size of the images that this command saved.
    fetched_bytes: int = 0
    #: The time of this command's first task in seconds since the epoch; 0 if it sent no task.
    started_at: float = 0.0
    #: After a retry: the number of retried images, by their failure reason before the retry.
    before: dict[str, int] | None = None
    #: The folder of the previous run that this run refreshed, or None.
    previous_run: str | None = None
    #: The earlier command that completed the run, if this command had nothing to do.
    completion: PreviousResult | None = None
    #: Workers that could not run tasks of the run, and left these tasks to other workers.
    unfit: Sequence[UnfitWorker] = ()
    #: The hosts that rested, were slow or kept images waiting: at most five, the worst first.
    hosts: Sequence[HostReport] = ()
    #: The place of the first shard's images, relative to the output folder.
    first_images: str = "00000/"

    @property
    def images_per_second(self) -> float:
        """Finished images, saved or failed, per second of wall-clock time."""
        return self.images / self.wall_seconds if self.wall_seconds else 0.0

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the Outcomes of the whole run in the order of the URL list. One manifest is in memory at a time.

        Raises:
            CommandError: a manifest is missing or damaged.
        """
        store = open_output(parse_location(self.out))
        for shard in range(self.summary.shards):
            yield from manifest.outcomes(load_manifest(shard, store, self.run_id, None))

    def totals(self) -> dict[str, Any]:
        """Return the figures of ``--json`` and ``run.json``."""
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
            "fetched_bytes": self.fetched_bytes,
            "repaired": self.repaired,
            "unfit_workers": {worker.name: worker.why for worker in self.unfit},
            "hosts": [asdict(host) for host in self.hosts],
        }
