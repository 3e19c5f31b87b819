"""Render the progress of a run: as rows for a terminal, and as lines of text elsewhere. Nothing here prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from producer.cli.render import describe_failures, sanitized
from producer.cli.render_hosts import describe_waiting, shortened
from producer.formatting import format_duration, format_rate, format_size, pluralized

if TYPE_CHECKING:
    from producer.dispatch.host_report import HostReport
    from producer.dispatch.progress import FleetCondition, Progress

#: The width of the labels, the least width of the bar, and the maximum width of the bar with its numbers, in columns.
_LABEL_WIDTH, _LEAST_BAR_WIDTH, _MAX_BAR_WIDTH = 9, 5, 110
#: The maximum width of a host's name among other hosts.
_HOST_WIDTH = 30
_Row = tuple[str, RenderableType]


@dataclass(frozen=True, slots=True)
class ProgressView:
    """The progress of a run on a terminal: a bar, then rows of numbers. Each row fits the width of the terminal."""

    progress: Progress
    #: Rows above and below the progress, each with its label.
    head: Sequence[tuple[str, str]] = ()
    tail: Sequence[tuple[str, str]] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield a table as wide as the terminal."""
        table = Table.grid(expand=True)
        table.add_column(width=_LABEL_WIDTH, style="dim", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="crop" if options.ascii_only else "ellipsis")
        for label, cell in self._rows(options.max_width - _LABEL_WIDTH):
            table.add_row(label, _in_ascii(cell) if options.ascii_only else cell)
        yield table

    def _rows(self, width: int) -> Iterator[_Row]:
        for label, text in self.head:
            yield label, Text(sanitized(text))
        yield from _count_rows(self.progress, width)
        yield from _fleet_rows(self.progress, width)
        for label, text in self.tail:
            # A command to copy must not be cut.
            yield label, Text(sanitized(text), overflow="fold", no_wrap=False)


def _in_ascii(cell: RenderableType) -> RenderableType:
    """Return a text in the form that an ASCII terminal gets, so that its width is known."""
    if not isinstance(cell, Text):
        return cell
    plain = cell.plain.encode("ascii", "backslashreplace").decode("ascii")
    return Text(plain, cell.style, overflow=cell.overflow, no_wrap=cell.no_wrap)


def _count_rows(progress: Progress, width: int) -> Iterator[_Row]:
    yield "images", _bar(progress, min(width, _MAX_BAR_WIDTH))
    if (speeds := _speeds(progress)) is not None:
        yield from speeds
    yield "saved", Text(f"{pluralized(progress.success, 'image')}, {format_size(progress.bytes)}")
    yield "failed", _failures(progress, width)
    if progress.done_before:
        yield "earlier", Text(f"{progress.done_before:,} of these images were finished before this command")
    if progress.repaired:
        yield "repaired", Text(f"{pluralized(progress.repaired, 'lost task')}, sent again")


def _bar(progress: Progress, width: int) -> RenderableType:
    """Return the bar with the percentage and the counts.

    While the list is still being read, and on a narrow terminal, there is no bar.
    """
    ended, total = progress.ended, progress.planned
    if not progress.plan_complete:
        return Text(f"{ended:,} finished, {total:,} read from the list so far")
    counts = f"{ended * 100 // total:>4}% {ended:,}/{total:,}" if total else f" {ended:,}/{total:,}"
    if width < len(counts) + _LEAST_BAR_WIDTH:
        return Text(counts.strip())
    table = Table.grid(expand=True)
    table.width = width
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    bar = ProgressBar(
        max(total, 1), min(ended, max(total, 1)), complete_style="cyan", finished_style="green", style="bar.back"
    )
    table.add_row(bar, counts)
    return table


def _speeds(progress: Progress) -> list[_Row] | None:
    """Return the rows for the present and the average speed, in the same columns; None before the first task."""
    speed = progress.speed
    if not speed.seconds:
        return None
    rows = [("average", speed.average_images_per_second, speed.average_bytes_per_second)]
    ends = [f"{format_duration(speed.seconds)} elapsed"]
    if progress.shards_in_flight:
        rows.insert(0, ("now", speed.images_per_second, speed.bytes_per_second))
        left = speed.seconds_left
        ends.insert(0, "" if left is None else f"{format_duration(left)} left")
    texts = [(f"{format_rate(rate)} images/s", f"{format_size(size)}/s" if size else "") for _, rate, size in rows]
    rate_width, size_width = (max(map(len, column)) for column in zip(*texts, strict=True))
    return [
        (label, Text(f"{rate:>{rate_width}}{f'   {size:>{size_width}}' if size_width else ''}   {end:>15}".rstrip()))
        for (label, _, _), (rate, size), end in zip(rows, texts, ends, strict=True)
    ]


