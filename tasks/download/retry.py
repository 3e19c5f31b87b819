"""Parse Retry-After. No I/O."""

from __future__ import annotations

import email.utils
import time
from datetime import UTC


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
