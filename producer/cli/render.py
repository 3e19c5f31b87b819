"""Render reports, findings and errors as terminal text. Nothing here prints."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.formatting import format_size, pluralized
from tasks.errors import CommandError
from tasks.redaction import redacted

if TYPE_CHECKING:
    # Not imported at run time. If one of these imports fails, this module must still be able to show the error.
    from producer.comparison.comparison import Comparison
    from producer.dispatch.progress import Progress
    from producer.doctor.diagnosis import Diagnosis
    from producer.runs.result import PreviousResult, RunResult


_HINTS = {
    "blocked_address": "  (error_message names the address or port, and how the worker's operator can allow it)",
    "storage": "  (check IMAGEFLEET_STORE_ROOTS and the disk on the worker's machine)",
}
_PROXY_HINT = "  (IMAGEFLEET_PROXY is set here, and the proxy may be unreachable: check it with `producer doctor`)"


def describe_failures(progress: Progress) -> str:
    """Return the number of failed images so far, with their main reason."""
    text = f"{progress.failed:,} failed"
    reason, count = next(iter(progress.reasons.items()), ("", 0))
    if not reason:
        return text
    # For a moment, the workers' counts by reason may add up to more than the number of failures.
    return f"{text} ({reason})" if count >= progress.failed else f"{text} ({count:,} of them {reason})"


def render_run(result: RunResult, report: str | None = None) -> RenderableType:
    """Render the result of a run. ``report`` is the file with its report."""
    grid = Table.grid(padding=(0, 2))
    for row in (*_speed_rows(result), *_count_rows(result), *_fleet_rows(result), *_file_rows(result, report)):
        grid.add_row(*row)
    return grid


def _speed_rows(result: RunResult) -> Iterator[tuple[RenderableType, ...]]:
    total = result.summary.total
    if result.completion is not None:
        yield "This command", Text("nothing to do; the figures are from when the run completed", "bold")
        yield "Completed", _describe_previous_result(result.completion, total)
        return
    yield "Total Execution Time", Text(f"{result.wall_seconds:.2f} seconds", "bold")
    yield "Images per second", f"{result.images_per_second:,.1f}"
    if result.images != total:
        yield "This command", f"{result.images:,} of {total:,} images, in this time"


def _count_rows(result: RunResult) -> Iterator[tuple[RenderableType, ...]]:
    # Not imported at the top, because this module must be able to show errors in the settings, too.
    from config.settings import settings

    summary = result.summary
    folder = shlex.quote(result.out)
    hints = {**_HINTS, "host_resting": f"  (hosts that were given up: retry later with `producer retry {folder}`)"}
    if settings().proxy is not None:
        hints["connect"] = _PROXY_HINT
    yield "Images", f"{summary.total:,} in {pluralized(summary.shards, 'shard')}"
    for status, count in summary.statuses.items():
        yield f"  {status}", f"{count:,}"
    if result.previous_run is not None:
        yield "  unchanged", Text(f"{summary.unchanged:,} of them, reused from {result.previous_run}")
    if summary.reasons:
        yield "Reasons of failures", ""
    for reason, count in summary.reasons.items():
        yield f"  {reason}", f"{count:,}{hints.get(reason, '')}"
    if result.before:
        yield "Retried", f"{sum(result.before.values()):,}"
        for reason, number in result.before.items():
            yield f"  {reason}", f"{number:,} before, {summary.reasons.get(reason, 0):,} now"
    if result.repaired:
        yield "Repaired", f"{pluralized(result.repaired, 'lost task')}, sent again"
    yield "Saved", format_size(summary.bytes)


def _fleet_rows(result: RunResult) -> Iterator[tuple[RenderableType, ...]]:
    if result.completion is None:
        fleet = _describe_fleet(result.workers, result.slots)
        yield "Fleet", f"{fleet}; ready after {result.startup_seconds:.2f} s"
    for worker in result.unfit:
        yield "Unfit worker", Text(sanitized(str(worker)))
    if result.hosts:
        # Not imported at the top, for the same reason as the settings.
        from producer.cli.render_hosts import describe_host, shortened

        yield "Troubled hosts", ""
        for host in result.hosts:
            yield Text(f"  {shortened(host.host)}"), Text(describe_host(host))


def _file_rows(result: RunResult, report: str | None) -> Iterator[tuple[RenderableType, ...]]:
    if result.summary.success:
        yield "Images are in", Text(f"{result.out}/{result.first_images} …")
    yield "Manifests are in", Text(f"{result.out}/00000.parquet …")
    if report is not None:
        yield "The report is in", Text(report)
    if result.summary.failed:
        # Not imported at the top, for the same reason as the settings.
        from producer.output.run_file import FAILURES_NAME

        summary = f"producer failures {shlex.quote(result.out)}"
        yield "Failures are in", Text(f"{result.out}/{FAILURES_NAME} (for a summary: {summary})")


def _describe_previous_result(completion: PreviousResult, total: int) -> str:
    """Describe the earlier command that completed the run."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(completion.finished_at))
    done = f"{completion.images:,} of {total:,} images in {completion.wall_seconds:.2f} seconds"
    fleet = _describe_fleet(completion.workers, completion.concurrency)
    return f"{when}, by a command with {fleet}: {done} ({completion.images_per_second:,.1f} per second)"


