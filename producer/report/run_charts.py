"""Draw the charts of a run from its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from producer.charts.areas import TimeSeries, area_chart, strip, time_ticks
from producer.charts.elements import TEXT_HEIGHT, drawing, horizontal_axis
from producer.charts.histograms import Marker, Unit, histogram
from producer.charts.lanes import Interval, lanes
from producer.charts.scales import LinearScale
from producer.charts.texts import format_count, format_seconds, format_tick
from producer.formatting import format_size
from producer.report.activity import Activity, WorkerActivity
from producer.report.distribution import Distribution
from producer.report.figures import Figures


def _format_bytes(size: float) -> str:
    """Return a size of 1, 10 or 100 times a power of 1024."""
    return format_size(size).replace(".0 ", " ")


def _format_pixels(pixels: float) -> str:
    return f"{pixels:,.0f} px"


#: The number of points of a curve, and the images that a point needs at least, so that the curve is smooth.
_LEAST_POINTS, _MOST_POINTS, _IMAGES_PER_POINT = 12, 150, 4
#: The maximum number of workers in the timeline.
_MOST_WORKERS = 48
_STRIP_HEIGHT = 30.0
_UNITS = {
    "seconds": Unit(format_seconds, format_tick),
    "bytes": Unit(
        format_size, _format_bytes, [factor * 1024.0**power for power in range(5) for factor in (1, 10, 100)]
    ),
    "pixels": Unit(_format_pixels, _format_pixels),
}
_PERCENTILES = ((0.5, "median"), (0.99, "99 %"))


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A row of the timeline: a worker, and the chart of what it did when."""

    worker: WorkerActivity
    chart: Markup


class Points:
    """The activity of a run in fewer and wider bins, for curves."""

    def __init__(self, activity: Activity) -> None:
        images = sum(worker.images for worker in activity.workers)
        wanted = min(max(images // _IMAGES_PER_POINT, _LEAST_POINTS), _MOST_POINTS)
        self._factor = max(1, -(-activity.bins // wanted))
        self.width = activity.bin_seconds * self._factor
        self._activity = activity

    @property
    def seconds(self) -> float:
        """The time from the start of the first point to the end of the last."""
        return self.width * -(-self._activity.bins // self._factor)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sum of the values in each wide bin."""
        return [sum(values[place : place + self._factor]) for place in range(0, len(values), self._factor)]

    def means(self, values: Sequence[float]) -> list[float]:
        """Return the mean of the values in each wide bin."""
        return [total / self._factor for total in self.sums(values)]

    def total(self, name: str) -> list[float]:
        """Return the sums over all workers, as `Activity.total` names them."""
        values = self._activity.total(name)
        return self.means(values) if name == "busy" else self.sums(values)


def throughput_charts(activity: Activity) -> tuple[Markup, Markup] | None:
    """Return the charts of images per second and of downloads in flight; None if nothing was downloaded."""
    if not activity.bins:
        return None
    points = Points(activity)
    finished, failed, busy = points.total("finished"), points.total("failed"), points.total("busy")
    rates = [number / points.width for number in finished]
    tips = [
        f"at {format_seconds((place + 0.5) * points.width)}: {format_count(rate)} images/s, "
        f"{format_size(size / points.width)}/s, {flying:.0f} in flight" + (f", {bad:.0f} failed" if bad else "")
        for place, (rate, size, flying, bad) in enumerate(zip(rates, points.total("bytes"), busy, failed, strict=True))
    ]
    return (
        area_chart(TimeSeries(rates, points.seconds, tips), f"Images per second; at most {format_count(max(rates))}."),
        area_chart(
            TimeSeries(busy, points.seconds, tips, "area second"),
            f"Downloads in flight; at most {format_count(max(busy))}.",
            height=120,
        ),
    )


def worker_timeline(figures: Figures) -> list[WorkerRow]:
    """Return a row for each worker: its single images if there are few, else its downloads in flight over time.

    If there are too many workers, only the last ones to end are in the list, because those delay the end of the run.
    """
    activity = figures.activity
    workers = activity.workers
    if len(workers) > _MOST_WORKERS:
        latest = sorted(workers, key=lambda worker: -worker.last)[:_MOST_WORKERS]
        workers = [worker for worker in workers if worker in latest]
    if figures.samples.timed:
        return [WorkerRow(worker, _lanes(worker, figures)) for worker in workers]
    points = Points(activity)
    busy = {worker.name: points.means(worker.busy_by_bin) for worker in workers}
    greatest = max((value for values in busy.values() for value in values), default=1.0) or 1.0
    return [WorkerRow(worker, _strip(worker, busy[worker.name], points, greatest)) for worker in workers]


def timeline_axis(activity: Activity) -> Markup:
    """Return the time axis below the timeline."""
    return drawing(horizontal_axis(time_ticks(activity.seconds), 2), TEXT_HEIGHT + 4, "Seconds from the start")


def distribution_chart(values: Distribution, unit: str, what: str) -> Markup | None:
    """Return the histogram of a distribution with its median and 99th percentile; None if all values are equal.

    Args:
        values: the distribution.
        unit: ``seconds``, ``bytes`` or ``pixels``.
        what: what is distributed, for people who can't see the chart.
    """
    if values.least >= values.greatest:
        return None
    found = [(values.percentile(share), name) for share, name in _PERCENTILES]
    markers = [Marker(value, f"{name} {_UNITS[unit].format_value(value)}") for value, name in found]
    description = f"{what}: {'; '.join(marker.text for marker in markers)}."
    return histogram(values.bars(), _UNITS[unit], description, markers)


def _lanes(worker: WorkerActivity, figures: Figures) -> Markup:
    """Return the chart of a worker's single images."""
    start = figures.activity.start
    intervals = [
        Interval(
            row["started"] / 1000 - start,
            row["finished"] / 1000 - start,
            f"{row['key']}: {format_seconds((row['finished'] - row['started']) / 1000)}, {row['reason'] or 'saved'}",
            "bar" if row["reason"] is None else "bad",
        )
        for row in figures.samples.timed
        # Images that an earlier command finished are not in the timeline.
        if row["worker"] == worker.name and row["finished"] >= start * 1000
    ]
    elements, height = lanes(intervals, LinearScale(0, figures.activity.seconds or 1.0))
    return drawing(elements, height, _describe(worker))


def _strip(worker: WorkerActivity, busy: Sequence[float], points: Points, greatest: float) -> Markup:
    """Return the chart of a worker's downloads in flight, with marks for failures."""
    failed = points.sums(worker.failed_by_bin)
    marks = [100 * place / len(failed) for place, number in enumerate(failed) if number]
    series = TimeSeries(busy, points.seconds)
    return drawing(strip(series, greatest, _STRIP_HEIGHT, marks), _STRIP_HEIGHT, _describe(worker))


def _describe(worker: WorkerActivity) -> str:
    return (
        f"{worker.name} worked from {format_seconds(worker.first)} to {format_seconds(worker.last)} "
        f"and finished {worker.images:,} images."
    )


def phase_shares(figures: Figures) -> Iterator[tuple[str, float]]:
    """Yield the phases of a download in a slot, each with its mean seconds for an image. The last one is waiting."""
    total = figures.total_seconds.sum
    images = figures.summary.total or 1
    for column, distribution in figures.phases.items():
        if column != "queued_seconds":
            total -= distribution.sum
            yield column.removesuffix("_seconds"), distribution.sum / images
    yield "waiting", max(total, 0.0) / images
