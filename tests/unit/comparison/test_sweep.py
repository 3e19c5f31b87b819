"""A sweep times other numbers of threads, workers and images, and says from which length on the fleet is faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from producer.comparison.sweep import (
    LengthPoint,
    SizePoint,
    Sweep,
    SweepTimer,
    powers_of_two,
    round_numbers,
    time_threads,
    time_workers,
)
from producer.comparison.way import FLEET, ONE_BY_ONE, THREADS, Job, Way
from producer.demo import DemoServer
from producer.output.run_file import RunConfig
from producer.output.summary import Summary
from producer.runs.worker_pool import WorkerPool
from tasks.download.downloader import Downloader
from tasks.model import FetchOptions, ImageRequest
from tasks.storage.local_store import LocalStore

_DONE = Summary({"success": 12}, {}, 1, 1)


def _lengths(*times: tuple[int, float, float]) -> Sweep:
    return Sweep((), (), tuple(LengthPoint(*time) for time in times))


@pytest.mark.parametrize(
    ("sweep", "images"),
    [
        (_lengths((10, 0.1, 0.2), (30, 0.3, 0.2), (50, 0.5, 0.3)), 30),
        (_lengths((10, 0.2, 0.1), (30, 0.3, 0.3), (50, 0.5, 0.3)), 50),
        (_lengths((10, 0.2, 0.1), (30, 0.3, 0.4)), None),
        (_lengths((10, 0.2, 0.1), (30, 0.3, 0.1)), 10),
    ],
)
def test_fleet_leads_from_a_length(sweep: Sweep, images: int | None) -> None:
    """The fleet leads from the first length after which it is faster at every length."""
    assert sweep.fleet_leads_from == images
    assert sweep.to_json()["fleet_leads_from"] == images


def test_measured_sizes() -> None:
    """Lengths and sizes grow in steps that a logarithmic axis shows at equal distances."""
    assert list(round_numbers(10)) == []
    assert list(round_numbers(1001)) == [10, 30, 100, 300, 1000]
    assert list(powers_of_two(2, 12)) == [2, 4, 8]
    assert list(powers_of_two(1, 1)) == []


def test_threads_are_timed(demo: DemoServer, downloader: Downloader, tmp_path: Path) -> None:
    """Each number of threads is timed, and the images are removed. The first and last time are the comparison's."""
    requests = [ImageRequest(index, f"{demo.url}/images/{index}.png?width=40") for index in range(12)]
    job = Job(requests, "list", LocalStore(tmp_path / "unused"), RunConfig(FetchOptions(retries=0)))
    reported: list[int] = []
    timer = SweepTimer(job, tmp_path / "sweep", downloader, reported.append)
    ways = [
        Way(ONE_BY_ONE, 1, 3.0, _DONE, tmp_path),
        Way(THREADS, 6, 0.5, _DONE, tmp_path),
        Way(FLEET, 32, 0.4, _DONE, tmp_path),
    ]
    points = list(time_threads(timer, ways))
    assert [point.slots for point in points] == [1, 2, 4, 6]
    assert (points[0].wall_seconds, points[-1].wall_seconds) == (3.0, 0.5)
    assert all(point.wall_seconds > 0 for point in points)
    # Repetitions are not reported.
    assert reported == [*range(13), *range(12, 25)]
    assert list(tmp_path.iterdir()) == []


class _FixedTimer(SweepTimer):
    """A timer for which each fleet takes a second divided by its slots."""

    def time_fleet(self, pool: WorkerPool, images: int | None = None) -> Way:
        """Return a result without a download."""
        return Way(FLEET, pool.slots, 1 / pool.slots, _DONE, Path(), workers=pool.workers)


def test_workers_are_timed(downloader: Downloader, tmp_path: Path) -> None:
    """A fleet is started for each number of workers. Without a way to start fleets, there is only the comparison's."""
    started: list[int] = []

    @contextmanager
    def start(workers: int) -> Iterator[WorkerPool]:
        started.append(workers)
        yield WorkerPool("", workers, 4 * workers, 0.0, lambda: None, local=True)

    job = Job([], "list", LocalStore(tmp_path), RunConfig())
    timer = _FixedTimer(job, tmp_path, downloader, lambda _: None)
    fleet = Way(FLEET, 12, 0.05, _DONE, tmp_path, workers=3)
    assert list(time_workers(timer, fleet, start)) == [
        SizePoint(4, 0.25, 1),
        SizePoint(8, 0.125, 2),
        SizePoint(12, 0.05, 3),
    ]
    assert started == [1, 2]
    assert list(time_workers(timer, fleet, None)) == [SizePoint(12, 0.05, 3)]
