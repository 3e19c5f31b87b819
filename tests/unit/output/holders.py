"""Other processes that use the lock of an output folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from producer.local_fleet.supervisor_client import ROOT


@contextmanager
def running_holder(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script in another process. Wait until the script prints "held", and kill the process at the end."""
    argv = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()
