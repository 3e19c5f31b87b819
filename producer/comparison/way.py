"""One way to download a list: one by one, with threads, or with a fleet. It is run and timed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import time
from typing import Any

from producer.comparison import baseline, downloads
from producer.comparison.downloads import Download, TimeShares, divide_time, read_downloads
from producer.output.run_file import RunConfig
from producer.output.summary import COLUMNS, Summary, summarise
from producer.runs.run import Run
from producer.runs.worker_pool import WorkerPool
from tasks.download.downloader import Downloader
from tasks.model import ImageRequest, RunOptions
from tasks.storage import manifest
from tasks.storage.local_store import LocalStore

ONE_BY_ONE, THREADS, FLEET = "one by one", "threads", "fleet"

#: Called with the number of images that the current way has finished. The first call reports 0 images.
Listener = Callable[[int], None]
_COLUMNS = list(dict.fromkeys([*COLUMNS, *downloads.COLUMNS]))


@dataclass(frozen=True, slots=True)
class Job:
    """A list to download (its requests and its name), the output folder, and the options."""

    requests: Sequence[ImageRequest]
    source: str
    store: LocalStore
    options: RunConfig


@dataclass(frozen=True, slots=True)
class Way:
    """The result of one way to download; ``slots`` is the number of its concurrent downloads."""

    name: str
    slots: int
    wall_seconds: float
    summary: Summary
    out: Path
    #: The downloads in the order of their ends.
    downloads: Sequence[Download] = ()
    #: The number of workers of a fleet.
    workers: int = 0

    @property
    def images_per_second(self) -> float:
        """Finished images, saved or failed, per second of wall-clock time."""
        return self.summary.total / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def time_shares(self) -> TimeShares | None:
        """The parts of the wall-clock time, or None if they are unknown."""
        return divide_time(self.downloads, self.wall_seconds)


def run_one_by_one(job: Job, downloader: Downloader, listener: Listener) -> Way:
    """Download the images of a list one by one.

    Raises:
        CommandError: the folder can't be written.
    """
    return _run_baseline(ONE_BY_ONE, 1, partial(baseline.download_one_by_one, job.requests), job, downloader, listener)


def run_with_threads(job: Job, threads: int, downloader: Downloader, listener: Listener) -> Way:
    """Download the images of a list with up to ``threads`` threads.

    Raises:
        CommandError: the folder can't be written.
    """
    step = partial(baseline.download_with_threads, job.requests, threads=threads)
    return _run_baseline(THREADS, min(threads, len(job.requests)), step, job, downloader, listener)


def run_with_fleet(job: Job, pool: WorkerPool, listener: Listener) -> Way:
    """Download the images of a list with a fleet.

    Raises:
        CommandError: the run can't continue.
    """
    job.store.root.mkdir(parents=True, exist_ok=True)
    listener(0)
    with Run.begin(iter(job.requests), job.source, job.store, job.options) as fleet:
        result = fleet.execute(pool, lambda progress: listener(progress.ended))
    found = read_downloads(_manifests(job), result.started_at)
    return Way(FLEET, pool.slots, result.wall_seconds, result.summary, Path(result.out), found, pool.workers)


def _run_baseline(
    name: str, slots: int, step: Callable[..., float], job: Job, downloader: Downloader, listener: Listener
) -> Way:
    job.store.root.mkdir(parents=True, exist_ok=True)
    run = RunOptions(str(job.store.root), job.options.shard_size, job.options.fetch)
    listener(0)
    count = _Counter(listener)
    started_at = time()
    seconds = step(run=run, store=job.store, downloader=downloader, listener=count.add)
    manifests = list(_manifests(job))
    return Way(name, slots, seconds, summarise(manifests), job.store.root, read_downloads(manifests, started_at))


def _manifests(job: Job) -> Iterator[Any]:
    for shard in range(-(-len(job.requests) // job.options.shard_size)):
        yield manifest.decode(job.store.read(manifest.name(shard)), _COLUMNS)


class _Counter:
    def __init__(self, listener: Listener) -> None:
        self._listener, self._count = listener, 0

    def add(self, _: object) -> None:
        self._count += 1
        self._listener(self._count)
