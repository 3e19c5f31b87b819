"""Draw measured points as curves over a logarithmic scale: the speed-up by size, and the speed by list length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import svg

from producer.charts.elements import horizontal_axis, label, line_across, line_down, percent, tooltip
from producer.charts.scales import LogScale, scale_to
from producer.charts.texts import format_count
from producer.comparison.sweep import SizePoint, Sweep
from producer.comparison.way import FLEET, THREADS
from producer.formatting import pluralized

#: The height of the legend and of the plot below it, in pixels.
_LEGEND_HEIGHT, _PLOT_HEIGHT = 44.0, 200.0
#: The width of a curve's name in the legend, in pixels.
_LEGEND_WIDTH = 90
#: The radius of a point in pixels.
_RADIUS = 4
#: The number of steps of the vertical axis.
_STEPS = 4
#: The place in percent from which on a mark's text is left of its line.
_LATE = 50
#: The least distance in percent between two labels of the horizontal axis on a narrow screen.
_LEAST_DISTANCE = 11


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve with its name, its class, which gives its colour, and its points from left to right."""

    name: str
    kind: str
    #: Each point has a positive place, a value and a tooltip.
    points: Sequence[tuple[float, float, str]]


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of a point: horizontally in percent, vertically in pixels."""

    x: float
    y: float


def speedup_chart(sweep: Sweep, one_by_one_seconds: float) -> tuple[list[svg.Element], float]:
    """Return the elements of a chart of the speed-up by the number of downloads at once, and its height in pixels."""

    def points(measured: Iterable[SizePoint]) -> list[tuple[float, float, str]]:
        found: list[tuple[float, float, str]] = []
        for point in measured:
            speedup = one_by_one_seconds / point.wall_seconds
            size = pluralized(point.slots, "thread" if point.workers is None else "slot")
            workers = "" if point.workers is None else f"{pluralized(point.workers, 'worker')}, "
            found.append((point.slots, speedup, f"{workers}{size}: {speedup:.1f} x as fast"))
        return found

    curves = [Curve(THREADS, "threads", points(sweep.threads)), Curve(FLEET, "worker-0", points(sweep.workers))]
    ticks = sorted({point.slots for point in (*sweep.threads, *sweep.workers)})
    return _curve_chart(curves, ticks, " x")


def length_chart(sweep: Sweep) -> tuple[list[svg.Element], float]:
    """Return the elements of a chart of the images per second by the length of the list, and its height in pixels."""

    def points(seconds: Iterable[tuple[int, float]]) -> list[tuple[float, float, str]]:
        rates = ((images, images / taken) for images, taken in seconds)
        return [(images, rate, f"{images:,} images: {rate:,.1f} images per second") for images, rate in rates]

    curves = [
        Curve(THREADS, "threads", points((point.images, point.threads_seconds) for point in sweep.lengths)),
        Curve(FLEET, "worker-0", points((point.images, point.fleet_seconds) for point in sweep.lengths)),
    ]
    leads = sweep.fleet_leads_from
    mark = None if leads is None else (leads, f"fleet faster from {pluralized(leads, 'image')} on")
    return _curve_chart(curves, [point.images for point in sweep.lengths], "", mark)


def _curve_chart(
    curves: Sequence[Curve], ticks: Sequence[float], unit: str, mark: tuple[float, str] | None = None
) -> tuple[list[svg.Element], float]:
    """Return the elements of a chart, and its height in pixels.

    Args:
        curves: the curves.
        ticks: the places with a label on the horizontal axis, in ascending order. The axis has their range.
        unit: what follows a value on the vertical axis.
        mark: a place with a vertical line, and its text, if any.
    """
    across = LogScale(ticks[0], max(ticks[-1], ticks[0] * 2))
    up, step = scale_to(max(value for curve in curves for _, value, _ in curve.points), _STEPS)
    bottom = _LEGEND_HEIGHT + _PLOT_HEIGHT

    def place(x: float, value: float) -> _Place:
        return _Place(across.percent(x), bottom - _PLOT_HEIGHT * up.percent(value) / 100)

    elements = list(_legend(curves))
    for tick in up.ticks(step):
        if tick:
            y = place(ticks[0], tick).y
            elements += [line_across(y), label(f"{format_count(tick)}{unit}", 0, y - 4)]
    elements += horizontal_axis(_spaced([(across.percent(tick), f"{tick:,.0f}") for tick in ticks]), bottom)
    if mark is not None:
        x = across.percent(mark[0])
        # The text is on the side with more room.
        text = (
            label(mark[1], x - 1, _LEGEND_HEIGHT + 14, "end")
            if x > _LATE
            else label(mark[1], x + 1, _LEGEND_HEIGHT + 14)
        )
        elements += [line_down(x, _LEGEND_HEIGHT, bottom, "marker"), text]
    for curve in curves:
        elements += _curve(curve, [place(x, value) for x, value, _ in curve.points])
    return elements, bottom + 18


def _legend(curves: Sequence[Curve]) -> Iterator[svg.Element]:
    """Yield a point and a name for each curve, from left to right."""
    for number, curve in enumerate(curves):
        x = number * _LEGEND_WIDTH
        yield svg.Circle(cx=x + _RADIUS, cy=8, r=_RADIUS, class_=[curve.kind])
        yield svg.G(transform=[svg.Translate(x + 3 * _RADIUS, 0)], elements=[label(curve.name, 0, 12)])


def _curve(curve: Curve, places: Sequence[_Place]) -> Iterator[svg.Element]:
    for start, end in pairwise(places):
        yield svg.Line(
            x1=percent(start.x),
            y1=round(start.y, 1),
            x2=percent(end.x),
            y2=round(end.y, 1),
            class_=["curve", curve.kind],
        )
    for place, (_, _, text) in zip(places, curve.points, strict=True):
        yield svg.Circle(
            cx=percent(place.x), cy=round(place.y, 1), r=_RADIUS, class_=["point", curve.kind], elements=[tooltip(text)]
        )


def _spaced(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the ticks without those that are too close to the next one, from right to left."""
    found: list[tuple[float, str]] = []
    for place, text in reversed(ticks):
        if not found or found[-1][0] - place >= _LEAST_DISTANCE:
            found.append((place, text))
    return found[::-1]
