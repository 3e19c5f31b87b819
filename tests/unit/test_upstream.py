"""The expectations for kombu's and Celery's own tests are compared with the results."""

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
    """The downloaded source is the source of the installed version. No other source is downloaded."""
    wanted = sources.requirement(distribution)
    assert wanted.startswith(f"{distribution}=={version(distribution)} ")
    assert "--hash=sha256:" in wanted
    assert wanted.count("==") == 1


def test_refuses_a_version_that_is_not_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the locked version is accepted, because the hashes of other versions are unknown."""
    monkeypatch.setattr(sources, "version", lambda _: "0.1")
    with pytest.raises(click.ClickException, match=r"kombu==0\.1 is installed"):
        sources.requirement("kombu")


def test_every_suite_has_expectations() -> None:
    """Every suite has a list of expected failures, and every list belongs to a suite."""
    assert {suite.name for suite in SUITES} == set(FAILING)


def test_reports_unexpected_passes() -> None:
    """A test that should fail is reported if it passes, is missing, or fails with only some of its parameters."""
    result = Result(expected=[f"{name}[one]" for name in _NAMES])
    assert wrong(_SUITE, result, result.counts()) == []
    less = Result(expected=result.expected[1:])
    assert wrong(_SUITE, less, less.counts()) == [f"{_NAMES[0]} did not fail, or does not exist"]


def test_numbers_match_the_documentation() -> None:
    """An additional passing test is reported too."""
    result = Result(passed=3, expected=_NAMES)
    (fault,) = wrong(_SUITE, result, {**result.counts(), "passed": 2})
    assert "docs/upstream-tests.md" in fault
