"""The exception for a long wait. The task is requeued and frees its slot, and any worker may run it later. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PriorAttempts:
    """How many attempts and seconds a task's earlier deliveries took. Each delivery ended with a long wait."""

    attempts: int = 0
    #: Seconds spent in the deliveries, without the waits between them.
    seconds: float = 0.0


#: The value for a task's first delivery.
NO_PRIOR_ATTEMPTS = PriorAttempts()


class RetryLater(Exception):  # noqa: N818  # not an error, like Celery's Retry
    """Raised to free a slot and fetch the image later; the exception's text gives the reason in redacted form."""

    def __init__(self, message: str, countdown: float, prior: PriorAttempts) -> None:
        """Create the exception.

        Args:
            message: the reason, redacted.
            countdown: seconds until the next delivery.
            prior: attempts and time spent so far.
        """
        super().__init__(message)
        self.countdown, self.prior = countdown, prior


class HostBusy(Exception):  # noqa: N818  # it steers a task, as Celery's Retry does
    """Raised to free a slot, because the host gives no permission for a request soon."""

    def __init__(self, host: str, why: str, wait: float) -> None:
        """Create the exception.

        Args:
            host: the key of the host, as in ``tasks/throttle/host_key.py``.
            why: what the host waits for.
            wait: seconds until another try is worthwhile.
        """
        super().__init__(f"{host} {why}")
        self.host, self.wait = host, wait
