"""Decide how long to wait before another attempt: backoff, Retry-After and the countdown of a requeued task. No I/O."""

from __future__ import annotations

import email.utils
import random
import time
from datetime import UTC

from config import limits
from tasks.errors import FetchError, LongWaitError, RateLimitedError
from tasks.model import FetchOptions

_MAX_BACKOFF_SECONDS = 30.0
#: The most that is added to a countdown, as a part of it: images that were refused together do not come back together.
_COUNTDOWN_JITTER = 0.1


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, in either of its forms (RFC 9110, 10.2.3)."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = email.utils.parsedate_to_datetime(value)
        # Dates without a zone, as asctime writes them, are in UTC (RFC 9110, 5.6.7).
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):  # a year that no date has, or that this machine's clock does not
        return None


def backoff(retry: int, base: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait before a retry: half to whole of ``base * 2**retry``, at most 30.

    The random part keeps images that failed together from coming back together. A server's Retry-After, in seconds,
    counts where it is longer.
    """
    wait: float = min(base * 2**retry, _MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1)  # noqa: S311  # no secret
    return max(wait, retry_after or 0.0)


def countdown(wait: float) -> float:
    """Return the seconds after which an image is asked for again whose server asks for a wait: up to a tenth more."""
    spread: float = random.uniform(1, 1 + _COUNTDOWN_JITTER)  # noqa: S311  # no secret
    return wait * spread


def long_wait_error(error: FetchError, options: FetchOptions, retry: int) -> RateLimitedError:
    """Return what a server's wish for a wait is that no slot is held for."""
    wait = error.retry_after or 0.0
    is_last = retry >= options.retries
    is_deferred = not is_last and wait <= limits.MAX_COUNTDOWN
    bound = options.max_retry_after if is_last or is_deferred else max(options.max_retry_after, limits.MAX_COUNTDOWN)
    longer = (LongWaitError if is_deferred else RateLimitedError)(
        f"{error}: asks for a wait of {wait:.0f} s, more than {bound:g}",
        http_status=error.http_status,
        retry_after=wait,
    )
    longer.final_url = error.final_url
    return longer
