"""The display while a run goes on: a bar on a terminal, a line every few seconds elsewhere, or nothing."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

#: Seconds between two lines where there is no terminal.
_LINE_EVERY = 5.0


class Display:
    """Shows how many images have ended, of how many; a context manager."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        """Take where to show it; with ``quiet``, nothing is shown."""
        self._console, self._quiet = console, quiet
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the terminal; harmless when repeated."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, what: str, ended: int, total: int | None, note: str = "") -> None:
        """Show how far something is; ``total`` is None while it is not known."""
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total, note=note)
            self._bar.update(self._tasks[what], completed=ended, total=total, note=note)
        elif not self._quiet and time.monotonic() - self._last_line >= _LINE_EVERY:
            self._last_line = time.monotonic()
            of = "" if total is None else f" of {total:,}"
            line = f"{what}: {ended:,}{of} images after {self._last_line - self._started:.0f} s"
            self._console.print(f"{line}; {note}" if note else line, highlight=False)
