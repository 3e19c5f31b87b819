"""A bounded cache of facts about hosts, each kept for a limited time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class RecentMap(Generic[_K, _V]):
    """A mapping for all threads of a process.

    It drops expired values. When the mapping is full, it also drops the oldest values.
    """

    def __init__(self, seconds: float, limit: int, size: Callable[[_V], int] = lambda _: 1) -> None:
        """Set the limits.

        Args:
            seconds: how long a value is kept, unless `put` says otherwise.
            limit: the maximum of the sizes of all values together.
            size: returns the size of a value. By default, each value has the size 1.
        """
        self._seconds, self._limit, self._size = seconds, limit, size
        #: The values with their expiry times by the monotonic clock, oldest first.
        self._items: dict[_K, tuple[_V, float]] = {}
        self._total = 0
        self._lock = threading.Lock()

    def get(self, key: _K) -> _V | None:
        """Return the value of a key, or None."""
        item = self._items.get(key)
        return item[0] if item is not None and monotonic() < item[1] else None

    def put(self, key: _K, value: _V, seconds: float | None = None) -> None:
        """Store a value; its lifetime starts now. ``seconds`` is the lifetime; None for that of the mapping."""
        with self._lock:
            self._remove(key)
            self._items[key] = value, monotonic() + (self._seconds if seconds is None else seconds)
            self._total += self._size(value)
            while self._total > self._limit and len(self._items) > 1:
                self._remove(next(iter(self._items)))

    def drop(self, key: _K) -> None:
        """Remove the value of a key, if there is one."""
        with self._lock:
            self._remove(key)

    def _remove(self, key: _K) -> None:
        item = self._items.pop(key, None)
        if item is not None:
            self._total -= self._size(item[0])
