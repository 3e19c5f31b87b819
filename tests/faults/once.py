"""A fault that strikes once, however many workers there are, and however often they are started again."""

from __future__ import annotations

import os
from pathlib import Path

#: Names the file that stands once it has struck.
SETTING = "FAULTS_ONCE"


def strikes() -> bool:
    """Tell whether the fault is to strike now: true for whoever asks first."""
    try:
        Path(os.environ[SETTING]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
