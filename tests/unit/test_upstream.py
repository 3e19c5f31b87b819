"""What is said of kombu's and Celery's own tests is held against how they end."""

from __future__ import annotations

from importlib.metadata import version

import click
import pytest

from tests.upstream import sources
from tests.upstream.__main__ import Result, wrong
from tests.upstream.expected import FAILING
from tests.upstream.suites import SUITES

_SUITE = "kombu-unit"
_NAMES = [name for names in FAILING[_SUITE].values() for name in names]


@pytest.mark.parametrize("distribution", ["kombu", "celery"])
def test_sources_are_pinned_with_their_hashes(distribution: str) -> None:
    """What is fetched is what is installed, and nothing else by that name."""
    wanted = sources.requirement(distribution)
    assert wanted.startswith(f"{distribution}=={version(distribution)} ")
    assert "--hash=sha256:" in wanted
    assert wanted.count("==") == 1


def test_other_version_than_the_locked_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hashes are not known."""
    monkeypatch.setattr(sources, "version", lambda _: "0.1")
    with pytest.raises(click.ClickException, match=r"kombu==0\.1 is installed"):
        sources.requirement("kombu")


def test_every_suite_has_its_list() -> None:
    """And no list is of a suite that is not run."""
    assert {suite.name for suite in SUITES} == set(FAILING)


def test_what_is_expected_to_fail_has_to() -> None:
    """A test that passes now, or is no more, is told; so is one of which only some parameters failed as named."""
    result = Result(expected=[f"{name}[one]" for name in _NAMES])
    assert wrong(_SUITE, result, result.counts()) == []
    less = Result(expected=result.expected[1:])
    assert wrong(_SUITE, less, less.counts()) == [f"{_NAMES[0]} did not fail, or is not there"]


def test_numbers_are_those_of_the_documentation() -> None:
    """A test more that passes is told, too."""
    result = Result(passed=3, expected=_NAMES)
    (fault,) = wrong(_SUITE, result, {**result.counts(), "passed": 2})
    assert "docs/upstream-tests.md" in fault
