"""The health check of an HTTP service tells by its exit status whether the service answers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from producer.demo import DemoServer
from producer.keeping import ROOT


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthcheck", 0), ("//healthcheck", 0), ("///healthcheck", 0), ("/fault/not-found", 1)],
)
def test_exit_status_tells_the_answer(demo: DemoServer, path: str, status: int) -> None:
    """A 200 is healthy, anything else is not; an empty prefix leaves slashes that mean nothing."""
    argv = [sys.executable, "-m", "config.alive", f"{demo.url}{path}"]
    assert subprocess.run(argv, cwd=ROOT, capture_output=True, check=False).returncode == status
