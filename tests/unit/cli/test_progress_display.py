"""Progress is a bar of 80 columns on a terminal, and lines elsewhere. Notes are on their own lines."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from producer.cli import progress_display
from producer.cli.progress_display import Display, DisplayedProgress, show_waiting

_ERASED = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Watch:
    """Replace the clock with one that the test sets."""

    now = 100.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Return the display's clock."""
    watch = Watch()
    monkeypatch.setattr(progress_display, "time", watch)
    return watch


def console(terminal: bool, width: int = 80) -> Console:
    """Return a console that records its output."""
    return Console(file=io.StringIO(), force_terminal=terminal, width=width)


def written_lines(screen: Console) -> list[str]:
    """Return the written lines without terminal commands."""
    assert isinstance(screen.file, io.StringIO)
    return [line.rstrip() for line in _ERASED.sub("", screen.file.getvalue()).replace("\r", "\n").split("\n")]


def bar_lines(display: Display) -> list[str]:
    """Return the lines of the bar on a terminal of 80 columns."""
    assert display._bar is not None
    # Print on another console, because the bar's own console would show the text twice.
    screen = console(terminal=True)
    screen.print(display._bar.get_renderable())
    return [line for line in written_lines(screen) if line]


def test_bar_fits_80_columns(watch: Watch) -> None:
    """Percentage, counts, speed, elapsed time and remaining time are on one line.

    Details and a note have their own lines.
    """
    screen = console(terminal=True)
    with Display(screen) as display:
        display.show("one by one", DisplayedProgress(0, 10_000_000))
        watch.now += 3700
        note = "waiting for 2 images; 2 workers respond"
        display.show("one by one", DisplayedProgress(1_234_567, 10_000_000, "12.3 MiB, 3 failed", note))
        bar, detail, shown_note = bar_lines(display)
    assert re.fullmatch(r"one by one +\S+ 12% 1,234,567/10,000,000 334 images/s 1:01:40, 7:17:\d\d left", bar), bar
    assert (detail, shown_note) == ("12.3 MiB, 3 failed", note)


def test_bar_without_a_total(watch: Watch) -> None:
    """While the list is still being read, there is no percentage and no time left."""
    screen = console(terminal=True)
    with Display(screen) as display:
        display.show("images", DisplayedProgress(0, None))
        watch.now += 10
        display.show("images", DisplayedProgress(50, None))
        (bar,) = bar_lines(display)
    assert re.fullmatch(r"images +\S+ +50 5\.0 images/s 0:00:10", bar), bar


def test_bar_is_gone_at_the_end(watch: Watch) -> None:
    """The bar is erased at the end. An announcement is shown once, and stays on its own line."""
    screen = console(terminal=True)
    with Display(screen) as display:
        display.show("images", DisplayedProgress(1, 10, "detail", "note"))
        display.announce("Finishing 3 images.")
        display.announce("Finishing 2 images.")
    assert isinstance(screen.file, io.StringIO)
    # For each line of the bar: move up one line, and erase it.
    assert screen.file.getvalue().endswith("\x1b[1A\x1b[2K" * 3)
    assert "Finishing 3 images." in written_lines(screen)
    assert "Finishing 2 images." not in written_lines(screen)


def test_each_way_has_a_clock_of_its_own(watch: Watch) -> None:
    """The bar shows a separate time and speed for the second way of a comparison."""
    screen = console(terminal=False)
    with Display(screen) as display:
        display.show("one by one", DisplayedProgress(0, 100))
        watch.now += 60
        display.show("one by one", DisplayedProgress(100, 100))
        display.show("threads", DisplayedProgress(0, 100))
        watch.now += 10
        display.show("threads", DisplayedProgress(50, 100, "50 KiB"))
    lines = [line for line in written_lines(screen) if line]
    assert lines == [
        "one by one: 100 of 100 images (100%) after 60 s, 1.7 images/s",
        "threads: 50 of 100 images (50%) after 10 s, 5.0 images/s, 0:00:10 left; 50 KiB",
    ]


def test_note_is_a_line_without_a_terminal(watch: Watch) -> None:
    """When a note changes, it is printed beside the counts."""
    screen = console(terminal=False)
    with Display(screen) as display:
        for note in ("", "waiting", "waiting", "", "waiting"):
            display.show("images", DisplayedProgress(7, 10, "detail", note))
        watch.now += 5
        display.show("images", DisplayedProgress(7, 10, "detail", "waiting"))
    lines = [line for line in written_lines(screen) if line]
    assert lines == ["waiting", "waiting", "images: 7 of 10 images (70%) after 5 s, 0.0 images/s; detail"]


def test_speed_leaves_out_earlier_images(watch: Watch) -> None:
    """Images of an earlier command count as done, but the speed leaves them out."""
    screen = console(terminal=False)
    with Display(screen) as display:
        display.show("images", DisplayedProgress(0, 1000))
        watch.now += 5
        display.show("images", DisplayedProgress(510, 1000, done_before=500))
    assert "images: 510 of 1,000 images (51%) after 5 s, 2.0 images/s, 0:04:05 left" in written_lines(screen)


def test_early_end_has_no_time_left(watch: Watch) -> None:
    """If a run ends early, no remaining time is shown."""
    screen = console(terminal=False)
    with Display(screen) as display:
        display.show("images", DisplayedProgress(0, 1000))
        watch.now += 5
        display.show("images", DisplayedProgress(10, 1000, ends_early=True))
    assert "images: 10 of 1,000 images (1%) after 5 s, 2.0 images/s" in written_lines(screen)


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (False, False), (False, True)])
def test_start_of_a_fleet_is_shown(terminal: bool, quiet: bool) -> None:
    """A terminal shows a note until the workers have started. If there is no terminal, a line is printed."""
    screen = console(terminal)
    with show_waiting(screen, "Starting 2 workers", quiet):
        pass
    assert any("Starting 2 workers" in line for line in written_lines(screen)) is not quiet
    assert isinstance(screen.file, io.StringIO)
    assert not terminal or screen.file.getvalue().endswith("\x1b[2K")


def test_waiting_images_have_their_own_line(watch: Watch) -> None:
    """The line about waiting images is below the bar. Without a terminal, it is printed with the progress."""
    progress = DisplayedProgress(1, 10, "detail", "note", waiting="8 images wait for a.example")
    with Display(console(terminal=True)) as display:
        display.show("images", progress)
        assert bar_lines(display)[1:] == ["detail", "8 images wait for a.example", "note"]
    screen = console(terminal=False)
    with Display(screen) as display:
        display.show("images", progress)
        watch.now += 5
        display.show("images", progress)
    lines = [line for line in written_lines(screen) if line]
    assert lines[0] == "note"
    assert lines[1].startswith("images: 1 of 10 images")
    assert lines[2:] == ["8 images wait for a.example"]
