"""Download a URL list in three ways (one by one, threads, fleet), each to its own folder, and time them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from producer.comparison.sweep import Sweep
from producer.comparison.way import (
    FLEET,
    ONE_BY_ONE,
    THREADS,
    Job,
    Way,
    run_one_by_one,
    run_with_fleet,
    run_with_threads,
)
from producer.output.run_file import RunConfig, RunFile
from producer.runs.worker_pool import WorkerPool
from producer.sources import url_list
from tasks.download.downloader import Downloader
from tasks.model import ImageRequest
from tasks.storage.local_store import LocalStore

#: Called with the name of the current way to download, and the number of images that it has finished. The first call
#: reports 0 images.
Listener = Callable[[str, int], None]

#: The name of each way's folder.
FOLDERS = {ONE_BY_ONE: "one-by-one", THREADS: "threads", FLEET: "fleet"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of the three ways to download, in the order in which they ran."""

    source: str
    ways: tuple[Way, ...]
    startup_seconds: float
    #: The times of other numbers of threads, workers and images, if they were measured.
    sweep: Sweep | None = None

    def way(self, name: str) -> Way:
        """Return the result of a way."""
        return next(way for way in self.ways if way.name == name)

    def speedup(self, way: Way) -> float:
        """Return how many times as fast as one-by-one downloading a way is."""
        return self.ways[0].wall_seconds / way.wall_seconds if way.wall_seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON types."""
        facts = {
            "source": url_list.shown(self.source),
            "startup_seconds": round(self.startup_seconds, 3),
            "ways": [self._way_to_json(way) for way in self.ways],
        }
        return facts if self.sweep is None else {**facts, "sweep": self.sweep.to_json()}

    def _way_to_json(self, way: Way) -> dict[str, Any]:
        shares = way.time_shares
        return {
            "name": way.name,
            "slots": way.slots,
            "wall_seconds": round(way.wall_seconds, 3),
            "before_seconds": None if shares is None else round(shares.before, 3),
            "after_seconds": None if shares is None else round(shares.after, 3),
            "images_per_second": round(way.images_per_second, 2),
            "speedup": round(self.speedup(way), 2),
            "total": way.summary.total,
            "success": way.summary.success,
            "failed": way.summary.failed,
            "reasons": way.summary.reasons,
            "bytes": way.summary.bytes,
            "out": str(way.out),
        }


def stores(root: Path) -> dict[str, LocalStore]:
    """Map the names of the three ways to download to their Stores, which are below the given folder.

    Raises:
        UsageError: a folder holds a run.
    """
    found = {name: LocalStore(root / folder) for name, folder in FOLDERS.items()}
    for store in found.values():
        RunFile.check_no_run(store)
    return found


@dataclass(frozen=True, slots=True)
class ComparedList:
    """The list to download (its requests and its name), the output folder of each way to download, and the options."""

    requests: Sequence[ImageRequest]
    source: str
    places: dict[str, LocalStore]
    options: RunConfig

    def job(self, way: str) -> Job:
        """Return the work of a way."""
        return Job(self.requests, self.source, self.places[way], self.options)


def compare(
    compared: ComparedList, threads: int, downloader: Downloader, pool: WorkerPool, listener: Listener
) -> Comparison:
    """Download the list in the three ways, one after another.

    Args:
        compared: the list, with its folders and options.
        threads: the number of threads for the download with threads.
        downloader: downloads the images of the first two ways.
        pool: the workers of the fleet.
        listener: called with the progress.

    Raises:
        CommandError: one of the ways failed completely.
    """
    ways = (
        run_one_by_one(compared.job(ONE_BY_ONE), downloader, partial(listener, ONE_BY_ONE)),
        run_with_threads(compared.job(THREADS), threads, downloader, partial(listener, THREADS)),
        run_with_fleet(compared.job(FLEET), pool, partial(listener, FLEET)),
    )
    return Comparison(compared.source, ways, pool.startup_seconds)
