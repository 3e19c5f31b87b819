"""How far a run is, and the times of its dispatch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. ``planned`` grows while ``plan_complete`` is false; counts are of images."""

    success: int
    failed: int
    bytes: int
    planned: int
    plan_complete: bool
    #: Images that an earlier command of the run has seen to the end.
    done_before: int = 0
    #: The reason of most failures, and how many images failed for it; empty while none has failed.
    main_reason: str = ""
    main_reason_count: int = 0
    #: What a person should know when nothing moves.
    note: str = ""
    #: Once the run was told to end early, how many images are still being downloaded; None before that.
    finishing: int | None = None


@dataclass(slots=True)
class Timing:
    """When the first task was sent and when the last shard's manifest stood; seconds of the monotonic clock."""

    first_sent: float = 0.0
    last_done: float = 0.0
    #: Images whose Outcomes came in this time, and how many of them had to be sent again.
    images: int = 0
    repaired: int = 0

    @property
    def wall_seconds(self) -> float:
        """The time in between."""
        return self.last_done - self.first_sent
