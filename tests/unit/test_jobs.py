"""What a worker knows of runs is fresh enough, and not asked for again with each image."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from tasks import manifest
from tasks.jobs import Runs
from tasks.storage import Store


class Looked(Store):
    """A Store that counts how often a file is looked for."""

    looks = 0

    def exists(self, name: str) -> bool:
        """Look, and count."""
        self.looks += 1
        return super().exists(name)


@pytest.fixture
def looked(store: Store) -> Looked:
    """Give an empty run folder that counts."""
    return Looked(store.root)


def test_open_shard_is_looked_at_once_in_a_while(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a shard has no manifest is known for a second; another shard, or another run, is another question."""
    now = 100.0
    monkeypatch.setattr("tasks.jobs.monotonic", lambda: now)
    runs = Runs(Mock())
    assert [runs.is_done("a", 0, looked) for _ in range(3)] == [False] * 3
    assert looked.looks == 1
    runs.is_done("a", 1, looked)
    runs.is_done("b", 1, looked)
    assert looked.looks == 3
    now += 1.0
    runs.is_done("b", 1, looked)
    assert looked.looks == 4


def test_finished_shard_is_always_looked_at(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that is done is told within a second, and what was looked at last does not hide it."""
    now = 100.0
    monkeypatch.setattr("tasks.jobs.monotonic", lambda: now)
    runs = Runs(Mock())
    assert not runs.is_done("a", 0, looked)
    looked.create(manifest.name(0), b"")
    now += 1.0
    assert runs.is_done("a", 0, looked)
    assert runs.is_done("a", 0, looked)
