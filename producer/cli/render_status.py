"""Render the status of a run. Nothing here prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import RenderableType

from producer.cli.render_progress import ProgressView

if TYPE_CHECKING:
    from producer.runs.status import RunStatus


def render_status(status: RunStatus) -> RenderableType:
    """Render a status: the run, its progress, and the next step."""
    tail = [("next", status.next)] if status.next else []
    return ProgressView(status.progress, head_rows(status), tail)


def head_rows(status: RunStatus) -> list[tuple[str, str]]:
    """Return the rows about the run: its id, its list, its folder, and its state."""
    return [("run", status.run_id), ("list", status.source), ("folder", status.out), ("state", _describe_state(status))]


def _describe_state(status: RunStatus) -> str:
    if status.is_running:
        text = f"{status.state} since {_local_time(status.started_at)}"
        return text if status.live else f"{text}; the numbers are those of the finished shards"
    if status.state == "complete":
        return status.state if status.finished_at is None else f"{status.state} at {_local_time(status.finished_at)}"
    why = "its producer was killed" if status.state == "killed" else f"{status.state}"
    return f"{why}; images of unfinished shards are not counted"


def _local_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
