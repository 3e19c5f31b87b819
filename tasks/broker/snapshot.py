"""Copy a collection while other threads change it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


def snapshot(items: Iterable[_T]) -> list[_T]:
    """Return the items of a collection that other threads may change meanwhile."""
    while True:
        with suppress(RuntimeError):
            return list(items)