def _failures(progress: Progress, width: int) -> Text:
    if not progress.failed:
        return Text("0")
    start = f"{progress.failed:,}"
    reasons = [f"{count:,} {reason}" for reason, count in progress.reasons.items()]
    return Text(f"{start}: {fitted(reasons, width - len(start) - 2)}" if reasons else start, "yellow")


def _fleet_rows(progress: Progress, width: int) -> Iterator[_Row]:
    fleet = progress.fleet
    if fleet.workers or fleet.lost_workers:
        yield "fleet", Text(f"{describe_workers(fleet)}, {pluralized(progress.shards_in_flight, 'shard')} in flight")
    if waiting := describe_waiting(progress):
        yield "waiting", Text(waiting)
    if fleet.slowest:
        hosts = [f"{_name(host)} {host.latency:.2f} s" for host in fleet.slowest if host.latency is not None]
        yield "slowest", Text(fitted(hosts, width))
    if fleet.resting:
        yield "resting", Text(fitted(_resting(fleet.resting), width, fleet.resting_hosts), "yellow")
    if note := describe_note(progress):
        yield "note", Text(sanitized(note), "yellow", overflow="fold", no_wrap=False)


def describe_workers(fleet: FleetCondition) -> str:
    """Return the number of workers online, and of the workers that were lost."""
    text = f"{pluralized(fleet.workers, 'worker')} online"
    return f"{text}, {fleet.lost_workers:,} lost" if fleet.lost_workers else text


def describe_note(progress: Progress) -> str:
    """Return the note for the user; empty if there is none."""
    return f"finishing {progress.finishing:,} more" if progress.finishing else progress.note


def progress_line(progress: Progress) -> str:
    """Return one line with the numbers of a progress, for a log."""
    speed, ended, total = progress.speed, progress.ended, progress.planned
    of_total = f" of {total:,}" if progress.plan_complete else ""
    percent = f" ({ended * 100 // total}%)" if total and progress.plan_complete else ""
    line = f"images: {ended:,}{of_total} images{percent} after {speed.seconds:.0f} s"
    line += f", {format_rate(speed.images_per_second)} images/s, {format_size(speed.bytes_per_second)}/s"
    if speed.seconds_left is not None:
        line += f", {format_duration(speed.seconds_left)} left"
    line += f"; {format_size(progress.bytes)}, {describe_failures(progress)}"
    if progress.done_before:
        line += f", {progress.done_before:,} finished before this command"
    line += f"; {pluralized(progress.shards_in_flight, 'shard')} in flight"
    return f"{line}, {describe_workers(progress.fleet)}" if progress.fleet.workers else line


def host_lines(progress: Progress) -> Iterator[str]:
    """Yield the lines about images that wait for hosts, and about resting hosts."""
    if waiting := describe_waiting(progress):
        yield waiting
    fleet = progress.fleet
    if fleet.resting:
        yield f"resting: {fitted(_resting(fleet.resting), 1000, fleet.resting_hosts)}"


def _resting(hosts: Iterable[HostReport]) -> list[str]:
    """Return the hosts with their conditions and the remaining times. `producer hosts` also shows the reasons."""
    return [
        f"{_name(host)} ({host.condition}{f', {format_duration(host.resting)} left' if host.resting else ''})"
        for host in hosts
    ]


def _name(host: HostReport) -> str:
    return shortened(sanitized(host.host), _HOST_WIDTH)


def fitted(items: Sequence[str], width: int, total: int | None = None) -> str:
    """Return the items that fit into a width, at least the first, and the number of items left out.

    Args:
        items: the items, the most important first.
        width: the number of columns.
        total: the number of all items, if ``items`` are only the first of them.
    """
    total = len(items) if total is None else total
    for shown in range(len(items), 0, -1):
        left_out = total - shown
        text = ", ".join(items[:shown]) + (f" and {left_out:,} more" if left_out else "")
        if len(text) <= width or shown == 1:
            return text
    return ""
