"""Limit the decoded pixels that the threads of a worker process hold in memory at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.deadline import Deadline
from tasks.errors import FetchTimeoutError

#: Maximum number of decoded pixels that the threads of a process may hold at once. A pixel takes 4 to 16 bytes. Photos
#: from phones are decoded at an eighth of their size. So a thread waits only if its image is a huge PNG, a huge
#: progressive JPEG, or an AVIF (see `estimate_pixels`).
_MAX_PIXELS = 32_000_000


class PixelBudget:
    """A budget of decoded pixels.

    Threads reserve pixels in the order in which they ask. An image with more pixels than the budget is decoded alone.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels, self._reserved = pixels, 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int, deadline: Deadline) -> Iterator[None]:
        """Reserve pixels of the budget.

        Raises:
            FetchTimeoutError: the deadline passed before enough pixels were free.
        """
        # A waiting thread keeps its turn. If small images could go first, many small images could make a large image
        # wait forever.
        if not self._turn.acquire(timeout=max(0.0, deadline.remaining)):
            raise _no_budget_error()
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: self._fits(pixels), deadline.remaining):
                    raise _no_budget_error()
                self._reserved += pixels
        finally:
            self._turn.release()
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= pixels
                self._changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        return not self._reserved or self._reserved + pixels <= self._pixels


def _no_budget_error() -> FetchTimeoutError:
    return FetchTimeoutError("the deadline passed before enough memory was free to decode the image")


PIXEL_BUDGET = PixelBudget(_MAX_PIXELS)
