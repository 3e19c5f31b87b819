"""The progress that a run passes to its display."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from producer.cli import run_commands
from producer.dispatch.progress import Progress


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (1, "Finishing 1 download in progress. Press Ctrl-C again to drop it."),
        (64, "Finishing 64 downloads in progress. Press Ctrl-C again to drop them."),
    ],
)
def test_finishing_downloads_are_announced(images: int, expected: str) -> None:
    """The number of current downloads is announced on its own line. After that, the progress shows it."""
    announced: list[str] = []
    shown: list[int | None] = []
    display: Any = SimpleNamespace(show=lambda progress: shown.append(progress.finishing), announce=announced.append)
    for finishing in (None, 0, images):
        run_commands._show_run(display, Progress(30, 10, 2048, 200, True, finishing=finishing), metrics=None)
    assert announced == [expected]
    assert shown == [None, 0, images]
