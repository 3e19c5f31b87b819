"""Tasks that can't use a slot yet are held back, within a limit."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.transport import virtual

from tasks.broker import held_tasks, qos
from tasks.broker.held_tasks import HeldTasks


def hold(releases: list[Callable[[], None]]) -> Callable[[Any, Callable[[], None]], bool]:
    """Return a preparation that never ends by itself, and keeps the functions that release its tasks."""

    def prepare(_: Any, release: Callable[[], None]) -> bool:
        releases.append(release)
        return True

    return prepare


def test_prepared_task_starts_at_once() -> None:
    """A task that has nothing to wait for is passed to the slots, and is not counted as held."""
    held, started = HeldTasks(2), list[str]()
    for name in ("a", "b"):
        held.start_when_prepared(name, lambda *_: False, started.append)
    assert (started, len(held), held.room) == (["a", "b"], 0, 2)


def test_held_task_starts_when_it_is_released() -> None:
    """A held task is passed to the slots once, as soon as its preparation ends."""
    held, started, releases = HeldTasks(3), list[str](), list[Callable[[], None]]()
    for name in ("a", "b"):
        held.start_when_prepared(name, hold(releases), started.append)
    assert (started, len(held), held.room) == ([], 2, 1)
    releases[1]()
    releases[1]()
    assert (started, len(held), held.room) == (["b"], 1, 2)


def test_task_is_held_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the preparation of a task does not end in time, the task is passed to the slots anyway, and only once."""
    now, held, started, releases = 100.0, HeldTasks(3), list[str](), list[Callable[[], None]]()
    monkeypatch.setattr(held_tasks, "monotonic", lambda: now)
    for name in ("a", "b"):
        held.start_when_prepared(name, hold(releases), started.append)
        now += 1.0
    now += held_tasks.MAX_HELD_SECONDS - 1.5
    held.release_overdue()
    assert (started, len(held)) == (["a"], 1)
    releases[0]()
    now += 1.0
    held.release_overdue()
    assert (started, len(held)) == (["a", "b"], 0)


def test_error_of_a_preparation_starts_the_task(caplog: pytest.LogCaptureFixture) -> None:
    """If a preparation fails, the error is logged, and the task starts, because the consumer's loop must go on."""

    def fail(*_: object) -> bool:
        raise ValueError("broken")

    held, started = HeldTasks(2), list[str]()
    held.start_when_prepared("a", fail, started.append)
    assert (started, len(held)) == (["a"], 0)
    assert "preparation of a task" in caplog.text


@pytest.mark.parametrize("is_stopping", [True, False])
def test_task_released_after_the_workers_end_is_not_started(
    is_stopping: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the worker stops, its slots accept no tasks. The released task's message stays unacknowledged.

    While the worker runs, the same error is logged.
    """
    monkeypatch.setattr(held_tasks, "worker_is_stopping", lambda: is_stopping)

    def refuse(_: object) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    held, releases = HeldTasks(2), list[Callable[[], None]]()
    held.start_when_prepared("a", hold(releases), refuse)
    releases[0]()
    assert len(held) == 0
    assert ("could not be started" in caplog.text) == (not is_stopping)


@pytest.mark.parametrize(
    ("held", "estimate", "consumes"), [(0, 1, False), (5, 6, True), (96, 97, True), (97, 98, False)]
)
def test_held_tasks_have_room_of_their_own(
    monkeypatch: pytest.MonkeyPatch, held: int, estimate: int, consumes: bool
) -> None:
    """A held task takes no room from the tasks that a worker reserves for its slots.

    Nothing is reserved if the tasks of a reservation could not all be held.
    """
    tasks = HeldTasks()
    for _ in range(held):
        tasks.start_when_prepared("task", hold([]), lambda _: None)
    monkeypatch.setattr(qos, "HELD_TASKS", tasks)
    channel = SimpleNamespace(paused_until=0.0, do_restore=False)
    found = qos.QoS.__new__(qos.QoS)
    virtual.QoS.__init__(found, channel, 12)
    found._room_without_countdowns = 0
    found._delivered.update(dict.fromkeys(map(str, range(11))))
    assert found.can_consume_max_estimate() == estimate
    assert found.can_consume() == consumes
