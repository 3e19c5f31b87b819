"""The health check of an HTTP service exits with 0 if the service is healthy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from producer.demo import DemoServer
from producer.local_fleet.supervisor_client import ROOT


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthcheck", 0), ("//healthcheck", 0), ("///healthcheck", 0), ("/fault/not-found", 1)],
)
def test_exit_status_follows_the_response(demo: DemoServer, path: str, status: int) -> None:
    """Only a service that answers 200 is healthy. Extra slashes from an empty prefix make no difference."""
    argv = [sys.executable, "-m", "config.healthcheck", f"{demo.url}{path}"]
    assert subprocess.run(argv, cwd=ROOT, capture_output=True, check=False).returncode == status
