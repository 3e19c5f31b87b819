"""Ask for permission before each request, for the host that the request goes to. No I/O.

The downloader enters a `RequestGate` before each request and reports the result afterwards. With this interface, the
downloader does not depend on the limits per host (``tasks/throttle``).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol

from tasks.deadline import Deadline
from tasks.throttle_options import Target, ThrottleOptions


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request, as far as it says something about the host."""

    #: Seconds from the request to the header of the response; None if there was no response.
    latency: float | None = None
    #: Whether the host asked for fewer requests (status 429 or 503).
    refused: bool = False
    #: The seconds in the host's Retry-After.
    retry_after: float | None = None
    #: Whether the host failed to answer in time, or broke off.
    failed: bool = False


class Permit(Protocol):
    """The permission for one request."""

    @property
    def is_probe(self) -> bool:
        """Whether the request probes the host after a rest."""

    def end(self, answer: Answer | None) -> float | None:
        """Give the permission back when the response is read; called exactly once.

        Args:
            answer: the result; None if it says nothing about the host.

        Returns:
            the seconds for which the host rests from now; None if it does not rest.
        """


class RequestGate(Protocol):
    """Gives permissions. It is shared by all threads of a process."""

    @property
    def patience(self) -> float:
        """The longest time, in seconds, that a request waits here while its image keeps its slot."""

    def enter(self, target: Target, throttle: ThrottleOptions, deadline: Deadline) -> Permit:
        """Wait for the permission for a request, at most `patience` seconds. The wait extends the deadline.

        Raises:
            HostBusy: the host has no permission to give within this time.
            HostRestingError: the host rested too often in a row, so its images are not tried now.
        """

    def report_unreachable(self, target: Target, throttle: ThrottleOptions) -> float | None:
        """Report that an image failed because its host gave no response.

        Returns:
            the seconds for which the host rests from now; None if it does not rest, or is given up.
        """


class _Free:
    """The permission of a gate without limits."""

    is_probe = False

    def end(self, answer: Answer | None) -> float | None:
        """Return None."""
        return None


_FREE = _Free()


class OpenGate:
    """A gate without limits."""

    patience = inf

    def enter(self, target: Target, throttle: ThrottleOptions, deadline: Deadline) -> Permit:
        """Return a permission at once."""
        return _FREE

    def report_unreachable(self, target: Target, throttle: ThrottleOptions) -> float | None:
        """Return None."""
        return None
