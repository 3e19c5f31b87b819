"""The deadline of one download, and the timeout of each wait within it."""

from __future__ import annotations

from time import monotonic

#: Seconds by which the system may end a wait before its time.
_SLACK_SECONDS = 0.01


class Deadline:
    """When a download has to be over, and how long one wait may take; in seconds."""

    __slots__ = ("ends", "seconds", "timeout")

    def __init__(self, timeout: float, seconds: float) -> None:
        self.timeout, self.seconds = timeout, seconds
        self.ends = monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds until the end; negative when it is over."""
        return self.ends - monotonic()

    @property
    def timeout_message(self) -> str:
        """What is to be said of a server of whom a wait has ended without an answer: which bound that was."""
        if self.remaining <= _SLACK_SECONDS:
            return f"was not done within {self.seconds:g} s (--deadline)"
        return f"sent nothing for {self.timeout:g} s (--timeout)"

    def wait(self) -> float:
        """Return how long the next wait on a socket may take.

        Raises:
            TimeoutError: the deadline is over.
        """
        remaining = self.remaining
        if remaining <= 0:
            raise TimeoutError("the deadline is over")
        return min(self.timeout, remaining)
