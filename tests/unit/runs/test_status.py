"""The status of a run from its files alone, and the reason if its numbers in Redis can't be read."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from producer.output import lock
from producer.output.lock_holder import LockHolder
from producer.output.run_file import PlanState, RunFile, State
from producer.runs import live_run
from producer.runs.status import RunStatus, StatusReader
from tasks.errors import UsageError
from tasks.storage.local_store import LocalStore
from tests.runs import RUN_ID, make_run


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Give an empty folder."""
    store = LocalStore(tmp_path / "out")
    store.root.mkdir()
    return store


def read(store: LocalStore, broker: str | None = None) -> RunStatus:
    """Return the status of a run."""
    return StatusReader(store, broker).read()


def test_complete_run(store: LocalStore, tmp_path: Path) -> None:
    """The numbers come from the totals of run.json. The next step is to retry or to list the failed images."""
    make_run(tmp_path / "list", store, 4, 2, State.COMPLETE, PlanState.COMPLETE)
    totals = {"total": 4, "failed": 1, "success": 3, "bytes": 9000, "reasons": {"timeout": 1}, "fetched": 4}
    totals |= {"fetched_bytes": 6000}
    RunFile.load(store).save(store, totals={**totals, "wall_seconds": 2.0, "repaired": 1})
    found = read(store)
    assert (found.run_id, found.state, found.live, found.is_running) == (RUN_ID, "complete", False, False)
    progress = found.progress
    assert (progress.success, progress.failed, progress.ended, progress.planned) == (3, 1, 4, 4)
    assert (progress.bytes, progress.reasons, progress.repaired) == (9000, {"timeout": 1}, 1)
    assert progress.speed.average_images_per_second == 2.0
    # The speed is that of the last command, which may be a retry.
    assert progress.speed.average_bytes_per_second == 3000.0
    assert found.next == f"producer retry {store.root}"
    RunFile.load(store).save(store, broker="redis://a.example/0")
    assert read(store).next == f"producer retry {store.root} --broker redis://a.example/0"
    facts = found.to_json()
    assert (facts["ended"], facts["success"], facts["speed"]["seconds"], facts["note"]) == (4, 3, 2.0, "")
    RunFile.load(store).save(store, totals={**totals, "reasons": {"http_4xx": 1}})
    assert read(store).next == f"producer failures {store.root}"
    RunFile.load(store).save(store, totals={**totals, "failed": 0, "reasons": {}})
    assert read(store).next == ""


def test_complete_run_whose_producer_has_not_ended(store: LocalStore, tmp_path: Path) -> None:
    """While the producer stops its fleet and writes the report, the run is complete, and no note blames the fleet."""
    make_run(tmp_path / "list", store, 4, 2, State.COMPLETE, PlanState.COMPLETE)
    with lock.hold(store, None, "run"):
        lock.set_fleet(store, f"redis+socket://{tmp_path}/removed.sock")
        found = read(store)
    assert (found.state, found.is_running, found.progress.note) == ("complete", False, "")


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.INTERRUPTED, "interrupted"),
        (State.CANCELLED, "cancelled"),
        (State.FAILED, "failed"),
        (State.RUNNING, "killed"),
    ],
)
def test_run_that_ended_early(store: LocalStore, tmp_path: Path, state: State, expected: str) -> None:
    """The numbers are those of the manifests. A run without a producer that should be running was killed."""
    make_run(tmp_path / "list", store, 8, 2, state, PlanState.OPEN)
    found = read(store)
    assert (found.state, found.live) == (expected, False)
    progress = found.progress
    assert (progress.failed, progress.ended, progress.planned, progress.plan_complete) == (6, 6, 8, True)
    assert progress.reasons == {"timeout": 6}
    assert found.next == f"producer resume {store.root}"


def test_running_run_whose_fleet_is_elsewhere(store: LocalStore, tmp_path: Path) -> None:
    """If Redis can't be reached from here, the note says where to run the command. The files still have numbers."""
    make_run(tmp_path / "list", store, 6, 1, State.RUNNING, PlanState.COMPLETE)
    with lock.hold(store, None, "run"):
        other = replace(LockHolder.current(None, "run"), host="elsewhere", fleet="redis+socket:///tmp/a/redis.sock")
        (store.root / lock.NAME).write_bytes(other.to_json())
        found = read(store)
    assert (found.state, found.live, found.progress.ended) == ("running", False, 3)
    assert "it is a local fleet on the host elsewhere" in found.progress.note
    assert "Run the command on that host." in found.progress.note


def test_running_run_whose_fleet_is_not_ready(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the fleet is ready, the note says so."""
    monkeypatch.setattr(live_run, "_STARTUP_SECONDS", 0.0)
    make_run(tmp_path / "list", store, 6, 0, State.RUNNING, PlanState.COMPLETE)
    with lock.hold(store, None, "run"):
        found = read(store)
    assert (found.is_running, found.live, found.progress.ended) == (True, False, 0)
    assert "its local fleet has not started yet" in found.progress.note


def test_running_run_whose_redis_is_gone(store: LocalStore, tmp_path: Path) -> None:
    """An unreachable Redis is named in the note."""
    make_run(tmp_path / "list", store, 6, 1, State.RUNNING, PlanState.COMPLETE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{probe.getsockname()[1]}/0"
        with lock.hold(store, url, "run"):
            found = read(store)
    assert (found.is_running, found.live, found.progress.ended) == (True, False, 3)
    assert "Redis does not answer" in found.progress.note


def test_run_whose_files_are_removed(store: LocalStore, tmp_path: Path) -> None:
    """The status of a run that is being removed is an error, as for all commands."""
    make_run(tmp_path / "list", store, 6, 1, State.REMOVING, PlanState.COMPLETE)
    with pytest.raises(UsageError, match="already removed"):
        read(store)
