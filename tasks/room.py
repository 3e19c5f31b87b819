"""Room for decoded pixels: as much as the threads of a worker process hold at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.deadline import Deadline
from tasks.errors import TimedOut

#: Pixels that the threads of a process hold decoded at once, of 4 to 16 bytes each. Phones' photos are decoded at an
#: eighth of their size, so who waits here has a huge PNG or progressive JPEG, or an AVIF (`tasks.footprint`).
_MAX_HELD = 32_000_000


class Room:
    """Room for decoded pixels. Who finds too little waits, in turn; an image larger than all of it goes alone."""

    def __init__(self, pixels: int) -> None:
        self._pixels, self._held = pixels, 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def of(self, pixels: int, deadline: Deadline) -> Iterator[None]:
        """Hold room for so many pixels.

        Raises:
            TimedOut: the deadline was over before there was enough.
        """
        # Who waits for room keeps the turn, or a large image would wait for ever beside many small ones.
        if not self._turn.acquire(timeout=max(0.0, deadline.remaining)):
            raise _no_room()
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: self._fits(pixels), deadline.remaining):
                    raise _no_room()
                self._held += pixels
        finally:
            self._turn.release()
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        return not self._held or self._held + pixels <= self._pixels


def _no_room() -> TimedOut:
    return TimedOut("the deadline was over before there was room to decode the image")


room = Room(_MAX_HELD)
