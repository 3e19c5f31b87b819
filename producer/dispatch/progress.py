"""The progress of a run, and the times of its dispatch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run, in images. ``planned`` grows while ``plan_complete`` is false."""

    success: int
    failed: int
    bytes: int
    planned: int
    plan_complete: bool
    #: Images finished by earlier commands of the run.
    done_before: int = 0
    #: The most frequent failure reason, and its number of images. Empty until an image has failed.
    main_reason: str = ""
    main_reason_count: int = 0
    #: An explanation for the user while no image finishes.
    note: str = ""
    #: The number of images still being downloaded after the run was told to end early; None before.
    finishing: int | None = None
    #: The number of images that wait for busy hosts, the host with the most of them, and the number of such hosts.
    waiting: int = 0
    busiest_host: str = ""
    busy_hosts: int = 0


@dataclass(slots=True)
class Timing:
    """The times, on the monotonic clock, at which the first task was sent and the last manifest was found."""

    first_sent: float = 0.0
    last_done: float = 0.0
    #: The number of images finished between these two times, and the number of these images that were resent.
    images: int = 0
    repaired: int = 0

    @property
    def wall_seconds(self) -> float:
        """The seconds from the first task to the last manifest."""
        return self.last_done - self.first_sent
