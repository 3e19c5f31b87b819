"""The lock files and constraints.txt name the same versions, so users, containers and CI run the same packages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def _pins(name: str) -> dict[str, str]:
    """Return the version of each package in a file of pins."""
    text = (_ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_locks_have_the_versions_of_the_constraints(name: str) -> None:
    """Each package of a lock is in constraints.txt with the same version."""
    locked, constraints = _pins(name), _pins("constraints.txt")
    assert locked
    assert locked.items() <= constraints.items()
