"""What a person sees while a command goes on: a bar that fits 80 columns, lines elsewhere, and notes of their own."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from producer import live
from producer.live import Display, waiting

_ERASED = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Watch:
    """A clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """The display's clock."""
    watch = Watch()
    monkeypatch.setattr(live, "time", watch)
    return watch


def console(terminal: bool, width: int = 80) -> Console:
    """A console that keeps what is written to it."""
    return Console(file=io.StringIO(), force_terminal=terminal, width=width)


def written(screen: Console) -> list[str]:
    """The lines that were written, without the commands to a terminal."""
    assert isinstance(screen.file, io.StringIO)
    return [line.rstrip() for line in _ERASED.sub("", screen.file.getvalue()).replace("\r", "\n").split("\n")]


def shown(display: Display) -> list[str]:
    """The lines that a terminal of 80 columns shows of the bar now."""
    assert display._bar is not None
    # The bar's own console would show it twice.
    screen = console(terminal=True)
    screen.print(display._bar.get_renderable())
    return [line for line in written(screen) if line]


def test_bar_fits_80_columns(watch: Watch) -> None:
    """Percentage, counts, speed, time and time left stand on one line; details and a note have lines of their own."""
    screen = console(terminal=True)
    with Display(screen) as display:
        display.show("one by one", 0, 10_000_000)
        watch.now += 3700
        note = "waiting for 2 images; 2 workers respond"
        display.show("one by one", 1_234_567, 10_000_000, "12.3 MiB, 3 failed", note)
        bar, detail, told = shown(display)
    assert re.fullmatch(r"one by one +\S+ 12% 1,234,567/10,000,000 334 images/s 1:01:40, 7:17:\d\d left", bar), bar
    assert (detail, told) == ("12.3 MiB, 3 failed", note)


def test_bar_without_a_total(watch: Watch) -> None:
    """While a list is still being read there is no percentage and no time left."""
    screen = console(terminal=True)
    with Display(screen) as display:
        display.show("images", 0, None)
        watch.now += 10
        display.show("images", 50, None)
        (bar,) = shown(display)
    assert re.fullmatch(r"images +\S+ +50 5\.0 images/s 0:00:10", bar), bar


def test_bar_is_gone_at_the_end(watch: Watch) -> None:
    """No stale bar stays, and an announcement has a line of its own that does, once."""
    screen = console(terminal=True)
    with Display(screen) as display:
        display.show("images", 1, 10, "detail", "note")
        display.announce("Finishing 3 images.")
        display.announce("Finishing 2 images.")
    assert isinstance(screen.file, io.StringIO)
    # Each line of the bar is erased: a line up, and its text removed.
    assert screen.file.getvalue().endswith("\x1b[1A\x1b[2K" * 3)
    assert "Finishing 3 images." in written(screen)
    assert "Finishing 2 images." not in written(screen)


def test_each_way_has_a_clock_of_its_own(watch: Watch) -> None:
    """What is shown second counts its own time, and its own speed."""
    screen = console(terminal=False)
    with Display(screen) as display:
        display.show("one by one", 0, 100)
        watch.now += 60
        display.show("one by one", 100, 100)
        display.show("threads", 0, 100)
        watch.now += 10
        display.show("threads", 50, 100, "50 KiB")
    lines = [line for line in written(screen) if line]
    assert lines == [
        "one by one: 100 of 100 images (100%) after 60 s, 1.7 images/s",
        "threads: 50 of 100 images (50%) after 10 s, 5.0 images/s, 0:00:10 left; 50 KiB",
    ]


def test_note_is_a_line_where_there_is_no_terminal(watch: Watch) -> None:
    """A note is told when it changes, and does not take the counts' place."""
    screen = console(terminal=False)
    with Display(screen) as display:
        for note in ("", "waiting", "waiting", "", "waiting"):
            display.show("images", 7, 10, "detail", note)
        watch.now += 5
        display.show("images", 7, 10, "detail", "waiting")
    lines = [line for line in written(screen) if line]
    assert lines == ["waiting", "waiting", "images: 7 of 10 images (70%) after 5 s, 0.0 images/s; detail"]


def test_speed_is_of_this_command(watch: Watch) -> None:
    """Images of an earlier command count as ended, and not as fast."""
    screen = console(terminal=False)
    with Display(screen) as display:
        display.show("images", 0, 1000)
        watch.now += 5
        display.show("images", 510, 1000, done_before=500)
    assert "images: 510 of 1,000 images (51%) after 5 s, 2.0 images/s, 0:04:05 left" in written(screen)


def test_early_end_has_no_time_left(watch: Watch) -> None:
    """Who ends a run early is not told how long the rest would take."""
    screen = console(terminal=False)
    with Display(screen) as display:
        display.show("images", 0, 1000)
        watch.now += 5
        display.show("images", 10, 1000, ends_early=True)
    assert "images: 10 of 1,000 images (1%) after 5 s, 2.0 images/s" in written(screen)


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (False, False), (False, True)])
def test_start_of_a_fleet_is_shown(terminal: bool, quiet: bool) -> None:
    """The seconds while workers start say so: on a terminal for as long as they last, elsewhere as a line."""
    screen = console(terminal)
    with waiting(screen, "Starting 2 workers", quiet):
        pass
    assert any("Starting 2 workers" in line for line in written(screen)) is not quiet
    assert isinstance(screen.file, io.StringIO)
    assert not terminal or screen.file.getvalue().endswith("\x1b[2K")
