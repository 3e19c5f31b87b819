"""What commands have to tell as terminal text: numbers, findings and faults. Prints nothing itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tasks.errors import Fault
from tasks.redaction import masked

if TYPE_CHECKING:
    # A fault is shown by this module too, also one that keeps these from being imported.
    from producer.comparison import Comparison
    from producer.dispatch import Progress
    from producer.doctor import Diagnosis
    from producer.run import Completion, Report


_HINTS = {
    "blocked_address": "  (error_message says which address or port, and how the worker's operator can allow it)",
    "storage": "  (see IMAGEFLEET_STORE_ROOTS where the worker runs, and its disk)",
}
_PROXY_HINT = "  (IMAGEFLEET_PROXY is set here, and may be what can't be reached: `producer doctor` tries it)"


def size(count: float) -> str:
    """Return a number of bytes in the unit that fits, by powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if round(count, 1) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def failures(progress: Progress) -> str:
    """Return how many images of a run have failed so far, and why most of them have."""
    text = f"{progress.failed:,} failed"
    if not progress.main_reason:
        return text
    # The workers' sums may be a moment ahead of what is shown as failed.
    if progress.main_reason_count >= progress.failed:
        return f"{text} ({progress.main_reason})"
    return f"{text} ({progress.main_reason_count:,} of them {progress.main_reason})"


def of_run(report: Report) -> RenderableType:
    """Return what is shown after a run."""
    # Not before: a fault may be that it can't be read.
    from config.settings import settings

    summary = report.summary
    hints = _HINTS if settings().proxy is None else {**_HINTS, "connect": _PROXY_HINT}
    grid = Table.grid(padding=(0, 2))
    if report.completion is not None:
        grid.add_row("Done here", Text("nothing; the numbers are those of the run as it was completed", "bold"))
        grid.add_row("Completed", _of_completion(report.completion, summary.total))
    else:
        grid.add_row("Total Execution Time", Text(f"{report.wall_seconds:.2f} seconds", "bold"))
        grid.add_row("Images per second", f"{report.images_per_second:,.1f}")
        if report.images != summary.total:
            grid.add_row("Done here", f"{report.images:,} of {summary.total:,} images, in this time")
    grid.add_row("Images", f"{summary.total:,} in {summary.shards:,} {'shard' if summary.shards == 1 else 'shards'}")
    for status, count in summary.statuses.items():
        grid.add_row(f"  {status}", f"{count:,}")
    if report.since is not None:
        grid.add_row("  unchanged", Text(f"{summary.unchanged:,} of them, taken over from {report.since}"))
    if summary.reasons:
        grid.add_row("Reasons of failures", "")
    for reason, count in summary.reasons.items():
        grid.add_row(f"  {reason}", f"{count:,}{hints.get(reason, '')}")
    if report.before:
        grid.add_row("Tried again", f"{sum(report.before.values()):,}")
        for reason, number in report.before.items():
            grid.add_row(f"  {reason}", f"{number:,} before, {summary.reasons.get(reason, 0):,} now")
    if report.repaired:
        grid.add_row("Repaired", f"{report.repaired:,} lost tasks were sent again")
    grid.add_row("Saved", size(summary.bytes))
    if report.completion is None:
        fleet = _fleet(report.workers, report.concurrency)
        grid.add_row("Fleet", f"{fleet}; ready after {report.startup_seconds:.2f} s")
    for worker in report.unfit:
        grid.add_row("Unfit worker", Text(plain(str(worker))))
    if summary.success:
        grid.add_row("Images are in", Text(f"{report.out}/00000/ …"))
    grid.add_row("Manifests are in", Text(f"{report.out}/00000.parquet …"))
    if summary.failed:
        grid.add_row(
            "Failures are",
            "the manifests' rows whose status is not success; reason and error_message say why",
        )
    return grid


def _of_completion(completion: Completion, total: int) -> str:
    """Return what an earlier command did that has completed a run."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(completion.finished_at))
    done = f"{completion.images:,} of {total:,} images in {completion.wall_seconds:.2f} seconds"
    fleet = _fleet(completion.workers, completion.concurrency)
    return f"{when}, by a command that did {done} ({completion.images_per_second:,.1f} a second) with {fleet}"


def _fleet(workers: int, slots: int) -> str:
    return f"{workers} {'worker' if workers == 1 else 'workers'}, {slots} slots"


def of_comparison(comparison: Comparison) -> RenderableType:
    """Return the table of a comparison."""
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
        f"The fleet was ready after {comparison.startup_seconds:.2f} s, which are not part of its time.", "dim"
    )
    reasons = [
        Text(f"{way.name}: {count} x {reason}", "yellow")
        for way in comparison.ways
        for reason, count in way.summary.reasons.items()
    ]
    return Group(table, started, *reasons)


_LEVELS = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def of_diagnosis(diagnosis: Diagnosis) -> RenderableType:
    """Return the table of what the doctor found, and what it comes to."""
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
        end = Text("Runs will not work before what is bad is mended.", "bold red")
    elif counts["warn"]:
        end = Text("Runs will work; look at the warnings.", "yellow")
    else:
        end = Text("All is well.", "green")
    return Group(table, end)


def of_fault(fault: Fault) -> RenderableType:
    """Return what is shown of a fault: what happened, why, and what to do."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("Error:", "bold red"), Text(plain(fault.what)))
    grid.add_row(Text("Why:", "bold"), Text(plain(fault.why)))
    grid.add_row(Text("To do:", "bold"), Text(plain(fault.todo)))
    return grid


def plain(text: str) -> str:
    """Return a text that may quote a file or a server: without secrets, and nothing in it is a terminal's command."""
    return "\n".join(map(masked, text.splitlines()))
