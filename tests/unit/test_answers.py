"""The page of answers tells what imagefleet does now."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.answers import table
from tests.answers.case import CLIENTS, OTHER_BYTES, SAVED, Case
from tests.answers.cases import CASES
from tests.answers.clients import imagefleet


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_imagefleet_does_what_the_page_says(case: Case, certificate: Path) -> None:
    """A row that changes is stored again by `make answers`."""
    assert imagefleet(case, certificate) == table.stored()["rows"][case.name]["imagefleet"]


def test_names_are_unique() -> None:
    """No row hides another one's result."""
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert list(table.stored()["rows"]) == names, "run `make answers`"


def test_imagefleet_is_never_stricter_without_a_reason() -> None:
    """Where curl or requests save an image that imagefleet refuses, the page says why."""
    assert table.objections(CASES, table.stored()["rows"]) == []


_PLAIN = Case("a", "an answer", b"")
_EXPLAINED = Case("a", "an answer", b"", reason="because")


@pytest.mark.parametrize(
    ("case", "results", "objection"),
    [
        (_PLAIN, (SAVED, SAVED, SAVED), ""),
        (_PLAIN, ("refused: x", "refused: y", OTHER_BYTES), ""),
        (_PLAIN, (OTHER_BYTES, OTHER_BYTES, OTHER_BYTES), ""),
        (_EXPLAINED, ("refused: x", SAVED, "refused: y"), ""),
        (_PLAIN, ("refused: x", SAVED, "refused: y"), "without a reason"),
        (_PLAIN, ("refused: x", OTHER_BYTES, SAVED), "without a reason"),
        (_PLAIN, (OTHER_BYTES, SAVED, SAVED), "something else"),
        (_PLAIN, (OTHER_BYTES, "refused: x", OTHER_BYTES), "something else"),
        (_EXPLAINED, (SAVED, "refused: x", SAVED), "which imagefleet saves"),
        (_EXPLAINED, ("refused: x", "refused: y", OTHER_BYTES), "nobody saves"),
    ],
)
def test_stricter_needs_a_reason(case: Case, results: tuple[str, str, str], objection: str) -> None:
    """A row in which imagefleet is worse than another client can't pass without a reason, and no reason stays stale."""
    found = table.objections([case], {"a": dict(zip(CLIENTS, results, strict=True))})
    assert len(found) == bool(objection)
    assert objection in "".join(found)
