"""Show the progress of a command: as a bar on a terminal, as a line every few seconds elsewhere, or not at all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

#: Seconds between two printed lines if there is no terminal.
_LINE_INTERVAL_SECONDS = 5.0
#: Seconds over which the images per second are averaged.
_RATE_SECONDS = 10.0


@dataclass(slots=True)
class _Clock:
    """The time at which a bar was first shown, and samples of its number of ended images.

    Times are in seconds of the monotonic clock.
    """

    started: float
    samples: deque[tuple[float, int]] = field(default_factory=deque)

    def rate(self, ended: int, now: float) -> float:
        """Record the number of ended images at this time.

        Return the images per second, averaged over the last seconds.
        """
        # If the number decreased, start measuring again. For example, it decreases when Redis is emptied.
        if self.samples and ended < self.samples[-1][1]:
            self.samples.clear()
        self.samples.append((now, ended))
        while len(self.samples) > 2 and now - self.samples[1][0] >= _RATE_SECONDS:
            self.samples.popleft()
        at, before = self.samples[0]
        return (ended - before) / (now - at) if now > at else 0.0


class _Bar(Progress):
    """Progress bars from the library rich, with lines of text below. The lines disappear with the bars."""

    lines: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, then the lines. The lines are not columns, because columns would take space from the bar."""
        yield self.make_tasks_table(self.tasks)
        for line in filter(None, self.lines):
            yield Text(line, "dim")


@dataclass(frozen=True, slots=True)
class DisplayedProgress:
    """The progress of one bar or line."""

    #: The number of ended images.
    ended: int
    #: The number of all images; None while it is unknown.
    total: int | None
    #: Further figures of the ended images.
    detail: str = ""
    #: A note for the user, shown on its own line.
    note: str = ""
    #: The number of images ended by earlier commands; the speed does not include these images.
    done_before: int = 0
    #: Whether the command ends before it reaches the total. If so, no remaining time is shown.
    ends_early: bool = False
    #: How many images wait for busy hosts. It changes often, so it is shown with the progress and not as a note.
    waiting: str = ""

    def seconds_left(self, rate: float) -> float | None:
        """Return the remaining time at this number of images per second; None if it is unknown."""
        if self.total is None or not rate or self.ends_early:
            return None
        return (self.total - self.ended) / rate


class Display:
    """Shows the number of ended images, and their total. A context manager."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        """Take the console. With ``quiet``, only announcements are shown."""
        self._console, self._quiet = console, quiet
        self._bar: _Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._clocks: dict[str, _Clock] = {}
        self._last_line = time.monotonic()
        self._note, self._announced = "", False

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            columns = ("{task.fields[percent]}", "{task.fields[count]}", "{task.fields[rate]}", "{task.fields[times]}")
            self._bar = _Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                *(TextColumn(column, justify="right") for column in columns),
                console=self._console,
                transient=True,
                expand=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar from the terminal; idempotent."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, name: str, progress: DisplayedProgress) -> None:
        """Show the progress of the bar or line with this name.

        The clock of a bar or line starts when it is first shown.
        """
        if self._quiet:
            return
        now = time.monotonic()
        clock = self._clocks.setdefault(name, _Clock(now))
        rate = clock.rate(progress.ended - progress.done_before, now)
        show = self._show_line if self._bar is None else self._show_bar
        show(name, progress, rate, now - clock.started)

    def _show_bar(self, name: str, progress: DisplayedProgress, rate: float, seconds: float) -> None:
        assert self._bar is not None
        ended, total = progress.ended, progress.total
        left = progress.seconds_left(rate)
        self._bar.lines = (progress.detail, progress.waiting, progress.note)
        fields: dict[str, Any] = {
            "percent": "" if not total else f"{ended * 100 // total}%",
            "count": f"{ended:,}" if total is None else f"{ended:,}/{total:,}",
            "rate": f"{_format_rate(rate)} images/s",
            "times": _format_duration(seconds) + ("" if not left else f", {_format_duration(left)} left"),
        }
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total, **fields)
        self._bar.update(self._tasks[name], completed=ended, total=total, **fields)

    def _show_line(self, name: str, progress: DisplayedProgress, rate: float, seconds: float) -> None:
        """Print the note when it changes, and the progress every few seconds."""
        if progress.note and progress.note != self._note:
            self._print_line(progress.note)
        self._note = progress.note
        now = time.monotonic()
        if now - self._last_line < _LINE_INTERVAL_SECONDS:
            return
        self._last_line = now
        ended, total = progress.ended, progress.total
        of_total = "" if total is None else f" of {total:,}"
        percent = f" ({ended * 100 // total}%)" if total else ""
        line = f"{name}: {ended:,}{of_total} images{percent} after {seconds:.0f} s, {_format_rate(rate)} images/s"
        if left := progress.seconds_left(rate):
            line += f", {_format_duration(left)} left"
        self._print_line(f"{line}; {progress.detail}" if progress.detail else line)
        if progress.waiting:
            self._print_line(progress.waiting)

    def announce(self, text: str) -> None:
        """Show a permanent line above the bar, even if ``quiet`` is set. Only the first announcement is shown."""
        if not self._announced:
            self._announced = True
            self._print_line(text)

    def _print_line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def show_waiting(console: Console, text: str, quiet: bool = False) -> Iterator[None]:
    """Show a text while the block runs.

    On a terminal, the text disappears at the end. Elsewhere, the text is a printed line.
    """
    if quiet:
        yield
    elif console.is_terminal:
        # Some encodings lack the characters of the usual spinner.
        with console.status(Text(text), spinner="dots" if console.encoding.startswith("utf") else "line"):
            yield
    else:
        console.print(text, highlight=False, markup=False)
        yield


def _format_rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _format_duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds: 0:01:02."""
    return str(timedelta(seconds=int(seconds)))
