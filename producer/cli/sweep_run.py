"""Run the sweep of a comparison for a command: start its fleets, and show its progress."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from producer.cli.comparison_display import ComparisonDisplay
from producer.cli.console import create_console
from producer.cli.fleets import FleetRequest, get_worker_pool

if TYPE_CHECKING:
    from producer.comparison.sweep import LengthPoint, Sweep, SweepTimer
    from producer.comparison.way import Job, Way
    from producer.runs.worker_pool import WorkerPool
    from tasks.download.downloader import Downloader


@dataclass(frozen=True, slots=True)
class SweepRunner:
    """Times further downloads of a list: shorter parts of it, and other numbers of threads and workers."""

    job: Job
    #: The folder for the images. It does not exist yet, and is removed after each download.
    folder: Path
    downloader: Downloader

    def time_lengths(
        self, ways: Sequence[Way], pool: WorkerPool, display: ComparisonDisplay
    ) -> tuple[LengthPoint, ...]:
        """Return the times of shorter parts of the list, with the fleet that downloaded the whole list."""
        from producer.comparison import sweep

        total = 2 * sum(sweep.round_numbers(len(self.job.requests)))
        return tuple(sweep.time_lengths(self._timer("shorter lists", total, display), ways, pool))

    def time_sizes(
        self, ways: Sequence[Way], lengths: tuple[LengthPoint, ...], pool: WorkerPool, request: FleetRequest
    ) -> Sweep:
        """Return the times with other numbers of threads and workers.

        Args:
            ways: the results of the comparison.
            lengths: the times of shorter lists.
            pool: the workers of the comparison. They may have ended.
            request: the workers that the comparison needed.
        """
        from producer.comparison import sweep

        images = len(self.job.requests)
        with ComparisonDisplay(create_console(sys.stderr), images, request.quiet) as display:
            total = images * len(list(sweep.powers_of_two(2, ways[1].slots)))
            threads = tuple(sweep.time_threads(self._timer("fewer threads", total, display), ways))
            # Workers at a broker are not started here, so their number can't be changed.
            start = partial(_start_fleet, request) if pool.local else None
            timer = self._timer("fewer workers", images * len(list(sweep.powers_of_two(1, pool.workers))), display)
            workers = tuple(sweep.time_workers(timer, ways[-1], start))
        return sweep.Sweep(threads, workers, lengths)

    def _timer(self, name: str, total: int, display: ComparisonDisplay) -> SweepTimer:
        from producer.comparison import sweep

        return sweep.SweepTimer(self.job, self.folder, self.downloader, lambda ended: display.show(name, ended, total))


def _start_fleet(request: FleetRequest, workers: int) -> AbstractContextManager[WorkerPool]:
    """Return a local fleet with this number of workers, without Flower. The display above shows the progress."""
    size = replace(request.fleet, workers=workers, flower=False)
    return get_worker_pool(replace(request, fleet=size, quiet=True))
