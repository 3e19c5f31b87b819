"""A condition that a test waits for, in place of a sleep."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds until a condition that should come true at once is given up.
PATIENCE = 5.0


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return as soon as the condition holds; fail if it does not come true in time."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "the condition never came true"
        time.sleep(0.002)
