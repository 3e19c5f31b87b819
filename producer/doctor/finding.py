"""What one check of the doctor has found, how bad that is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tasks.errors import CommandError


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


def finding_from_error(name: str, error: CommandError) -> Finding:
    """Return what a check has found that ended with a fault."""
    return Finding(name, Level.BAD, f"{error.what}: {error.why}", error.hint)
