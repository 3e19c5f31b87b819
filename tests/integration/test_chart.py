"""A comparison's chart is a valid SVG, and the same numbers give the same chart."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from producer.comparison import chart
from producer.comparison.comparison import Comparison, Way
from producer.output.summary import Summary

_DONE = Summary({"success": 1000}, {}, 1, 1)
_WAYS = tuple(
    Way(name, 1, seconds, _DONE, Path("/out"))
    for name, seconds in (("one by one", 20.0), ("threads", 5.0), ("fleet", 2.5))
)


def test_chart_is_reproducible(tmp_path: Path) -> None:
    """The SVG has a bar for each way of downloading. It has no date and no other variable content."""
    for name in ("first.svg", "second.svg"):
        chart.draw(Comparison("list.txt", _WAYS, 1.0), tmp_path / name)
    drawn = (tmp_path / "first.svg").read_bytes()
    assert ET.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert b"dc:date" not in drawn
    # matplotlib draws text as paths, and writes the text itself into comments.
    for text in (b"one by one", b"20.00 s   1.0 x", b"2.50 s   8.0 x", b"Total Execution Time", b"1,000 images"):
        assert text in drawn
    assert drawn == (tmp_path / "second.svg").read_bytes()
