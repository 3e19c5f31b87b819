"""Measure how long an image spends in each phase of its download. No I/O.

Every image passes this code many times, so its phases are plain integers: an enumeration takes twice as long.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Final


class Phase:
    """The phases of an image's download. The values are places in `Outcome.phases`."""

    #: From sending the task to its start in a slot.
    QUEUED: Final = 0
    #: Looking up the host, connecting, and the TLS handshake. A reused connection needs none of these.
    CONNECT: Final = 1
    #: From sending the request to the end of the response's header.
    FIRST_BYTE: Final = 2
    BODY: Final = 3
    #: Checking the image, and resizing it.
    VERIFY: Final = 4
    SAVE: Final = 5
    #: No phase: waits for a permit, and waits before a retry. It has no place in `Outcome.phases`.
    WAITING: Final = 6


#: The names of the phases, in the order of `Outcome.phases`.
PHASE_NAMES = ("queued", "connect", "first_byte", "body", "verify", "save")


class PhaseClock:
    """Adds up the time of a delivery by phase, over all attempts and redirects. At any time, one phase is current.

    If a step fails, its time so far counts for its phase. So a step needs no code for the case of an error.
    """

    __slots__ = ("_current", "_since", "_spent")

    def __init__(self) -> None:
        #: The nanoseconds of each phase.
        self._spent = [0, 0, 0, 0, 0, 0, 0]
        self._current: int = Phase.WAITING
        self._since = monotonic_ns()

    def enter(self, phase: int) -> None:
        """End the current phase, and begin another one."""
        now = monotonic_ns()
        self._spent[self._current] += now - self._since
        self._current, self._since = phase, now

    def add(self, phase: int, seconds: float) -> None:
        """Add time that was measured elsewhere."""
        self._spent[phase] += int(seconds * 1e9)

    def finish(self) -> tuple[int, ...]:
        """End the current phase, and return the microseconds of each phase in the order of `Phase`."""
        self.enter(Phase.WAITING)
        return tuple([spent // 1000 for spent in self._spent[: Phase.WAITING]])
