"""Let a fault occur only once, regardless of the number of workers and their restarts."""

from __future__ import annotations

import os
from pathlib import Path

#: The environment variable that has the path of a file. The fault creates this file.
VARIABLE = "FAULTS_ONCE"


def is_first() -> bool:
    """Return true for the first caller only, across all processes."""
    try:
        Path(os.environ[VARIABLE]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
