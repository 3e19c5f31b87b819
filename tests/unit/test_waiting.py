"""Waiting for a condition ends when the condition is true, or when the time is up."""

from __future__ import annotations

from producer.waiting import wait_until


def test_returns_the_first_true_result() -> None:
    """The function is called until its result is true."""
    results = iter(["", "", "ready", "later"])
    assert wait_until(lambda: next(results), 60.0, 0.0) == "ready"


def test_returns_the_last_result_after_the_time() -> None:
    """With no time left, the function is called once. The function's false result is returned."""
    results = iter(["", "ready"])
    assert wait_until(lambda: next(results), 0.0, 60.0) == ""
