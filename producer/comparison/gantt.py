"""Draw the downloads of several ways as a Gantt chart: a bar for each download, and one time scale for all ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import svg

from producer.charts.elements import horizontal_axis, label, line_down, percent, tooltip
from producer.charts.lanes import Interval, assign_lanes
from producer.charts.scales import LinearScale, round_seconds
from producer.charts.texts import format_seconds, format_tick
from producer.comparison.downloads import Download
from producer.comparison.way import FLEET, ONE_BY_ONE, Way
from producer.formatting import pluralized

#: The height of a way's two lines of text, and of all its lanes together, in pixels.
_HEADING_HEIGHT, _LANES_HEIGHT = 42.0, 132.0
#: The distance between two ways in pixels.
_GAP = 22.0
#: The least and the greatest height of a lane in pixels, and the share of it that its bars take.
_LEAST_LANE, _GREATEST_LANE, _BAR_SHARE = 3.0, 14.0, 0.72
#: The least width of a bar in percent. Narrower bars of a lane are drawn as one, and the width of such a bar grows with
#: the number of lanes. So the size of the file does not grow with the list.
_LEAST_WIDTH, _LEAST_WIDTH_PER_LANE = 0.15, 0.04
#: The number of colours for workers.
_WORKER_COLOURS = 4
#: The maximum number of steps of the time axis, so that its texts have room on a narrow screen.
_TIME_STEPS = 5
#: The ends of downloads are rounded to this many seconds, so a download may seem to start before the last one ended.
_RESOLUTION_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Row:
    """A way in the chart, with a text below its time."""

    way: Way
    detail: str


@dataclass(frozen=True, slots=True)
class _Lane:
    """The bars of a lane, and its place and height in pixels."""

    bars: Sequence[Interval]
    y: float
    height: float


def gantt_chart(rows: Sequence[Row], seconds: float) -> tuple[list[svg.Element], float]:
    """Return the elements of a Gantt chart, and its height in pixels.

    Args:
        rows: the ways, from top to bottom.
        seconds: the time at the right end of the scale.
    """
    scale = LinearScale(0, seconds or 1.0)
    elements: list[svg.Element] = []
    y = 0.0
    for row in rows:
        found, height = _way_elements(row, scale)
        elements.append(svg.G(transform=[svg.Translate(0, y)], elements=found))
        y += height + _GAP
    bottom = y - _GAP / 2
    ticks = [
        (scale.percent(tick), format_tick(tick)) for tick in scale.ticks(round_seconds(scale.greatest, _TIME_STEPS))
    ]
    grid = [line_down(place, 0, bottom) for place, _ in ticks]
    return [*grid, *elements, *horizontal_axis(ticks, bottom)], bottom + 18


def _way_elements(row: Row, scale: LinearScale) -> tuple[list[svg.Element], float]:
    way = row.way
    lanes = list(_lanes(way, scale))
    height = sum(lane.height for lane in lanes) or _GREATEST_LANE
    seconds = f"{way.wall_seconds:.2f} s"
    elements: list[svg.Element] = [
        label(way.name, 0, 15, kind="name"),
        label(seconds, 100, 15, "end", "name"),
        label(_describe_slots(way), 0, 33),
        label(row.detail, 100, 33, "end"),
        # The time from the start to the end of the way. The parts without bars are the time outside the downloads.
        svg.Rect(
            x=0,
            y=_HEADING_HEIGHT,
            width=percent(min(scale.percent(way.wall_seconds), 100)),
            height=round(height, 1),
            rx=2,
            class_=["span"],
        ),
    ]
    for lane in lanes:
        elements += [_bar(bar, lane, scale) for bar in lane.bars]
    return elements, _HEADING_HEIGHT + height


def _bar(bar: Interval, lane: _Lane, scale: LinearScale) -> svg.Rect:
    x = scale.percent(bar.start)
    return svg.Rect(
        x=percent(x),
        y=round(_HEADING_HEIGHT + lane.y + lane.height * (1 - _BAR_SHARE) / 2, 1),
        width=percent(max(scale.percent(bar.end) - x, _LEAST_WIDTH)),
        height=round(lane.height * _BAR_SHARE, 1),
        rx=1.5,
        class_=[bar.kind],
        elements=[tooltip(bar.tip)],
    )


def _describe_slots(way: Way) -> str:
    if way.name == ONE_BY_ONE:
        return "one download at a time"
    if way.name != FLEET:
        return f"{pluralized(way.slots, 'thread')} of one process"
    return f"{pluralized(way.workers, 'worker')}, {pluralized(way.slots, 'slot')}"


def _lanes(way: Way, scale: LinearScale) -> Iterator[_Lane]:
    """Yield the lanes of a way. Downloads that ran at the same time are in different lanes."""
    kinds = _kinds(way)
    intervals = sorted((_interval(each, way, kinds) for each in way.downloads), key=lambda one: (one.start, one.end))
    numbers = assign_lanes([replace(one, end=max(one.end - _RESOLUTION_SECONDS, one.start)) for one in intervals])
    bars: dict[int, list[Interval]] = {}
    for number, interval in zip(numbers, intervals, strict=True):
        bars.setdefault(number, []).append(interval)
    height = min(max(_LANES_HEIGHT / max(len(bars), 1), _LEAST_LANE), _GREATEST_LANE)
    least = max(_LEAST_WIDTH, _LEAST_WIDTH_PER_LANE * len(bars)) / 100 * scale.greatest
    for number in sorted(bars):
        yield _Lane(_merge_narrow(bars[number], least), number * height, height)


def _kinds(way: Way) -> Mapping[str, str]:
    """Return the class of each worker's bars, which gives their colour."""
    if way.name != FLEET:
        return {}
    workers = sorted({download.worker for download in way.downloads})
    return {worker: f"worker-{number % _WORKER_COLOURS}" for number, worker in enumerate(workers)}


def _interval(download: Download, way: Way, kinds: Mapping[str, str]) -> Interval:
    """Return the bar of a download. It lies within the time of its way, even if the clocks of two machines differ."""
    start, end = (min(max(at, 0.0), way.wall_seconds) for at in (download.start, download.end))
    kind = kinds.get(download.worker, "alone" if way.name == ONE_BY_ONE else "threads")
    result = "saved" if download.saved else "failed"
    worker = f", {download.worker}" if way.name == FLEET else ""
    tip = f"{result} in {format_seconds(end - start)}: {format_seconds(start)} to {format_seconds(end)}{worker}"
    return Interval(start, end, tip, kind if download.saved else "bad")


def _merge_narrow(bars: Sequence[Interval], least: float) -> list[Interval]:
    """Return bars that are at least ``least`` seconds wide, as far as bars of the same colour are close together.

    Bars of other colours may be between them, because the workers take turns in a lane.
    """
    found: list[Interval] = []
    # By colour: the place of its last bar in the list, and the number of downloads in it.
    last: dict[str, tuple[int, int]] = {}
    for bar in bars:
        place, count = last.get(bar.kind, (0, 0))
        if count and found[place].end - found[place].start < least and bar.start - found[place].end < least:
            tip = f"{count + 1:,} downloads: {format_seconds(found[place].start)} to {format_seconds(bar.end)}"
            found[place] = replace(found[place], end=bar.end, tip=tip)
            last[bar.kind] = place, count + 1
        else:
            last[bar.kind] = len(found), 1
            found.append(bar)
    return found
