"""What a worker counts for its metrics.

To add a metric, add a method here that does nothing, count in `tasks.metrics.prometheus`, and describe the metric in
``docs/monitoring.md``. A label may have only a few values, and never a host, a URL, a file or a run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum

from tasks.model import Outcome


class Deferral(StrEnum):
    """Why the task of an image ended without an Outcome, to run again later."""

    #: The image's host gets no further request now, so the task is parked.
    HOST_BUSY = "host_busy"
    #: A server asked for a wait that is too long for a slot.
    LONG_WAIT = "long_wait"
    #: Another worker should try the image.
    OTHER_WORKER = "other_worker"


@dataclass(frozen=True, slots=True)
class WorkerState:
    """Functions that return the present state of a worker. They are called when the metrics are read."""

    busy_slots: Callable[[], int]
    held_images: Callable[[], int]
    is_unfit: Callable[[], bool]


class WorkerMetrics:
    """The counters of a worker without metrics: nothing is counted."""

    def count_image(self, outcome: Outcome) -> None:
        """Count an image that has its Outcome."""

    def count_deferral(self, why: Deferral) -> None:
        """Count a task that ended without an Outcome, to run again later."""

    def count_redelivery(self) -> None:
        """Count a task that another worker has taken before."""

    def collecting(self) -> AbstractContextManager[None]:
        """Count a shard that is collected in the block. If the block raises an error, the shard counts as failed."""
        return nullcontext()

    def set_slots(self, slots: int) -> None:
        """Set the number of download slots."""
