"""A finding of the doctor: the result of one check, its level, and the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tasks.errors import CommandError


class Level(StrEnum):
    """How bad a finding is. Only BAD makes runs fail."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; ``todo`` is the remedy, empty if all is well."""

    name: str
    level: Level
    found: str
    todo: str = ""


def finding_from_error(name: str, error: CommandError) -> Finding:
    """Return the BAD finding for a check that raised an error."""
    return Finding(name, Level.BAD, f"{error.what}: {error.why}", error.hint)
