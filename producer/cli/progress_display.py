"""Show the progress of a run: as rows on a terminal, as a line every few seconds elsewhere, or not at all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live

from producer.cli import json_log
from producer.cli.console import print_line
from producer.cli.render_progress import ProgressView, describe_note, host_lines, progress_line

if TYPE_CHECKING:
    from producer.dispatch.progress import Progress

#: Seconds between two printed lines if there is no terminal.
LINE_INTERVAL_SECONDS = 5.0
#: Seconds between two updates on a terminal. The run reports its progress about as often.
_UPDATE_INTERVAL_SECONDS = 0.24


class Display:
    """Shows the progress of one run. A context manager."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        """Take the console. With ``quiet``, only announcements are shown."""
        self._console, self._quiet = console, quiet
        self._live: Live | None = None
        self._updated_at, self._last_line = 0.0, time.monotonic()
        self._note, self._announced = "", False

    def __enter__(self) -> Self:
        # On a terminal without commands (TERM=dumb), nothing could be erased.
        if not self._quiet and self._console.is_interactive and not json_log.is_on():
            # Without the library's own thread, the display changes only with the progress.
            self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress, head: Sequence[tuple[str, str]] = ()) -> None:
        """Show a progress, unless the last one was shown just now.

        Args:
            progress: the progress.
            head: rows about the run, which only a terminal shows above the progress.
        """
        if self._quiet:
            return
        now = time.monotonic()
        if self._live is None:
            self._show_line(progress, now)
        elif now - self._updated_at >= _UPDATE_INTERVAL_SECONDS:
            self._updated_at = now
            self._live.update(ProgressView(progress, head), refresh=True)

    def _show_line(self, progress: Progress, now: float) -> None:
        """Print the note when it changes, and the progress every few seconds."""
        note = describe_note(progress)
        if note and note != self._note:
            self._print_line(note)
        self._note = note
        if now - self._last_line < LINE_INTERVAL_SECONDS:
            return
        self._last_line = now
        if json_log.is_on():
            facts = {"event": "progress", "ended": progress.ended, **asdict(progress)}
            json_log.write("info", progress_line(progress), **facts)
            return
        for line in (progress_line(progress), *host_lines(progress)):
            self._print_line(line)

    def announce(self, text: str) -> None:
        """Show a permanent line above the progress, even if ``quiet`` is set. Only the first announcement is shown."""
        if not self._announced:
            self._announced = True
            self._print_line(text)

    def _print_line(self, text: str) -> None:
        print_line(self._console, text)
