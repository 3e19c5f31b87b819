"""Download a URL list in three ways (one by one, threads, fleet), each to its own folder, and time them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from producer.comparison import baseline
from producer.output.run_file import RunConfig, RunFile
from producer.output.summary import COLUMNS, Summary, summarise
from producer.runs.run import Run
from producer.runs.worker_pool import WorkerPool
from producer.sources import url_list
from tasks.download.downloader import Downloader
from tasks.model import ImageRequest, RunOptions
from tasks.storage import manifest
from tasks.storage.local_store import LocalStore

#: Called with the name of the current way to download, and the number of images that it has finished. The first call
#: reports 0 images.
Listener = Callable[[str, int], None]

ONE_BY_ONE, THREADS, FLEET = "one by one", "threads", "fleet"
#: The name of each way's folder.
FOLDERS = {ONE_BY_ONE: "one-by-one", THREADS: "threads", FLEET: "fleet"}


@dataclass(frozen=True, slots=True)
class Way:
    """The result of one way to download; ``slots`` is the number of its concurrent downloads."""

    name: str
    slots: int
    wall_seconds: float
    summary: Summary
    out: Path

    @property
    def images_per_second(self) -> float:
        """Finished images, saved or failed, per second of wall-clock time."""
        return self.summary.total / self.wall_seconds if self.wall_seconds else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of the three ways to download, in the order in which they ran."""

    source: str
    ways: tuple[Way, ...]
    startup_seconds: float

    def speedup(self, way: Way) -> float:
        """Return how many times as fast as one-by-one downloading a way is."""
        return self.ways[0].wall_seconds / way.wall_seconds if way.wall_seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON types."""
        return {
            "source": url_list.shown(self.source),
            "startup_seconds": round(self.startup_seconds, 3),
            "ways": [
                {
                    "name": way.name,
                    "slots": way.slots,
                    "wall_seconds": round(way.wall_seconds, 3),
                    "images_per_second": round(way.images_per_second, 2),
                    "speedup": round(self.speedup(way), 2),
                    "total": way.summary.total,
                    "success": way.summary.success,
                    "failed": way.summary.failed,
                    "reasons": way.summary.reasons,
                    "bytes": way.summary.bytes,
                    "out": str(way.out),
                }
                for way in self.ways
            ],
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
    requests, places, options = compared.requests, compared.places, compared.options
    ways = []
    slots = {ONE_BY_ONE: 1, THREADS: min(threads, len(requests))}
    steps: dict[str, Callable[..., float]] = {
        ONE_BY_ONE: baseline.download_one_by_one,
        THREADS: partial(baseline.download_with_threads, threads=threads),
    }
    for name, step in steps.items():
        store = places[name]
        store.root.mkdir(parents=True, exist_ok=True)
        run = RunOptions(str(store.root), options.shard_size, options.fetch)
        listener(name, 0)
        ended = _Counter(name, listener)
        seconds = step(requests, run, store, downloader, ended.add)
        shards = range(-(-len(requests) // options.shard_size))
        ways.append(Way(name, slots[name], seconds, summarise(_manifests(store, shards)), store.root))
    places[FLEET].root.mkdir(parents=True, exist_ok=True)
    listener(FLEET, 0)
    with Run.begin(iter(requests), compared.source, places[FLEET], options) as fleet:
        report = fleet.execute(pool, lambda progress: listener(FLEET, progress.success + progress.failed))
    ways.append(Way(FLEET, pool.slots, report.wall_seconds, report.summary, Path(report.out)))
    return Comparison(compared.source, tuple(ways), pool.startup_seconds)


class _Counter:
    def __init__(self, name: str, listener: Listener) -> None:
        self._name, self._listener, self._count = name, listener, 0

    def add(self, _: object) -> None:
        self._count += 1
        self._listener(self._name, self._count)


def _manifests(store: LocalStore, shards: range) -> Iterator[Any]:
    for shard in shards:
        yield manifest.decode(store.read(manifest.name(shard)), COLUMNS)
