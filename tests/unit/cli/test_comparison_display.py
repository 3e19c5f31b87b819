"""The progress of a comparison: a bar for each way on a terminal, and lines elsewhere."""

from __future__ import annotations

import re

import pytest

from producer.cli import comparison_display
from producer.cli.comparison_display import ComparisonDisplay
from producer.dispatch import speed_meter
from tests.unit.cli.test_progress_display import Watch, console, written_lines


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Return the clock of the display and of the speed."""
    watch = Watch()
    for module in (comparison_display, speed_meter):
        monkeypatch.setattr(module, "time", watch)
    return watch


def test_bar_fits_80_columns(watch: Watch) -> None:
    """Percentage, counts, speed, elapsed time and remaining time are on one line."""
    with ComparisonDisplay(console(terminal=True), 10_000_000) as display:
        display.show("one by one", 0)
        watch.now += 9
        display.show("one by one", 3000)
        assert display._bars is not None
        # Print on another console, because the bar's own console would show the text twice.
        screen = console(terminal=True)
        screen.print(display._bars.get_renderable())
    (bar,) = written_lines(screen)
    assert re.fullmatch(r"one by one +\S+ 0% 3,000/10,000,000 333 images/s 0:00:09, 8:19:51 left", bar), bar


def test_each_way_has_a_clock_of_its_own(watch: Watch) -> None:
    """A line shows a separate time and speed for the second way of a comparison."""
    screen = console(terminal=False)
    with ComparisonDisplay(screen, 100) as display:
        display.show("one by one", 0)
        watch.now += 8
        display.show("one by one", 100)
        display.show("threads", 0)
        watch.now += 5
        display.show("threads", 50)
    assert written_lines(screen) == [
        "one by one: 100 of 100 images (100%) after 8 s, 12.5 images/s",
        "threads: 50 of 100 images (50%) after 5 s, 10.0 images/s, 0:00:05 left",
    ]


def test_quiet_comparison_shows_nothing(watch: Watch) -> None:
    """With ``quiet``, no progress is shown."""
    screen = console(terminal=True)
    with ComparisonDisplay(screen, 100, quiet=True) as display:
        watch.now += 60
        display.show("threads", 5)
    assert written_lines(screen) == []
