"""What one check of the doctor has found, how bad that is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tasks.errors import Fault


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
