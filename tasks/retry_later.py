"""A wait that is too long for a slot: the image is fetched later, by whichever worker is given its task then. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PriorAttempts:
    """What earlier deliveries of a task have spent on its image, each of which ended with a wait."""

    attempts: int = 0
    #: Without the waits in between.
    seconds: float = 0.0


#: What was spent before the first delivery.
NO_PRIOR_ATTEMPTS = PriorAttempts()


class RetryLater(Exception):  # noqa: N818  # it steers a task, as Celery's Retry
    """Raised where a slot is handed back; its text says what was waited for, and is fit to be shown."""

    def __init__(self, message: str, countdown: float, prior: PriorAttempts) -> None:
        """Take what to do later.

        Args:
            message: why.
            countdown: seconds until then.
            prior: what was spent until now.
        """
        super().__init__(message)
        self.countdown, self.prior = countdown, prior
