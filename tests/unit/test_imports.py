"""A command is up in a moment: what it does not need is not imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: The packages whose import takes a tenth of a second or more, or that only some commands need.
_HEAVY = {"PIL", "celery", "flower", "kombu", "matplotlib", "numpy", "pyarrow", "requests", "tornado", "urllib3"}


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        # Help, and what is said of wrong options.
        ("producer.cli", set()),
        # The process that outlives the producer, and the image server.
        ("producer.keeper", set()),
        ("producer.demo", {"PIL"}),
        # A worker.
        ("tasks.jobs", {"PIL", "celery", "kombu", "numpy", "pyarrow", "requests", "urllib3"}),
    ],
)
def test_only_what_is_needed_is_imported(module: str, needed: set[str]) -> None:
    """Nobody waits for Arrow to be told of a wrong option, or loads a plot's library into a worker."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & _HEAVY <= needed
