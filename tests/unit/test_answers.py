"""The page of answers shows imagefleet's current behaviour."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.answers import table
from tests.answers.case import CLIENTS, OTHER_BYTES, SAVED, Case
from tests.answers.cases import CASES
from tests.answers.clients import imagefleet


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_imagefleet_behaves_as_the_page_shows(case: Case, certificate: Path) -> None:
    """Each case gives the stored result. After a change, `make answers` stores the new result."""
    assert imagefleet(case, certificate) == table.stored()["rows"][case.name]["imagefleet"]


def test_names_are_unique() -> None:
    """No row hides another row's result."""
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert list(table.stored()["rows"]) == names, "run `make answers`"


def test_imagefleet_is_never_stricter_without_a_reason() -> None:
    """If curl or requests save an image that imagefleet refuses, the page gives the reason."""
    assert table.violations(CASES, table.stored()["rows"]) == []


_PLAIN = Case("a", "an answer", b"")
_EXPLAINED = Case("a", "an answer", b"", reason="because")


@pytest.mark.parametrize(
    ("case", "results", "violation"),
    [
        (_PLAIN, (SAVED, SAVED, SAVED), ""),
        (_PLAIN, ("refused: x", "refused: y", OTHER_BYTES), ""),
        (_PLAIN, (OTHER_BYTES, OTHER_BYTES, OTHER_BYTES), ""),
        (_EXPLAINED, ("refused: x", SAVED, "refused: y"), ""),
        (_PLAIN, ("refused: x", SAVED, "refused: y"), "without a reason"),
        (_PLAIN, ("refused: x", OTHER_BYTES, SAVED), "without a reason"),
        (_PLAIN, (OTHER_BYTES, SAVED, SAVED), "something else"),
        (_PLAIN, (OTHER_BYTES, "refused: x", OTHER_BYTES), "something else"),
        (_EXPLAINED, (SAVED, "refused: x", SAVED), "but imagefleet saves it"),
        (_EXPLAINED, ("refused: x", "refused: y", OTHER_BYTES), "no client saves"),
    ],
)
def test_stricter_behaviour_needs_a_reason(case: Case, results: tuple[str, str, str], violation: str) -> None:
    """A row needs a reason if imagefleet does worse than another client. No other row has a reason."""
    found = table.violations([case], {"a": dict(zip(CLIENTS, results, strict=True))})
    assert len(found) == bool(violation)
    assert violation in "".join(found)
