"""A comparison's chart is a valid SVG file that needs nothing else, and the same numbers give the same chart."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from producer.comparison import chart
from producer.comparison.comparison import Comparison
from producer.comparison.downloads import Download
from producer.comparison.sweep import LengthPoint, SizePoint, Sweep
from producer.comparison.way import FLEET, ONE_BY_ONE, THREADS, Way
from producer.output.summary import Summary

_SVG = "{http://www.w3.org/2000/svg}"
_HOSTILE = "worker-<script>alert(1)</script>@a&b"


def _way(name: str, slots: int, seconds: float, downloads: list[Download]) -> Way:
    ordered = sorted(downloads, key=lambda download: download.end)
    return Way(name, slots, seconds, Summary({"success": len(ordered)}, {}, 1, 1), Path("/out"), ordered, 2)


def _comparison(images: int = 10) -> Comparison:
    """Return a comparison in which each download takes 0.3 s."""
    seconds = 0.3 * images
    workers = ("worker-1@a", _HOSTILE)
    return Comparison(
        "list.txt",
        (
            _way(ONE_BY_ONE, 1, seconds + 0.01, [Download(0.3 * n, 0.3 * n + 0.29, "", True) for n in range(images)]),
            _way(THREADS, 10, seconds / 10 + 0.02, [_parallel(n, 0.01, "") for n in range(images)]),
            _way(FLEET, 32, seconds / 10 + 0.06, [_parallel(n, 0.03, workers[n % 2]) for n in range(images)]),
        ),
        1.0,
    )


def _parallel(number: int, delay: float, worker: str) -> Download:
    start = 0.3 * (number // 10) + delay
    return Download(start, start + 0.29, worker, True)


def _mixed(downloads: Sequence[Download]) -> list[Download]:
    """Return downloads by random workers, some of which fail."""
    source = random.Random(1)
    return [replace(one, worker=f"worker-{source.randrange(4)}", saved=source.random() < 0.8) for one in downloads]


def _drawn(comparison: Comparison, path: Path) -> ET.Element:
    chart.draw(comparison, path)
    return ET.fromstring(path.read_text(encoding="utf-8"))


def _texts(root: ET.Element) -> list[str | None]:
    return [text.text for text in root.iter(f"{_SVG}text")]


def test_chart_has_a_bar_for_each_download(tmp_path: Path) -> None:
    """Each way has its bars, once on the common time scale and, if it is fast, once on a scale of its own."""
    root = _drawn(_comparison(), tmp_path / "chart.svg")
    kinds = [rect.get("class") for rect in root.iter(f"{_SVG}rect")]
    assert {kind: kinds.count(kind) for kind in ("alone", "threads", "worker-0", "worker-1", "bad", "span")} == {
        "alone": 10,
        "threads": 20,
        "worker-0": 10,
        "worker-1": 10,
        "bad": 0,
        "span": 5,
    }
    shown = _texts(root)
    for text in ("10 images, three ways", "3.01 s", "10 threads of one process", "2 workers, 32 slots"):
        assert text in shown
    assert "8.4 x as fast" in shown
    assert "30.0 ms before, 40.0 ms after" in shown


def test_chart_is_reproducible(tmp_path: Path) -> None:
    """The same numbers give the same bytes: there is no date in the file."""
    for name in ("first.svg", "second.svg"):
        chart.draw(_comparison(), tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_chart_needs_no_other_file(tmp_path: Path) -> None:
    """Colours are in the file, for light and dark. Nothing is loaded, and no text of a worker becomes an element."""
    root = _drawn(_comparison(), tmp_path / "chart.svg")
    drawn = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in drawn
    assert not any(word in drawn for word in ("url(", "@import", "href", "src="))
    assert not list(root.iter(f"{_SVG}script"))
    assert any(_HOSTILE in (title.text or "") for title in root.iter(f"{_SVG}title"))


@pytest.mark.parametrize("is_mixed", [False, True])
def test_chart_of_a_long_list_stays_small(tmp_path: Path, is_mixed: bool) -> None:
    """Narrow bars are merged, so that a browser can show the chart of any list.

    This also holds if the bars of different workers, and failed downloads, follow each other in a lane.
    """
    comparison = _comparison(20_000)
    if is_mixed:
        ways = [replace(way, downloads=_mixed(way.downloads)) for way in comparison.ways]
        comparison = replace(comparison, ways=tuple(ways))
    root = _drawn(comparison, tmp_path / "chart.svg")
    assert (tmp_path / "chart.svg").stat().st_size < 2_000_000
    assert any("downloads: " in (title.text or "") for title in root.iter(f"{_SVG}title"))


def test_chart_has_the_curves_of_a_sweep(tmp_path: Path) -> None:
    """Each measured point is in the chart, with its numbers as a tooltip. Labels that have no room are left out."""
    sweep = Sweep(
        threads=(SizePoint(1, 3.0), SizePoint(2, 1.5), SizePoint(10, 0.3)),
        workers=(SizePoint(12, 0.4, 1), SizePoint(24, 0.25, 2)),
        lengths=(LengthPoint(10, 0.05, 0.07), LengthPoint(11, 0.06, 0.05)),
    )
    root = _drawn(replace(_comparison(), sweep=sweep), tmp_path / "chart.svg")
    tips = [title.text for title in root.iter(f"{_SVG}title")]
    for tip in (
        "2 threads: 2.0 x as fast",
        "2 workers, 24 slots: 12.0 x as fast",
        "11 images: 220.0 images per second",
    ):
        assert tip in tips
    shown = _texts(root)
    assert shown.count("threads") == shown.count("fleet") == 4
    axis = shown[shown.index("1") : shown.index("Length of the list")]
    assert axis == ["1", "2", "12", "24"]
    assert [line for line in root.iter(f"{_SVG}line") if line.get("class") == "marker"]
    assert "fleet faster from 11 images on" in shown


def test_chart_without_known_times(tmp_path: Path) -> None:
    """If a worker's clock differs, its bars are drawn inside its way, and no cost of the queue is shown."""
    comparison = _comparison()
    *others, fleet = comparison.ways
    shifted = [replace(one, start=one.start - 9, end=one.end - 9) for one in fleet.downloads]
    root = _drawn(replace(comparison, ways=(*others, replace(fleet, downloads=shifted))), tmp_path / "chart.svg")
    assert not any("before" in (text or "") for text in _texts(root))
