"""Wait for a condition by polling."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def wait_until(condition: Callable[[], _T], seconds: float, interval: float) -> _T:
    """Call a function until it returns a true result or the time is up. Return the last result.

    Args:
        condition: the function; it is called at least once.
        seconds: the time limit in seconds.
        interval: seconds between two calls.
    """
    ends = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < ends:
        time.sleep(interval)
    return result
