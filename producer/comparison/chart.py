"""Draw a comparison as one SVG file, which needs no other file and no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import svg
from markupsafe import escape

from producer import charts
from producer.charts.elements import label, percent
from producer.charts.texts import format_seconds
from producer.comparison import explanation
from producer.comparison.comparison import Comparison
from producer.comparison.curves import length_chart, speedup_chart
from producer.comparison.gantt import Row, gantt_chart
from producer.comparison.way import Way
from producer.formatting import pluralized

#: The width of the chart in pixels where a page does not set another one.
_WIDTH = 960
#: The places of the content, in percent.
_LEFT, _CONTENT_WIDTH = 4, 92
_TOP, _BOTTOM, _GAP = 30.0, 30.0, 40.0
#: If the fastest way took less than this share of the longest time, its downloads are also shown enlarged.
_ENLARGED_BELOW = 0.5

#: Elements with their height in pixels.
_Block = tuple[Sequence[svg.Element], float]


def draw(comparison: Comparison, path: Path) -> None:
    """Draw the downloads of each way on one time scale, and save the chart as an SVG file.

    The chart is as wide as the window. It contains no date, so the same numbers give the same file.
    """
    blocks = [_title(comparison), _all_ways(comparison), *_enlarged(comparison), *_sweep(comparison)]
    path.write_text(_document(blocks, _describe(comparison)), encoding="utf-8")


def _title(comparison: Comparison) -> _Block:
    images = pluralized(comparison.ways[0].summary.total, "image")
    elements = [
        label(f"{images}, three ways", 0, 16, kind="title"),
        label("Each bar is a download, from its start to its end.", 0, 40),
    ]
    return elements, 40 - _GAP / 3


def _all_ways(comparison: Comparison) -> _Block:
    slowest, *fast = comparison.ways
    rows = [Row(slowest, ""), *(Row(way, f"{comparison.speedup(way):.1f} x as fast") for way in fast)]
    return gantt_chart(rows, max(way.wall_seconds for way in comparison.ways))


def _enlarged(comparison: Comparison) -> Iterable[_Block]:
    """Yield the fast ways on a time scale of their own, if they are short on the common scale."""
    _, *fast = comparison.ways
    longest = max(way.wall_seconds for way in fast)
    if longest >= _ENLARGED_BELOW * comparison.ways[0].wall_seconds or not all(way.time_shares for way in fast):
        return
    yield _heading("The same downloads, enlarged", "The grey parts are the time outside the downloads.")
    yield gantt_chart([Row(way, _describe_outside(way)) for way in fast], longest)


def _sweep(comparison: Comparison) -> Iterable[_Block]:
    """Yield the curves of a sweep, if there was one."""
    sweep = comparison.sweep
    if sweep is None:
        return
    yield _heading("Speed-up", "By the number of downloads at once.")
    yield speedup_chart(sweep, comparison.ways[0].wall_seconds)
    yield _heading("Length of the list", "Images per second, by the number of images.")
    yield length_chart(sweep)


def _heading(title: str, text: str) -> _Block:
    return [label(title, 0, 15, kind="heading"), label(text, 0, 35)], 35 - _GAP / 2


def _describe_outside(way: Way) -> str:
    shares = way.time_shares
    assert shares is not None
    return f"{format_seconds(shares.before)} before, {format_seconds(shares.after)} after"


def _describe(comparison: Comparison) -> str:
    """Return what the chart shows, for people who can't see it."""
    ways = ", ".join(f"{way.name} in {way.wall_seconds:.2f} s" for way in comparison.ways)
    return " ".join([f"{comparison.ways[0].summary.total:,} images: {ways}.", *explanation.explain(comparison)])


def _document(blocks: Sequence[_Block], description: str) -> str:
    """Return an SVG document with blocks below each other."""
    y = _TOP
    placed: list[svg.Element] = []
    for elements, height in blocks:
        placed.append(svg.G(transform=[svg.Translate(0, round(y, 1))], elements=list(elements)))
        y += height + _GAP
    height = round(y - _GAP + _BOTTOM)
    css = resources.files(charts).joinpath("charts.css").read_text(encoding="utf-8")
    own = resources.files(__package__).joinpath("chart.css").read_text(encoding="utf-8")
    return svg.SVG(
        width=_WIDTH,
        height=height,
        # In a window of its own, the chart is as wide as the window. Elsewhere, its page sets the width.
        style="width: 100%",
        class_=["chart"],
        elements=[
            svg.Style(text=f"{own}{css}"),
            svg.Rect(width=percent(100), height=percent(100), class_=["page"]),
            svg.SVG(
                xmlns=None,
                x=percent(_LEFT),
                width=percent(_CONTENT_WIDTH),
                height=height,
                overflow="visible",
                elements=placed,
            ),
        ],
        extra={"role": "img", "aria-label": str(escape(description))},
    ).as_str()
