"""Format lists of names, counts, sizes, speeds and times for messages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

#: The maximum number of names in one message.
_MAX_NAMES = 5


def list_names(names: Iterable[str]) -> str:
    """Return the first names in sorted order, and the number of names left out."""
    listed = sorted(names)
    more = len(listed) - _MAX_NAMES
    return ", ".join(listed[:_MAX_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def pluralized(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_size(count: float) -> str:
    """Return a number of bytes in a suitable unit (powers of 1024)."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if round(count, 1) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_rate(rate: float) -> str:
    """Return a number of images per second; a small number has one decimal."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def format_duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds: 0:01:02."""
    return str(timedelta(seconds=int(seconds)))
