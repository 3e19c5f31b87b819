"""Copies of collections that other threads change."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


def snapshot(items: Iterable[_T]) -> list[_T]:
    """Return what is in a collection that other threads change."""
    while True:
        with suppress(RuntimeError):
            return list(items)
