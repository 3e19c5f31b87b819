"""A bounded cache of facts about hosts, each kept for a limited time."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from time import monotonic
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class RecentMap(Generic[_K, _V]):
    """A mapping for all threads of a process.

    It drops expired values. When the mapping is full, it also drops the oldest value.
    """

    def __init__(self, seconds: float, limit: int) -> None:
        """Set the number of seconds for which a value is kept, and the maximum number of values."""
        self._seconds, self._limit = seconds, limit
        #: The values with their expiry times by the monotonic clock, oldest first.
        self._items: dict[_K, tuple[_V, float]] = {}
        self._lock = threading.Lock()

    def get(self, key: _K) -> _V | None:
        """Return the value of a key, or None."""
        item = self._items.get(key)
        return item[0] if item is not None and monotonic() < item[1] else None

    def put(self, key: _K, value: _V) -> None:
        """Store a value; its lifetime starts now."""
        with self._lock:
            self._items.pop(key, None)
            self._items[key] = value, monotonic() + self._seconds
            if len(self._items) > self._limit:
                del self._items[next(iter(self._items))]

    def drop(self, key: _K) -> None:
        """Remove the value of a key, if there is one."""
        with self._lock:
            self._items.pop(key, None)
