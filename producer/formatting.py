"""Lists of names, counts and sizes as messages show them."""

from __future__ import annotations

from collections.abc import Iterable

#: How many names one message shows.
_MAX_NAMES = 5


def named(names: Iterable[str]) -> str:
    """Return the first names in their order, and how many more there are."""
    listed = sorted(names)
    more = len(listed) - _MAX_NAMES
    return ", ".join(listed[:_MAX_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def pluralized(number: int, noun: str) -> str:
    """Return a number of things."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_mebibytes(count: float) -> str:
    """Return a number of bytes in MiB; what is less than one, in KiB."""
    return f"{count / 1024**2:,.0f} MiB" if count >= 1024**2 else f"{count / 1024:,.0f} KiB"


def format_size(count: float) -> str:
    """Return a number of bytes with a fitting unit, by powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if round(count, 1) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
