"""Time further downloads of a list: with other numbers of threads and workers, and shorter parts of the list."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from itertools import count, takewhile
from pathlib import Path
from statistics import median
from typing import Any

from producer.comparison.way import FLEET, THREADS, Job, Listener, Way, run_with_fleet, run_with_threads
from producer.runs.worker_pool import WorkerPool
from tasks.download.downloader import Downloader
from tasks.storage.local_store import LocalStore

#: A short download is repeated up to this many times, as long as all repetitions together are shorter than the seconds.
_REPETITIONS, _REPEATED_SECONDS = 5, 2.0

#: Starts a fleet with a number of workers for the duration of a block.
FleetStarter = Callable[[int], AbstractContextManager[WorkerPool]]


@dataclass(frozen=True, slots=True)
class SizePoint:
    """The time of a way with a number of downloads at once. A fleet also has a number of workers."""

    slots: int
    wall_seconds: float
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class LengthPoint:
    """The times of the first images of the list, in seconds."""

    images: int
    threads_seconds: float
    fleet_seconds: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """The measured times, from small to large."""

    threads: tuple[SizePoint, ...]
    workers: tuple[SizePoint, ...]
    lengths: tuple[LengthPoint, ...]

    @property
    def fleet_leads_from(self) -> int | None:
        """The least measured number of images from which on the fleet was faster at every length; None if none."""
        leads = None
        for point in reversed(self.lengths):
            if point.fleet_seconds >= point.threads_seconds:
                break
            leads = point.images
        return leads

    def to_json(self) -> dict[str, Any]:
        """Return the times as JSON types."""
        return {
            "threads": [_rounded(point) for point in self.threads],
            "workers": [_rounded(point) for point in self.workers],
            "lengths": [_rounded(point) for point in self.lengths],
            "fleet_leads_from": self.fleet_leads_from,
        }


class SweepTimer:
    """Times downloads. The images go to a folder that is emptied after each download."""

    def __init__(self, job: Job, folder: Path, downloader: Downloader, listener: Listener) -> None:
        """Prepare a sweep.

        Args:
            job: the list and its options.
            folder: the folder for the images. It does not exist yet.
            downloader: downloads the images of the threads.
            listener: called with the number of images downloaded so far, over all downloads but the repetitions.
        """
        self._job, self._folder, self._downloader, self._listener = job, folder, downloader, listener
        self._finished = 0

    def time_threads(self, threads: int, images: int | None = None) -> Way:
        """Return the result of a download with threads."""
        return self._time(lambda job, listener: run_with_threads(job, threads, self._downloader, listener), images)

    def time_fleet(self, pool: WorkerPool, images: int | None = None) -> Way:
        """Return the result of a download with a fleet."""
        return self._time(lambda job, listener: run_with_fleet(job, pool, listener), images)

    def _time(self, run: Callable[[Job, Listener], Way], images: int | None) -> Way:
        requests = self._job.requests[:images]
        found: list[Way] = []
        while len(found) < _REPETITIONS and sum(way.wall_seconds for way in found) < _REPEATED_SECONDS:
            try:
                store = LocalStore(self._folder / str(len(found)))
                listener = _ignore if found else self._report
                way = run(replace(self._job, requests=requests, store=store), listener)
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)
            found.append(way)
        self._finished += len(requests)
        return replace(found[-1], wall_seconds=median(way.wall_seconds for way in found), downloads=())

    def _report(self, ended: int) -> None:
        self._listener(self._finished + ended)


def time_lengths(timer: SweepTimer, ways: Sequence[Way], pool: WorkerPool) -> Iterator[LengthPoint]:
    """Yield the times of the first 10, 30, 100, … images of the list, and of the whole list.

    Args:
        timer: times the downloads.
        ways: the results for the whole list.
        pool: the workers of the fleet.
    """
    threads, fleet = (next(way for way in ways if way.name == name) for name in (THREADS, FLEET))
    for images in round_numbers(threads.summary.total):
        yield LengthPoint(
            images,
            timer.time_threads(threads.slots, images).wall_seconds,
            timer.time_fleet(pool, images).wall_seconds,
        )
    yield LengthPoint(threads.summary.total, threads.wall_seconds, fleet.wall_seconds)


def time_threads(timer: SweepTimer, ways: Sequence[Way]) -> Iterator[SizePoint]:
    """Yield the times with 1, 2, 4, … threads, up to the number of threads of the comparison."""
    one_by_one, threads, _ = ways
    yield SizePoint(1, one_by_one.wall_seconds)
    for number in powers_of_two(2, threads.slots):
        yield SizePoint(number, timer.time_threads(number).wall_seconds)
    if threads.slots > 1:
        yield SizePoint(threads.slots, threads.wall_seconds)


def time_workers(timer: SweepTimer, fleet: Way, start: FleetStarter | None) -> Iterator[SizePoint]:
    """Yield the times with fleets of 1, 2, 4, … workers, up to the number of workers of the comparison's fleet.

    Without a way to start fleets, yield only the time of the comparison's fleet.
    """
    if start is not None:
        for number in powers_of_two(1, fleet.workers):
            with start(number) as pool:
                yield SizePoint(pool.slots, timer.time_fleet(pool).wall_seconds, number)
    yield SizePoint(fleet.slots, fleet.wall_seconds, fleet.workers)


def round_numbers(end: int) -> Iterator[int]:
    """Return 10, 30, 100, 300, … below a number."""
    numbers = (factor * 10**power for power in count(1) for factor in (1, 3))
    return takewhile(lambda number: number < end, numbers)


def powers_of_two(start: int, end: int) -> Iterator[int]:
    """Return a power of two and the next ones, below a number."""
    return takewhile(lambda number: number < end, (start * 2**power for power in count()))


def _ignore(_: int) -> None:
    """Ignore the progress of a repetition."""


def _rounded(point: SizePoint | LengthPoint) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in asdict(point).items()
        if value is not None
    }
