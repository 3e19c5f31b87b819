"""Commands start quickly, because they import only needed packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Packages that take 0.1 s or more to import, or are needed by some commands only.
_HEAVY = {"PIL", "celery", "flower", "kombu", "matplotlib", "numpy", "pyarrow", "requests", "tornado", "urllib3"}


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        # Help and usage errors.
        ("producer.cli", set()),
        # The supervisor, which outlives the producer, and the image server.
        ("producer.keeper", set()),
        ("producer.demo", {"PIL"}),
        # A worker.
        ("tasks.jobs", {"PIL", "celery", "kombu", "numpy", "pyarrow", "requests", "urllib3"}),
    ],
)
def test_only_needed_packages_are_imported(module: str, needed: set[str]) -> None:
    """A usage error does not wait for Arrow, and no worker loads the plotting library."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & _HEAVY <= needed
