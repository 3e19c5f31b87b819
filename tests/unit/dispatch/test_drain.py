"""A run that ends early waits only for its workers' current downloads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from producer.dispatch import drain
from producer.dispatch.drain import Drain


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fake the clock, the live workers, and the workers' replies to the next questions."""
    state = SimpleNamespace(now=100.0, answers=[], living={})

    def broadcast(*_: Any, **__: Any) -> Any:
        state.now += 0.6
        return state.answers

    monkeypatch.setattr(drain, "app", SimpleNamespace(control=SimpleNamespace(broadcast=broadcast)))
    monkeypatch.setattr("tasks.broker.liveness.worker_liveness", lambda _: state.living)
    monkeypatch.setattr(drain, "time", SimpleNamespace(monotonic=lambda: state.now))
    return state


def worker(node: str) -> str:
    """Return a worker's id."""
    return f"{node}|host|boot.1|1|random"


def start_drain(workers: Any, *nodes: str) -> Drain:
    """Start draining a run with a deadline of a minute."""
    workers.living = {worker(node): True for node in nodes}
    return Drain("run", Mock(), 60.0, workers.now)


def ask(drain: Drain, workers: Any, *answers: dict[str, dict[str, int]]) -> Drain:
    """Ask the workers again, half a second later."""
    workers.now += 0.6
    workers.answers = list(answers)
    drain.ask()
    return drain


def test_idle_workers_are_asked_twice(workers: Any) -> None:
    """The images of all workers are added up. Draining ends when each worker has reported twice that it is idle."""
    found = start_drain(workers, "a@x", "b@x")
    busy, idle = {"images": 3, "shards": 0}, {"images": 0, "shards": 0}
    assert ask(found, workers, {"a@x": busy}, {"b@x": busy}).images == 6
    assert not ask(found, workers, {"a@x": idle}, {"b@x": {"images": 0, "shards": 1}}).idle
    assert not ask(found, workers, {"a@x": idle}, {"b@x": idle}).idle
    assert ask(found, workers, {"a@x": idle}, {"b@x": idle}).idle


def test_silent_worker_is_waited_for(workers: Any) -> None:
    """A live worker without a reply counts as busy. If no worker replies, draining ends after ten seconds."""
    found = start_drain(workers, "a@x", "b@x")
    idle = {"images": 0, "shards": 0}
    ask(found, workers, {"a@x": idle}, {"b@x": {"images": 2, "shards": 0}})
    for _ in range(3):
        assert ask(found, workers, {"a@x": idle}).images == 2
    assert not found.idle
    silent = start_drain(workers, "a@x")
    assert not ask(ask(silent, workers), workers).idle
    workers.now += 10
    assert ask(ask(silent, workers), workers).idle


def test_dead_worker_is_not_waited_for(workers: Any) -> None:
    """A dead worker's tasks are left to `resume`."""
    found = start_drain(workers, "a@x")
    ask(found, workers, {"a@x": {"images": 2, "shards": 0}})
    workers.living[worker("a@x")] = False
    assert ask(ask(found, workers), workers).images == 0
    assert found.idle


def test_worker_of_another_version_counts_as_idle(workers: Any) -> None:
    """A worker of another version takes no task of the run. The worker replies that it does not know the command."""
    found = start_drain(workers, "a@x")
    error: Any = {"error": "KeyError('imagefleet_drain')"}
    assert ask(ask(found, workers, {"a@x": error}), workers, {"a@x": error}).idle


def test_drain_has_a_time_limit(workers: Any) -> None:
    """Draining lasts at most the deadline and a few seconds, whatever the workers report."""
    found = start_drain(workers, "a@x")
    workers.now += 64
    assert not found.overdue
    workers.now += 2
    assert found.overdue
