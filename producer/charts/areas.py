"""Draw values over time as a filled curve of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import svg
from markupsafe import Markup

from producer.charts.elements import (
    PLOT_WIDTH,
    TEXT_HEIGHT,
    drawing,
    horizontal_axis,
    percent,
    plot,
    tooltip,
    vertical_axis,
)
from producer.charts.scales import LinearScale, round_seconds, scale_to
from producer.charts.texts import format_count, format_tick

#: The number of steps between the ticks of a vertical axis, and the maximum number of ticks of a time axis. On a narrow
#: screen, more times would overlap.
_VERTICAL_STEPS, _TIME_STEPS = 3, 6


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """Values at equal distances in time. The value of a bin holds from its start to its end."""

    values: Sequence[float]
    #: The time from the start of the first bin to the end of the last.
    seconds: float
    #: A text for each bin, shown as its tooltip.
    tips: Sequence[str] = ()
    #: The class of the curve, which gives its colour.
    kind: str = "area"
    format_value: Callable[[float], str] = field(default=format_count)


def area_chart(series: TimeSeries, description: str, height: float = 150) -> Markup:
    """Return a chart of values over time, with both axes."""
    bottom = height - TEXT_HEIGHT
    scale, step = scale_to(max(series.values, default=0.0), _VERTICAL_STEPS)
    inside = bottom - TEXT_HEIGHT
    ticks = ((tick, series.format_value(tick)) for tick in scale.ticks(step) if tick)
    elements, labels = vertical_axis(scale, ticks, bottom)
    elements.append(plot(_curve(series.values, scale.greatest, inside, series.kind), TEXT_HEIGHT, inside))
    elements += labels
    elements += horizontal_axis(time_ticks(series.seconds), bottom)
    elements += _tooltips(series, bottom)
    return drawing(elements, height, description)


def strip(series: TimeSeries, greatest: float, height: float, marks: Iterable[float] = ()) -> list[svg.Element]:
    """Return a curve without axes, for a row of a table of curves.

    Args:
        series: the values.
        greatest: the value at the top.
        height: the height of the row in pixels.
        marks: places in percent that get a mark at the bottom of the row.
    """
    elements: list[svg.Element] = [plot(_curve(series.values, greatest, height, series.kind), 0, height)]
    elements += [
        svg.Rect(x=percent(min(place, 99.6)), y=height - 4, width=3, height=4, class_=["mark"]) for place in marks
    ]
    return elements


def time_ticks(seconds: float) -> list[tuple[float, str]]:
    """Return the ticks of an axis from 0 to a time: places in percent, with their texts."""
    if seconds <= 0:
        return [(0.0, "0")]
    scale = LinearScale(0, seconds)
    return [(scale.percent(tick), format_tick(tick)) for tick in scale.ticks(round_seconds(seconds, _TIME_STEPS))]


def _curve(values: Sequence[float], greatest: float, height: float, kind: str) -> list[svg.Element]:
    """Return a filled area and the line along its top, in the units of a plot."""
    if not values or not greatest:
        return []
    width = PLOT_WIDTH / len(values)
    path: list[svg.PathData] = [svg.M(0, round(height, 1))]
    before = None
    for place, value in enumerate(values):
        y = round(height * (1 - value / greatest), 1)
        if y != before:
            # A step: along the line of the last value, then up or down.
            path += [svg.H(round(place * width, 1)), svg.V(y)]
            before = y
    path.append(svg.H(PLOT_WIDTH))
    filled = [*path, svg.V(round(height, 1)), svg.Z()]
    return [svg.Path(d=filled, class_=[kind]), svg.Path(d=path, class_=[kind, "line"])]


def _tooltips(series: TimeSeries, bottom: float) -> list[svg.Element]:
    """Return an invisible rectangle with a tooltip for each bin."""
    width = 100 / len(series.tips) if series.tips else 0.0
    return [
        svg.Rect(
            x=percent(place * width), width=percent(width), height=bottom, class_=["touch"], elements=[tooltip(text)]
        )
        for place, text in enumerate(series.tips)
        if text
    ]
