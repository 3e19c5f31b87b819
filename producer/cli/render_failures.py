"""Render the failed images of a run: how many for each reason, with examples. Nothing here prints."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.cli.render import sanitized
from producer.formatting import pluralized
from producer.output.run_file import continue_command
from tasks.errors import WORTH_RETRYING

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.storage.store import Store

#: The maximum number of examples, and of characters to show of a URL.
_EXAMPLES, _URL_LENGTH = 10, 300


class _Cause(NamedTuple):
    """A cause of failures: the reason, and the status of the server's answer."""

    reason: str
    http_status: int | None


@dataclass(slots=True)
class FailureSummary:
    """The number of failed images for each cause, a message for each cause, and the first failed images."""

    counts: Counter[_Cause] = field(default_factory=Counter)
    messages: dict[_Cause, str] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The number of failed images."""
        return self.counts.total()

    def add(self, table: pa.Table) -> None:
        """Add rows of failed images."""
        columns = [table[name].to_pylist() for name in ("reason", "http_status", "error_message")]
        for reason, http_status, message in zip(*columns, strict=True):
            cause = _Cause(str(reason), http_status)
            self.counts[cause] += 1
            if message is not None:
                self.messages.setdefault(cause, str(message))
        self.examples += table.slice(0, _EXAMPLES - len(self.examples)).to_pylist()


def summarise_failures(tables: Iterable[pa.Table]) -> FailureSummary:
    """Return the summary of failed images. One table is in memory at a time."""
    summary = FailureSummary()
    for table in tables:
        summary.add(table)
    return summary


def render_failures(summary: FailureSummary, store: Store, reasons: Collection[str]) -> RenderableType:
    """Render a summary of failed images, and the commands for the next steps.

    Args:
        summary: the failed images.
        store: the run's folder.
        reasons: the reasons to which the summary is limited; empty for all.
    """
    if not summary.total:
        return Text("No image failed for these reasons." if reasons else "No image failed.")
    return Group(_causes(summary), *_examples(summary), Text(), _next_steps(summary, store, reasons))


def _causes(summary: FailureSummary) -> RenderableType:
    # The examples lack columns such as the message, so the table is useful even if they are all.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("failed", justify="right", no_wrap=True)
    table.add_column("reason", no_wrap=True)
    table.add_column("HTTP", justify="right", no_wrap=True)
    table.add_column("retry", no_wrap=True)
    table.add_column("for example", overflow="fold")
    for cause, count in summary.counts.most_common():
        status = "" if cause.http_status is None else str(cause.http_status)
        retry = Text("yes", "green") if cause.reason in WORTH_RETRYING else Text("no", "dim")
        table.add_row(f"{count:,}", cause.reason, status, retry, Text(sanitized(summary.messages.get(cause, ""))))
    return table


def _examples(summary: FailureSummary) -> Iterator[RenderableType]:
    shown = len(summary.examples)
    yield Text(f"The first {shown} of {summary.total:,}:" if shown < summary.total else "All of them:", "bold")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in summary.examples:
        url = sanitized(str(row["url"]))
        shortened = url if len(url) <= _URL_LENGTH else f"{url[:_URL_LENGTH]}…"
        grid.add_row(Text(str(row["key"])), Text(str(row["reason"])), Text(shortened))
    yield grid


def _next_steps(summary: FailureSummary, store: Store, reasons: Collection[str]) -> RenderableType:
    folder = shlex.quote(store.location)
    chosen = "".join(f" --reason {reason}" for reason in sorted(reasons))
    table = "See all" if len(summary.examples) < summary.total else "See all columns"
    steps = {table: f"producer failures {folder}{chosen} --format csv"}
    worth = sum(count for cause, count in summary.counts.items() if cause.reason in WORTH_RETRYING)
    if worth and not reasons:
        steps[f"Retry the {pluralized(worth, 'image')} that may succeed now"] = continue_command("retry", store)
    if worth < summary.total or reasons:
        steps[f"Retry all {summary.total:,}"] = continue_command("retry", store, chosen or " --all")
    # A command has a line of its own, so that it can be copied.
    return Group(*(Text.assemble((f"{what}:\n", "bold"), f"  {command}") for what, command in steps.items()))
