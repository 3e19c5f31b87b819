"""The folder of a run in progress leads to the Redis of its fleet, and only then."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from producer.output import file_lock, lock
from producer.output.lock_holder import LockHolder
from producer.output.run_file import PlanState, RunFile, State
from producer.runs import live_run
from tasks.errors import CommandError, UsageError
from tasks.storage.local_store import LocalStore
from tests.runs import make_run


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Give the folder of a run whose record says that it is running."""
    store = LocalStore(tmp_path / "out")
    store.root.mkdir()
    make_run(tmp_path / "list", store, 3, 0, State.RUNNING, PlanState.COMPLETE)
    return store


def test_local_fleet_is_found_by_the_lock(store: LocalStore, tmp_path: Path) -> None:
    """The lock of a run with a local fleet has the URL of the fleet's Redis, and only the owner can read the lock."""
    socket_file = tmp_path / "redis.sock"
    socket_file.touch()
    with lock.hold(store, None, "run"):
        lock.set_fleet(store, f"redis+socket://{socket_file}")
        assert live_run.find_live_broker(store, None) == f"redis+socket://{socket_file}"
        assert (store.root / lock.NAME).stat().st_mode & 0o077 == 0
        socket_file.unlink()
        with pytest.raises(CommandError, match="can't be reached"):
            live_run.find_live_broker(store, None)
    assert (store.root / lock.NAME).read_bytes() == b""


def test_fleet_that_is_not_ready(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the fleet is ready, the error says to try again."""
    monkeypatch.setattr(live_run, "_STARTUP_SECONDS", 0.0)
    with lock.hold(store, None, "run"), pytest.raises(CommandError) as caught:
        live_run.find_live_broker(store, None)
    assert caught.value.hint == "Try again in a moment."


def test_fleet_on_another_host(store: LocalStore) -> None:
    """The error names the host of the fleet."""
    with lock.hold(store, None, "run"):
        other = replace(LockHolder.current(None, "run"), host="elsewhere", fleet="redis+socket:///tmp/a/redis.sock")
        (store.root / lock.NAME).write_bytes(other.to_json())
        with pytest.raises(CommandError, match="can't be reached from this machine") as caught:
            live_run.find_live_broker(store, None)
    assert "elsewhere" in caught.value.why


def test_run_at_a_broker(store: LocalStore) -> None:
    """The URL comes from the lock. If the lock lacks the password, the given URL is used."""
    with lock.hold(store, "redis://a.example/0", "run"):
        assert live_run.find_live_broker(store, None) == "redis://a.example/0"
    with lock.hold(store, "redis://:word@a.example/0", "run"):
        with pytest.raises(UsageError, match="password is missing"):
            live_run.find_live_broker(store, None)
        assert live_run.find_live_broker(store, "redis://:word@a.example/0") == "redis://:word@a.example/0"


@pytest.mark.parametrize(
    ("state", "why", "todo"),
    [
        (State.RUNNING, "its producer was killed", "Resume it with `producer resume"),
        (State.COMPLETE, "it is complete", "See its numbers with `producer status"),
        (State.CANCELLED, "its state is cancelled", "Resume it with `producer resume"),
    ],
)
def test_run_that_is_over(store: LocalStore, state: State, why: str, todo: str) -> None:
    """The error says how the run ended, and where its report or its continuation is."""
    RunFile.load(store).save(store, state=state)
    with pytest.raises(UsageError) as caught:
        live_run.find_live_broker(store, None)
    assert caught.value.what == f"The run in {store.location} is over"
    assert caught.value.why.startswith(why)
    assert caught.value.hint.startswith(todo)


def test_lock_file_keeps_its_holder(store: LocalStore) -> None:
    """The fleet is added to the description of the lock's holder. The holder still holds the lock."""
    with lock.hold(store, None, "run"):
        file_lock.set_fleet(store.root, "redis+socket:///tmp/a/redis.sock")
        facts = json.loads((store.root / lock.NAME).read_bytes())
        assert (facts["host"], facts["command"]) == (socket.gethostname(), "run")
        with pytest.raises(UsageError, match="Another producer works on"):
            lock.check_unlocked(store)
