"""A cache of facts about hosts is limited in time, and by the sizes of its values."""

from __future__ import annotations

import pytest

from tasks.download.recent_hosts import RecentMap


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give a list with the time, which the test changes."""
    now = [100.0]
    monkeypatch.setattr("tasks.download.recent_hosts.monotonic", lambda: now[0])
    return now


def test_values_expire(clock: list[float]) -> None:
    """A value is kept for the seconds of the mapping, or for its own seconds."""
    known: RecentMap[str, int] = RecentMap(30, 10)
    known.put("a", 1)
    known.put("b", 2, seconds=60)
    clock[0] += 31
    assert (known.get("a"), known.get("b")) == (None, 2)
    clock[0] += 30
    assert known.get("b") is None


def test_oldest_values_make_room() -> None:
    """If the values together are too large, the oldest ones are dropped. The last value always has room."""
    known: RecentMap[str, str] = RecentMap(30, 10, len)
    for key, size in (("a", 4), ("b", 4), ("a", 5), ("c", 3)):
        known.put(key, size * "x")
    assert [known.get(key) for key in "abc"] == ["xxxxx", None, "xxx"]
    known.drop("a")
    known.put("d", 7 * "x")
    assert [known.get(key) for key in "acd"] == [None, "xxx", "xxxxxxx"]
    known.put("e", 99 * "x")
    assert [known.get(key) is not None for key in "cde"] == [False, False, True]


def test_values_count_once_by_default() -> None:
    """Without a size, the limit is the number of values."""
    known: RecentMap[int, int] = RecentMap(30, 3)
    for number in range(5):
        known.put(number, number)
    assert [known.get(number) for number in range(5)] == [None, None, 2, 3, 4]
