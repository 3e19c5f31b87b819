"""Calculate the wait before a retry: backoff, Retry-After, and the countdown of a requeued task. No I/O."""

from __future__ import annotations

import email.utils
import random
import time
from datetime import UTC

from config import limits
from tasks.errors import FetchError, LongWaitError, RateLimitedError
from tasks.model import FetchOptions

_MAX_BACKOFF_SECONDS = 30.0
#: The maximum jitter of a countdown, as a fraction of the countdown. The jitter spreads the retries of images that were
#: refused at the same time.
_COUNTDOWN_JITTER = 0.1


def parse_retry_after(value: str | None) -> float | None:
    """Return a Retry-After header in seconds; both forms are accepted (RFC 9110, section 10.2.3).

    Return None if the header is missing or invalid.
    """
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = email.utils.parsedate_to_datetime(value)
        # Dates without a zone, as in the asctime format, are in UTC (RFC 9110, section 5.6.7).
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):  # the year is out of range for dates or for the clock
        return None


def backoff(retry: int, base: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait before a retry: 50 to 100 % of ``base * 2**retry``, capped at 30.

    The jitter spreads the retries of images that failed at the same time. If ``retry_after`` (in seconds) is longer
    than this wait, return ``retry_after`` instead.
    """
    wait: float = min(base * 2**retry, _MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1)  # noqa: S311  # no secret
    return max(wait, retry_after or 0.0)


def countdown(wait: float) -> float:
    """Return the countdown in seconds for a wait requested by a server: the wait plus up to 10 % jitter."""
    jitter: float = random.uniform(1, 1 + _COUNTDOWN_JITTER)  # noqa: S311  # no secret
    return wait * jitter


def long_wait_error(error: FetchError, options: FetchOptions, retry: int) -> RateLimitedError:
    """Convert an error whose Retry-After is above --max-retry-after into LongWaitError or RateLimitedError.

    LongWaitError: the task can be requeued with a countdown, because an attempt is left and the wait is at most
    `limits.MAX_COUNTDOWN` seconds. RateLimitedError: the image fails. ``retry`` counts the retries so far, from 0.
    """
    wait = error.retry_after or 0.0
    is_last = retry >= options.retries
    is_deferred = not is_last and wait <= limits.MAX_COUNTDOWN
    limit = options.max_retry_after if is_last or is_deferred else max(options.max_retry_after, limits.MAX_COUNTDOWN)
    failure = (LongWaitError if is_deferred else RateLimitedError)(
        f"{error}: the server requests a wait of {wait:.0f} s, more than the limit of {limit:g} s",
        http_status=error.http_status,
        retry_after=wait,
    )
    failure.final_url = error.final_url
    return failure


def rest_error(error: FetchError, rest: float) -> LongWaitError:
    """Return the error that requeues an image until the end of its host's rest, in seconds."""
    failure = LongWaitError(
        f"{error}: the host rests for {rest:.0f} s", http_status=error.http_status, retry_after=rest
    )
    failure.final_url = error.final_url
    return failure
