"""The result backend's values."""

from __future__ import annotations

from celery.utils.saferepr import saferepr

from tasks.broker.backend import UnloggedResult


def test_unlogged_result_is_not_formatted() -> None:
    """Celery formats every result. The text of an unlogged result has nothing of its value."""

    class Value:
        def __repr__(self) -> str:
            raise AssertionError("the value was formatted")

    assert saferepr(UnloggedResult(Value())) == "UnloggedResult(...)"