def _describe_fleet(workers: int, slots: int) -> str:
    return f"{pluralized(workers, 'worker')}, {slots} slots"


def render_comparison(comparison: Comparison) -> RenderableType:
    """Render the table of a comparison, and what explains the difference between threads and fleet."""
    # Not imported at the top, because this module must be able to show errors even if this import fails.
    from producer.comparison.explanation import explain

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("way")
    for heading in ("at once", "Total Execution Time", "images/s", "speed-up", "saved", "failed"):
        table.add_column(heading, justify="right")
    for way in comparison.ways:
        table.add_row(
            way.name,
            str(way.slots),
            f"{way.wall_seconds:.2f} seconds",
            f"{way.images_per_second:,.1f}",
            f"{comparison.speedup(way):.1f} x",
            f"{way.summary.success:,}",
            f"{way.summary.failed:,}",
        )
    started = Text(
        f"The fleet was ready after {comparison.startup_seconds:.2f} s; its time does not include this wait.", "dim"
    )
    reasons = [
        Text(f"{way.name}: {count} x {reason}", "yellow")
        for way in comparison.ways
        for reason, count in way.summary.reasons.items()
    ]
    return Group(table, *map(Text, explain(comparison)), started, *reasons)


_LEVELS = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def render_diagnosis(diagnosis: Diagnosis) -> RenderableType:
    """Render the doctor's findings as a table, with a conclusion."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("found", ratio=3)
    table.add_column("to do", ratio=2)
    for finding in diagnosis.findings:
        level = Text(finding.level, _LEVELS[finding.level])
        table.add_row(finding.name, level, Text(finding.found), Text(finding.todo))
    counts = {level: sum(finding.level == level for finding in diagnosis.findings) for level in ("bad", "warn")}
    if counts["bad"]:
        end = Text('Runs will fail until the problems marked "bad" are fixed.', "bold red")
    elif counts["warn"]:
        end = Text("Runs will work, but see the warnings.", "yellow")
    else:
        end = Text("No problems found.", "green")
    return Group(table, end)


def render_error(error: CommandError) -> RenderableType:
    """Render an error: what happened, why, and what to do."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("Error:", "bold red"), Text(sanitized(error.what)))
    grid.add_row(Text("Why:", "bold"), Text(sanitized(error.why)))
    grid.add_row(Text("To do:", "bold"), Text(sanitized(error.hint)))
    return grid


def sanitized(text: str) -> str:
    """Return a text without secrets and terminal commands. Text quoted from files and servers may contain both."""
    return "\n".join(map(redacted, text.splitlines()))
