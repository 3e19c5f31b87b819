"""Each reason has its error class. The tree in the module's docstring matches the classes."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tasks import errors
from tasks.errors import CommandError, FetchError, UsageError
from tasks.model import Reason

#: The parts of a tree line: the branches, the class, the reason or exit status, and "(retried)". The length of the
#: branches gives the depth.
_LINE = re.compile(r"^    ([│ ]*)[├└]── (\w+) +(\w+(?: status \d)?)(.*)$", re.MULTILINE)


def below(root: type[Exception]) -> list[type[Exception]]:
    """Return all subclasses of a class, in the order of their definition."""
    return [kind for direct in root.__subclasses__() for kind in (direct, *below(direct))]


def test_every_reason_has_one_error_class() -> None:
    """Each reason has exactly one direct subclass of FetchError."""
    reasons = Counter(kind.reason for kind in FetchError.__subclasses__())
    assert reasons == dict.fromkeys(Reason, 1)


def test_a_class_keeps_the_reason_of_its_parent() -> None:
    """A subclass is a more specific error with the same reason."""
    for direct in FetchError.__subclasses__():
        assert {kind.reason for kind in below(direct) if issubclass(kind, FetchError)} <= {direct.reason}


def test_docstring_tree_matches_the_classes() -> None:
    """Each line of the tree names a class, its reason and whether it is retried, and no class is missing."""
    assert errors.__doc__ is not None
    drawn = {name: (reason, "(retried)" in rest) for _, name, reason, rest in _LINE.findall(errors.__doc__)}
    fetch_errors = {
        kind.__name__: (str(kind.reason), kind.retryable) for kind in below(FetchError) if issubclass(kind, FetchError)
    }
    assert drawn == {**fetch_errors, "UsageError": ("exit status 2", False)}


def test_docstring_tree_matches_the_inheritance() -> None:
    """In the tree, each class is below its parent."""
    assert errors.__doc__ is not None
    parents: list[str] = []
    for indent, name, *_ in _LINE.findall(errors.__doc__):
        depth = len(indent) // 4
        parents[depth:] = [name]
        if depth:
            assert getattr(errors, name).__mro__[1].__name__ == parents[depth - 1]
        else:
            assert getattr(errors, name).__mro__[1] in (FetchError, CommandError)
    assert parents


@pytest.mark.parametrize(("kind", "status"), [(CommandError, 1), (UsageError, 2)])
def test_command_error_has_three_parts_and_an_exit_status(kind: type[CommandError], status: int) -> None:
    """The error has a summary, a cause, a remedy, and the command's exit status."""
    fault = kind("It broke", "it was old", "Buy another.")
    assert (fault.what, fault.why, fault.hint) == ("It broke", "it was old", "Buy another.")
    assert str(fault) == "It broke: it was old"
    assert fault.exit_code == status


def test_fetch_error_keeps_status_and_retry_after() -> None:
    """HTTP status and Retry-After are attributes of the error, and are None if they are not given."""
    error = errors.RateLimitedError("HTTP 429", http_status=429, retry_after=3.0)
    assert (str(error), error.http_status, error.retry_after) == ("HTTP 429", 429, 3.0)
    silent = errors.DnsError("no such host")
    assert (silent.http_status, silent.retry_after) == (None, None)


def test_transient_reasons_are_worth_retrying() -> None:
    """`retry` repeats temporary failures, failed saves, lost or cancelled tasks, and internal errors."""
    assert set(errors.WORTH_RETRYING) == {
        *(Reason.DNS, Reason.CONNECT, Reason.TIMEOUT, Reason.HTTP_5XX, Reason.RATE_LIMITED, Reason.TRUNCATED),
        *(Reason.HOST_RESTING, Reason.STORAGE, Reason.LOST, Reason.CANCELLED, Reason.INTERNAL),
    }
    assert list(errors.WORTH_RETRYING) == sorted(set(errors.WORTH_RETRYING))
