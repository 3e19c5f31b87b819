"""The progress that a run passes to its display."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from producer.cli import run_commands
from producer.cli.progress_display import DisplayedProgress
from producer.dispatch.progress import Progress


def test_progress_separates_earlier_images() -> None:
    """Images are counted for the whole run. A label marks the figures that cover only this command."""
    shown: list[tuple[str, DisplayedProgress]] = []
    display: Any = SimpleNamespace(show=lambda *arguments: shown.append(arguments))
    run_commands._show_run(display, Progress(30, 10, 2048, 200, True, done_before=60))
    run_commands._show_run(display, Progress(30, 10, 2048, 200, False, note="waiting"))
    assert shown == [
        ("images", DisplayedProgress(100, 200, "60 were done before; since then 2.0 KiB, 10 failed", done_before=60)),
        ("images", DisplayedProgress(40, None, "2.0 KiB, 10 failed", "waiting")),
    ]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (1, "Finishing 1 download in progress. Press Ctrl-C again to drop it."),
        (64, "Finishing 64 downloads in progress. Press Ctrl-C again to drop them."),
    ],
)
def test_finishing_downloads_are_announced(images: int, expected: str) -> None:
    """The number of current downloads is announced on its own line. After that, it is shown beside the counts."""
    announced: list[str] = []
    notes: list[str] = []
    display: Any = SimpleNamespace(show=lambda _, progress: notes.append(progress.note), announce=announced.append)
    for finishing in (None, 0, images):
        run_commands._show_run(display, Progress(30, 10, 2048, 200, True, finishing=finishing))
    assert announced == [expected]
    assert notes == ["", "", f"finishing {images} more"]
