"""Render the hosts of a fleet. Nothing here prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.dispatch.host_report import HostCondition, HostReport
from producer.formatting import list_names, pluralized

if TYPE_CHECKING:
    from producer.dispatch.progress import Progress

_STYLES = {
    HostCondition.GIVEN_UP: "bold red",
    HostCondition.RESTS: "yellow",
    HostCondition.PROBED: "yellow",
    HostCondition.REDUCED: "yellow",
}
#: The maximum width of a host's name in columns.
_HOST_WIDTH = 40


def render_hosts(reports: Sequence[HostReport], most: int) -> RenderableType:
    """Render hosts as a table, with the reasons for their conditions below, and the number of hosts in each condition.

    Args:
        reports: the hosts, the worst first.
        most: the maximum number of hosts in the table.
    """
    if not reports:
        return Text("The fleet has used no host in the last hour.")
    counts = Counter(report.condition for report in reports)
    shown = ", ".join(f"{counts[condition]:,} {condition}" for condition in HostCondition if counts[condition])
    chosen = reports[:most]
    left_out = len(reports) - len(chosen)
    others = f" Not shown: {pluralized(left_out, 'host')}; see --limit and --json." if left_out else ""
    end = Text(f"{pluralized(len(reports), 'host')}: {shown}.{others}")
    return Group(_table(chosen), *_reasons(chosen), end) if chosen else end


def _table(reports: Sequence[HostReport]) -> RenderableType:
    has_rate = any(report.rate is not None for report in reports)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    # On a narrow terminal, only the names are wrapped.
    table.add_column("host", overflow="fold")
    table.add_column("", no_wrap=True)
    for heading in ("open", *(("per s",) if has_rate else ()), "waiting", "ok", "refused", "silent", "latency"):
        table.add_column(heading, justify="right", no_wrap=True)
    for report in reports:
        table.add_row(*_row(report, has_rate))
    return table


def _row(report: HostReport, has_rate: bool) -> Iterator[RenderableType]:
    yield Text(shortened(report.host))
    yield Text(report.condition, _STYLES.get(report.condition, ""))
    yield f"{report.open}" if report.limit is None else f"{report.open}/{report.limit}"
    if has_rate:
        yield "" if report.rate is None else f"{report.rate:g}"
    for count in (report.parked, report.ok, report.refused, report.unreachable + report.slow):
        yield f"{count:,}"
    yield "" if report.latency is None else f"{report.latency:.2f} s"


def _reasons(reports: Sequence[HostReport]) -> Iterator[Text]:
    """Yield a line for each reason, with its hosts, and an empty line at the end."""
    hosts: dict[str, list[str]] = {}
    for report in reports:
        if report.reason:
            hosts.setdefault(report.reason, []).append(report.host)
    for reason, names in hosts.items():
        yield Text(f"{list_names(names)}: {reason}")
    if hosts:
        yield Text("")


def describe_host(report: HostReport) -> str:
    """Describe a host in one line, for the report of a run."""
    texts = [f"{report.condition}: {report.reason}" if report.reason else str(report.condition)]
    requests = report.ok + report.slow + report.refused + report.unreachable
    if report.refused:
        texts.append(f"{report.refused:,} of {requests:,} requests refused")
    if silent := report.unreachable + report.slow:
        texts.append(f"{silent:,} without an answer")
    if report.latency is not None:
        texts.append(f"latency {report.latency:.2f} s")
    return "; ".join(texts)


def describe_waiting(progress: Progress) -> str:
    """Say how many images wait for busy hosts, in less than 80 columns; empty if none waits."""
    if not progress.waiting or not progress.busiest_host:
        return ""
    images = f"{pluralized(progress.waiting, 'image')} {'waits' if progress.waiting == 1 else 'wait'}"
    host = shortened(progress.busiest_host, 30)
    if progress.busy_hosts == 1:
        return f"{images} for {host}"
    return f"{images} for busy hosts, most for {host}"


def shortened(host: str, width: int = _HOST_WIDTH) -> str:
    """Return a host's name; the middle of a long name is left out."""
    if len(host) <= width:
        return host
    return f"{host[: width // 2 - 1]}…{host[-(width - width // 2) :]}"
