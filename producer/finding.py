"""What one check of the doctor has found, how bad that is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tasks.errors import Fault

#: How many names stand in one finding.
_NAMED = 5


class Level(StrEnum):
    """How bad a finding is: only what is bad keeps runs from working."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found, and what to do; nothing where it is as it should be."""

    name: str
    level: Level
    found: str
    todo: str = ""


def of_fault(name: str, fault: Fault) -> Finding:
    """Return what a check has found that ended with a fault."""
    return Finding(name, Level.BAD, f"{fault.what}: {fault.why}", fault.todo)


def named(names: Iterable[str]) -> str:
    """Return the first names in their order, and how many more there are."""
    listed = sorted(names)
    more = len(listed) - _NAMED
    return ", ".join(listed[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """Return a number of things."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def mebibytes(count: float) -> str:
    """Return a number of bytes in MiB; what is less than one, in KiB."""
    return f"{count / 1024**2:,.0f} MiB" if count >= 1024**2 else f"{count / 1024:,.0f} KiB"
