"""The rows of a run's progress fit the terminal, at any width and with any text."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from producer.cli.render_progress import ProgressView, fitted, host_lines, progress_line
from producer.dispatch.host_report import HostCondition
from producer.dispatch.progress import FleetCondition, Progress, Speed
from tests.unit.cli.progresses import FULL, host


def rows(progress: Progress, width: int) -> list[str]:
    """Return the rows on a terminal of this width, without colours."""
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=50)
    with screen.capture() as captured:
        screen.print(ProgressView(progress))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_rows_at_80_columns() -> None:
    """The bar fills the row. The present and the average speed are in the same columns."""
    bar, *others = rows(FULL, 80)
    assert bar.startswith("images   ━━━")
    assert bar.endswith(" 62% 6,213/10,000")
    assert len(bar) == 80
    assert others == [
        "now      148 images/s   2.1 MiB/s      0:00:26 left",
        "average  151 images/s   2.2 MiB/s   0:00:42 elapsed",
        "saved    6,172 images, 92.1 MiB",
        "failed   41: 30 http_4xx, 8 timeout, 3 dns",
        "repaired 2 lost tasks, sent again",
        "fleet    4 workers online, 1 lost, 8 shards in flight",
        "waiting  212 images wait for busy hosts, most for cdn.a.example",
        "slowest  slow.b.example 2.41 s, img.c.example 0.91 s",
        "resting  cdn.a.example (given up, 0:09:00 left) and 2 more",
    ]


def test_rows_at_200_columns() -> None:
    """A wide terminal shows the same rows. The bar does not grow without end, and no text is cut."""
    narrow, wide = rows(FULL, 80), rows(FULL, 200)
    assert wide[1:-1] == narrow[1:-1]
    assert wide[-1] == "resting  cdn.a.example (given up, 0:09:00 left), d.example (rests, 0:00:12 left) and 1 more"
    assert len(wide[0]) == 119


@pytest.mark.parametrize("width", [1, 9, 10, 20, 40, 80, 200])
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    """Large numbers, long names and control characters neither widen a row nor reach the terminal."""
    hostile = host("\x1b[2Jé\u202e" + "a" * 300, HostCondition.GIVEN_UP, latency=1234.5, resting=1e9)
    progress = replace(
        FULL,
        success=123_456_789,
        failed=12_345_678,
        planned=1_000_000_000,
        done_before=5_000_000,
        reasons={f"reason_{number}": number for number in range(30)},
        busiest_host="b" * 300,
        note="Redis does not answer (\x1b]0;title\x07)",
        speed=Speed(999_999.0, 123_456.0, 9e12, 123_456.0, 9e12, 999_999.0),
        fleet=FleetCondition(1000, 3, (hostile,) * 3, 3000, (hostile,) * 3),
    )
    shown = rows(progress, width)
    assert max(map(len, shown)) <= width
    assert "".join(shown).isprintable()
    assert all(line.isprintable() for line in (progress_line(progress), *host_lines(progress)))


def test_encoding_without_the_characters_of_the_bar() -> None:
    """On an ASCII terminal, all characters are ASCII, and the bar still fits."""
    screen = Console(file=io.TextIOWrapper(io.BytesIO(), "ascii"), force_terminal=True, color_system=None, width=80)
    with screen.capture() as captured:
        screen.print(ProgressView(replace(FULL, busiest_host="a" * 60), [("list", "b" * 75 + "é" * 20)]))
    assert captured.get().isascii()
    assert all(len(line) <= 80 for line in captured.get().splitlines())


def test_list_that_is_still_read() -> None:
    """While the list is still being read, there is neither a bar nor a percentage."""
    assert (
        rows(replace(FULL, plan_complete=False), 80)[0] == "images   6,213 finished, 10,000 read from the list so far"
    )


def test_earlier_images() -> None:
    """Images of earlier commands are among all the numbers. A row says how many they are."""
    bar, *others = rows(replace(FULL, done_before=1000), 80)
    assert bar.endswith(" 62% 6,213/10,000")
    assert others[2:5] == [
        "saved    6,172 images, 92.1 MiB",
        "failed   41: 30 http_4xx, 8 timeout, 3 dns",
        "earlier  1,000 of these images were finished before this command",
    ]


def test_narrow_terminal_has_no_bar() -> None:
    """If there is no room for a bar, the percentage and the beginning of the counts stay."""
    assert rows(FULL, 30)[0] == "images   62% 6,213/10,000"
    assert rows(FULL, 20)[:2] == ["images   62% 6,213/…", "now      148 images…"]


def test_speed_without_bytes() -> None:
    """If no byte is saved, there is no column for bytes per second."""
    assert rows(replace(FULL, speed=Speed(42.4, 5.0, 0.0, 2.5, 0.0, 9.0)), 80)[1:3] == [
        "now      5.0 images/s      0:00:09 left",
        "average  2.5 images/s   0:00:42 elapsed",
    ]


def test_early_end_is_shown_as_a_note() -> None:
    """After Ctrl-C, the note says how many downloads are still going on."""
    assert rows(replace(FULL, finishing=64), 80)[-1] == "note     finishing 64 more"


def test_line_without_a_terminal() -> None:
    """The line has the same numbers."""
    assert progress_line(FULL) == (
        "images: 6,213 of 10,000 images (62%) after 42 s, 148 images/s, 2.1 MiB/s, 0:00:26 left; 92.1 MiB, 41 failed "
        "(30 of them http_4xx); 8 shards in flight, 4 workers online, 1 lost"
    )
    earlier = replace(FULL, done_before=60, plan_complete=False, speed=Speed(5.0), fleet=FleetCondition())
    assert progress_line(earlier).startswith(
        "images: 6,213 images after 5 s, 0.0 images/s, 0 B/s; 92.1 MiB, 41 failed (30 of them http_4xx), "
        "60 finished before this command; 8 shards in flight"
    )


@pytest.mark.parametrize(
    ("width", "total", "expected"),
    [(20, None, "aaa, bbb, ccc"), (13, None, "aaa, bbb, ccc"), (12, None, "aaa and 2 more"), (3, 9, "aaa and 8 more")],
)
def test_list_is_cut_to_its_width(width: int, total: int | None, expected: str) -> None:
    """At least the first item is shown, with the number of items left out."""
    assert fitted(["aaa", "bbb", "ccc"], width, total) == expected
