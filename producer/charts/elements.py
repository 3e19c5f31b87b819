"""The elements of all charts: texts, tooltips, axes and the drawing itself. Texts are escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import svg
from markupsafe import Markup, escape

from producer.charts.scales import LinearScale

#: The height of a row of texts in pixels.
TEXT_HEIGHT = 18
#: The width of a plot in the units of its paths.
PLOT_WIDTH = 1000
#: Beyond these places, a text at a tick would be cut off, so it is aligned to the side.
_LEFT, _RIGHT = 4, 96

Anchor = Literal["start", "middle", "end"]


def percent(value: float) -> svg.Length:
    """Return a place or width as a percentage of the chart's width."""
    return svg.Length(round(value, 3), "%")


def label(text: str, x: float, y: float, anchor: Anchor = "start", kind: str = "label") -> svg.Text:
    """Return a text at a place in percent and a baseline in pixels."""
    return svg.Text(x=percent(x), y=y, text_anchor=anchor, class_=[kind], text=str(escape(text)))


def tooltip(text: str) -> svg.Title:
    """Return the text that a browser shows for the element around it."""
    return svg.Title(text=str(escape(text)))


def drawing(elements: Sequence[svg.Element], height: float, description: str, kind: str = "chart") -> Markup:
    """Return a chart for an HTML page, as wide as the element around it.

    Args:
        elements: the parts of the chart, the lowest first.
        height: its height in pixels.
        description: what the chart shows, for people who can't see it.
        kind: its class.
    """
    return Markup(  # noqa: S704  # all texts are escaped
        svg.SVG(
            xmlns=None,
            width=percent(100),
            height=height,
            class_=[kind],
            elements=list(elements),
            extra={"role": "img", "aria-label": str(escape(description))},
        ).as_str()
    )


def plot(elements: Sequence[svg.Element], top: float, height: float) -> svg.SVG:
    """Return the part of a chart for paths. Its units are `PLOT_WIDTH` for the whole width, and pixels for the height.

    Paths can't have percentages, so this part is stretched. Its lines keep their width because of their class.
    """
    return svg.SVG(
        xmlns=None,
        x=0,
        y=top,
        width=percent(100),
        height=height,
        viewBox=svg.ViewBoxSpec(0, 0, PLOT_WIDTH, height),
        preserveAspectRatio=svg.PreserveAspectRatio("none"),
        elements=list(elements),
    )


def line_across(y: float, kind: str = "grid") -> svg.Line:
    """Return a horizontal line across the chart."""
    return svg.Line(x1=0, x2=percent(100), y1=round(y, 1), y2=round(y, 1), class_=[kind])


def line_down(x: float, top: float, bottom: float, kind: str = "grid") -> svg.Line:
    """Return a vertical line at a place in percent."""
    return svg.Line(x1=percent(x), x2=percent(x), y1=top, y2=bottom, class_=[kind])


def horizontal_axis(ticks: Iterable[tuple[float, str]], y: float) -> list[svg.Element]:
    """Return the labels of ticks below a baseline at ``y``; each tick is a place in percent and a text."""
    found: list[svg.Element] = [line_across(y, "axis")]
    for place, text in ticks:
        anchor: Anchor = "start" if place < _LEFT else "end" if place > _RIGHT else "middle"
        found.append(label(text, place, y + TEXT_HEIGHT - 4, anchor))
    return found


def vertical_axis(
    scale: LinearScale, ticks: Iterable[tuple[float, str]], bottom: float
) -> tuple[list[svg.Element], list[svg.Element]]:
    """Return grid lines, which belong below a curve, and their labels, which belong above it.

    Args:
        scale: the scale of the values.
        ticks: values with their texts.
        bottom: the place of the scale's least value in pixels. The greatest value is `TEXT_HEIGHT` from the top.
    """
    lines: list[svg.Element] = []
    labels: list[svg.Element] = []
    for value, text in ticks:
        y = round(bottom - (bottom - TEXT_HEIGHT) * scale.percent(value) / 100, 1)
        lines.append(line_across(y))
        labels.append(label(text, 0, y - 4))
    return lines, labels


def bar(share: float, kind: str = "bar") -> Markup:
    """Return a horizontal bar for a table's cell. The cell has the number too, so the bar is hidden from readers."""
    width = max(min(share, 1.0), 0.0) * 100
    rect = svg.Rect(width=percent(width), height=8, rx=2, class_=[kind])
    found = svg.SVG(
        xmlns=None, width=percent(100), height=8, class_=["bars"], elements=[rect], extra={"aria-hidden": "true"}
    )
    return Markup(found.as_str())  # noqa: S704  # it has no texts
