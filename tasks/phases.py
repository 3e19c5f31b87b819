"""Measure how long an image spends in each phase of its download. No I/O."""

from __future__ import annotations

from enum import IntEnum
from time import monotonic


class Phase(IntEnum):
    """A phase of an image's download. The values are places in `Outcome.phases`."""

    #: From sending the task to its start in a slot.
    QUEUED = 0
    #: Looking up the host, connecting, and the TLS handshake. A reused connection needs none of these.
    CONNECT = 1
    #: From sending the request to the end of the response's header.
    FIRST_BYTE = 2
    BODY = 3
    #: Checking the image, and resizing it.
    VERIFY = 4
    SAVE = 5


#: The names of the phases, in the order of `Outcome.phases`.
PHASE_NAMES = tuple(phase.name.lower() for phase in Phase)
#: The place for time that belongs to no phase: waits for a permit, and waits before a retry.
_WAITING = len(Phase)


class PhaseClock:
    """Adds up the time of a delivery by phase, over all attempts and redirects. At any time, one phase is current.

    If a step fails, its time so far counts for its phase. So a step needs no code for the case of an error.
    """

    __slots__ = ("_current", "_seconds", "_since")

    def __init__(self) -> None:
        self._seconds = [0.0] * (len(Phase) + 1)
        self._current, self._since = _WAITING, monotonic()

    def enter(self, phase: Phase) -> None:
        """End the current phase, and begin another one."""
        self._switch(phase)

    def wait(self) -> None:
        """End the current phase. Until the next phase begins, the time counts for no phase."""
        self._switch(_WAITING)

    def add(self, phase: Phase, seconds: float) -> None:
        """Add time that was measured elsewhere."""
        self._seconds[phase] += seconds

    def finish(self) -> tuple[int, ...]:
        """End the current phase, and return the microseconds of each phase in the order of `Phase`."""
        self._switch(_WAITING)
        return tuple([round(seconds * 1e6) for seconds in self._seconds[:_WAITING]])

    def _switch(self, place: int) -> None:
        now = monotonic()
        self._seconds[self._current] += now - self._since
        self._current, self._since = place, now
