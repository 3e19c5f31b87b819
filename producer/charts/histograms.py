"""Draw a distribution over a logarithmic scale as bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import svg
from markupsafe import Markup

from producer.charts.elements import (
    TEXT_HEIGHT,
    drawing,
    horizontal_axis,
    label,
    line_down,
    percent,
    tooltip,
)
from producer.charts.scales import LogScale

#: The least distance in percent between the labels of two ticks on a narrow screen.
_LEAST_DISTANCE = 18


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a histogram: the values from ``least`` to ``greatest``, and how many there are."""

    least: float
    greatest: float
    number: int


@dataclass(frozen=True, slots=True)
class Marker:
    """A vertical line at a value, with a text."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Unit:
    """How to write the values of a histogram, and how to write the round values of its axis."""

    format_value: Callable[[float], str]
    format_tick: Callable[[float], str]
    #: The values that may be ticks, in ascending order.
    ticks: Sequence[float] = tuple(10.0**exponent for exponent in range(-6, 7))


def histogram(bars: Sequence[Bar], unit: Unit, description: str, markers: Sequence[Marker] = ()) -> Markup:
    """Return a histogram.

    Args:
        bars: the bars in the order of their values, which are positive. There is at least one.
        unit: how to write values.
        description: what the chart shows, for people who can't see it.
        markers: values to mark, such as percentiles, in ascending order.
    """
    height, top = 150.0, TEXT_HEIGHT * (2 if markers else 1)
    bottom = height - TEXT_HEIGHT
    scale = LogScale(bars[0].least, bars[-1].greatest)
    tallest = max(bar.number for bar in bars)
    elements: list[svg.Element] = []
    for bar in bars:
        x, length = scale.percent(bar.least), (bottom - top) * bar.number / tallest
        text = f"{unit.format_value(bar.least)} to {unit.format_value(bar.greatest)}: {bar.number:,}"
        elements.append(
            svg.Rect(
                x=percent(x),
                y=round(bottom - length, 1),
                width=percent(max(scale.percent(bar.greatest) - x - 0.15, 0.1)),
                height=round(length, 1),
                class_=["bar"],
                elements=[tooltip(text)],
            )
        )
    elements += horizontal_axis(_ticks(scale, unit), bottom)
    elements += _markers(markers, scale, bottom)
    return drawing(elements, height, description)


def _ticks(scale: LogScale, unit: Unit) -> list[tuple[float, str]]:
    """Return ticks at round values; if there is at most one, at the ends of the scale."""
    ticks = [
        (scale.percent(value), unit.format_tick(value))
        for value in unit.ticks
        if scale.least <= value <= scale.greatest
    ]
    if len(ticks) < 2:
        return [(0, unit.format_value(scale.least)), (100, unit.format_value(scale.greatest))]
    every = 1 + int(_LEAST_DISTANCE // (ticks[1][0] - ticks[0][0]))
    return ticks[::every]


def _markers(markers: Sequence[Marker], scale: LogScale, bottom: float) -> list[svg.Element]:
    """Return the lines and texts of markers. Texts of neighbouring markers are at different heights."""
    elements: list[svg.Element] = []
    for number, marker in enumerate(markers):
        place = min(max(scale.percent(marker.value), 0.0), 100.0)
        baseline = TEXT_HEIGHT * (number % 2 + 1) - 5
        elements.append(line_down(place, baseline + 3, bottom, "marker"))
        is_late = place > 70
        elements.append(
            label(marker.text, place + (-0.6 if is_late else 0.6), baseline, "end" if is_late else "start", "strong")
        )
    return elements
