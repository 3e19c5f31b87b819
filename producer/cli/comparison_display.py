"""Show the progress of a comparison: a bar for each way on a terminal, a line every few seconds elsewhere, or nothing.

The ways run one after another, and the bars of finished ways stay until the end.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from producer.cli import json_log
from producer.cli.console import print_line
from producer.cli.progress_display import LINE_INTERVAL_SECONDS
from producer.dispatch.speed_meter import SpeedMeter
from producer.formatting import format_duration, format_rate


class ComparisonDisplay:
    """Shows how many images each way has finished. A context manager."""

    def __init__(self, console: Console, total: int, quiet: bool = False) -> None:
        """Take the console and the number of images. With ``quiet``, nothing is shown."""
        self._console, self._total, self._quiet = console, total, quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        #: The time at which each way was first shown, in seconds of the monotonic clock, and its speed.
        self._started: dict[str, tuple[float, SpeedMeter]] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_interactive and not json_log.is_on():
            columns = ("{task.fields[percent]}", "{task.fields[count]}", "{task.fields[rate]}", "{task.fields[times]}")
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                *(TextColumn(column, justify="right") for column in columns),
                console=self._console,
                refresh_per_second=4,
                transient=True,
                expand=True,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bars from the terminal; idempotent."""
        if self._bars is not None:
            self._bars.stop()

    def show(self, way: str, ended: int, total: int | None = None) -> None:
        """Show how many images a way has finished. The clock of a way starts when it is first shown.

        Args:
            way: the way's name.
            ended: the number of finished images.
            total: the number of all images of this way; None for the number of the whole comparison.
        """
        if self._quiet:
            return
        total = total or self._total
        now = time.monotonic()
        started, meter = self._started.setdefault(way, (now, SpeedMeter()))
        speed = meter.measure(ended, 0, started, total - ended)
        rate, seconds, left = f"{format_rate(speed.images_per_second)} images/s", now - started, speed.seconds_left
        if self._bars is not None:
            fields: dict[str, Any] = {
                "percent": f"{ended * 100 // total}%",
                "count": f"{ended:,}/{total:,}",
                "rate": rate,
                "times": format_duration(seconds) + (f", {format_duration(left)} left" if left else ""),
            }
            if way not in self._tasks:
                self._tasks[way] = self._bars.add_task(way, total=total, **fields)
            self._bars.update(self._tasks[way], completed=ended, **fields)
        elif now - self._last_line >= LINE_INTERVAL_SECONDS:
            self._last_line = now
            percent = ended * 100 // total
            line = f"{way}: {ended:,} of {total:,} images ({percent}%) after {seconds:.0f} s, {rate}"
            print_line(self._console, f"{line}, {format_duration(left)} left" if left else line)
