"""The deadline of one download, and the timeout of each wait within the download."""

from __future__ import annotations

from time import monotonic

from tasks.phases import PhaseClock

#: Tolerance in seconds, because the system may end a wait slightly too early.
_SLACK_SECONDS = 0.01


class Deadline:
    """The end of a download and the longest single wait within the download, in seconds.

    The deadline accompanies a download through all its steps. So it also has the clock that measures these steps.
    """

    __slots__ = ("clock", "ends", "seconds", "timeout")

    def __init__(self, timeout: float, seconds: float) -> None:
        self.timeout, self.seconds = timeout, seconds
        self.ends = monotonic() + seconds
        self.clock = PhaseClock()

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.ends - monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return self.remaining <= _SLACK_SECONDS

    @property
    def timeout_message(self) -> str:
        """The message for a timeout, with the name of the exceeded limit. The caller prepends the server's name."""
        if self.is_over:
            return f"did not finish within {self.seconds:g} s (--deadline)"
        return f"sent nothing for {self.timeout:g} s (--timeout)"

    def extend(self, seconds: float) -> None:
        """Move the deadline, because a wait of this length does not count."""
        self.ends += seconds

    def wait(self) -> float:
        """Return the timeout of the next wait on a socket.

        Raises:
            TimeoutError: the deadline has passed.
        """
        remaining = self.remaining
        if remaining <= 0:
            raise TimeoutError("the deadline is over")
        return min(self.timeout, remaining)
