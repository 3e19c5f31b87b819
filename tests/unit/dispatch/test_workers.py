"""A run that waits says which workers respond, and what to do."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from producer.dispatch import workers


@pytest.mark.parametrize(
    ("local", "expected"), [(True, "is restarting its workers"), (False, "celery -A tasks worker")]
)
def test_no_worker_responds(monkeypatch: pytest.MonkeyPatch, local: bool, expected: str) -> None:
    """A run that waits for a local fleet does not tell the user to start workers."""
    monkeypatch.setattr(workers, "online_workers", list)
    monkeypatch.setattr("tasks.broker.liveness.worker_liveness", lambda _: {})
    note = workers.describe_workers(local, 3, Mock())
    assert note.startswith("waiting for 3 images; no worker responds")
    assert expected in note
    assert ("celery" in note) is not local


@pytest.mark.parametrize(
    ("images", "slots", "dead", "note"),
    [
        (2, [32, 32], 0, "waiting for 2 images; 2 workers respond"),
        (1, [32], 0, "waiting for 1 image; 1 worker responds"),
        (2, [32], 1, "waiting for 2 images; 1 worker responds; 1 worker has died, and its tasks are requeued"),
    ],
)
def test_mentions_dead_workers_only_if_one_died(
    monkeypatch: pytest.MonkeyPatch, images: int, slots: list[int], dead: int, note: str
) -> None:
    """A waiting run reports the number of images, and how many workers respond."""
    monkeypatch.setattr(workers, "online_workers", lambda: slots)
    lives = {**{f"alive-{number}": True for number in range(2)}, **{f"dead-{number}": False for number in range(dead)}}
    monkeypatch.setattr("tasks.broker.liveness.worker_liveness", lambda _: lives)
    within = " within 20 s" if dead else ""
    assert workers.describe_workers(False, images, Mock()) == note + within
