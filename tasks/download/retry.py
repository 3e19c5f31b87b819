"""What a server wishes of us, in a response's header: to be left alone for a while, or with an image. Pure."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterable
from datetime import UTC

#: The name by which X-Robots-Tag speaks to us.
AGENT = "imagefleet"
#: ``none`` stands for noindex and nofollow.
_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
#: Directives that have a colon of their own.
_DIRECTIVES_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"[\w.*-]+")


def opt_out_directive(values: Iterable[str]) -> str | None:
    """Return the first directive of X-Robots-Tag fields by which a server keeps its image from us; None without one.

    A directive after a name and a colon is for that agent alone, as are those that follow it in the same field
    (https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag#xrobotstag).
    """
    for value in values:
        ours = True
        for part in value.lower().split(","):
            name, colon, directive = part.partition(":")
            if colon and (name := name.strip()) not in _DIRECTIVES_WITH_VALUES and _AGENT.fullmatch(name):
                ours = name in (AGENT, "*")
            else:
                directive = part
            if ours and (directive := directive.strip()) in _OPT_OUTS:
                return directive
    return None


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
