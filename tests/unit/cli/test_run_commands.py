"""The progress of a run, as its display gets it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from producer.cli import run_commands
from producer.dispatch.dispatcher import Progress


def test_progress_separates_earlier_images() -> None:
    """Images are counted for the whole run; figures of this command alone are labelled so."""
    shown: list[tuple[Any, ...]] = []
    display: Any = SimpleNamespace(show=lambda *what: shown.append(what))
    run_commands._show_run(display, Progress(30, 10, 2048, 200, True, done_before=60))
    run_commands._show_run(display, Progress(30, 10, 2048, 200, False, note="waiting"))
    assert shown == [
        ("images", 100, 200, "60 were done before; since then 2.0 KiB, 10 failed", "", 60, False),
        ("images", 40, None, "2.0 KiB, 10 failed", "waiting", 0, False),
    ]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (1, "Finishing 1 download in progress. Press Ctrl-C again to drop it."),
        (64, "Finishing 64 downloads in progress. Press Ctrl-C again to drop them."),
    ],
)
def test_finishing_downloads_are_announced(images: int, expected: str) -> None:
    """The number of images still being downloaded is announced on its own line, then shown beside the counts."""
    announced: list[str] = []
    notes: list[str] = []
    display: Any = SimpleNamespace(show=lambda *what: notes.append(what[4]), announce=announced.append)
    for finishing in (None, 0, images):
        run_commands._show_run(display, Progress(30, 10, 2048, 200, True, finishing=finishing))
    assert announced == [expected]
    assert notes == ["", "", f"finishing {images} more"]
