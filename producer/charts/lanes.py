"""Draw intervals of time as bars in lanes, so that bars of the same time are below each other."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import svg

from producer.charts.elements import percent, tooltip
from producer.charts.scales import LinearScale

#: The height of a lane and of the bar in it, in pixels.
LANE_HEIGHT, _BAR_HEIGHT = 8.0, 6.0
#: The least width of a bar in percent.
_LEAST_WIDTH = 0.25


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval in seconds, with its tooltip and its class, which gives its colour."""

    start: float
    end: float
    tip: str
    kind: str = "bar"


def assign_lanes(intervals: Sequence[Interval]) -> list[int]:
    """Return a lane for each interval, such that the intervals of a lane do not overlap. There are as few as possible.

    The intervals are in the order of their starts.
    """
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    lanes = []
    for interval in intervals:
        while busy and busy[0][0] <= interval.start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (interval.end, lane))
        lanes.append(lane)
    return lanes


def lanes(intervals: Iterable[Interval], scale: LinearScale) -> tuple[list[svg.Element], float]:
    """Return the bars of intervals, and the height of all their lanes in pixels. The scale is that of the seconds."""
    ordered = sorted(intervals, key=lambda interval: interval.start)
    elements: list[svg.Element] = []
    assigned = assign_lanes(ordered)
    for interval, lane in zip(ordered, assigned, strict=True):
        x = min(max(scale.percent(interval.start), 0.0), 100 - _LEAST_WIDTH)
        width = max(min(scale.percent(interval.end), 100.0) - x, _LEAST_WIDTH)
        elements.append(
            svg.Rect(
                x=percent(x),
                y=lane * LANE_HEIGHT + 1,
                width=percent(width),
                height=_BAR_HEIGHT,
                rx=1.5,
                class_=[interval.kind],
                elements=[tooltip(interval.tip)],
            )
        )
    return elements, LANE_HEIGHT * (max(assigned, default=0) + 1)
