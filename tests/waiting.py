"""Wait for a condition in a test instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds to wait for a condition that should come true at once.
PATIENCE = 5.0


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return as soon as the condition holds. Fail if the condition is still false after the timeout."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "the condition never came true"
        time.sleep(0.002)
