"""The result of a run reads the run's Outcomes, whether the run is in a folder or in an object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.output.run_file import PlanState, RunFile, State
from producer.output.summary import Summary
from producer.runs.result import RunResult
from tasks.storage.local_store import LocalStore
from tests.object_server import ObjectServer
from tests.runs import make_run


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return the folder of a complete run with two shards."""
    store = LocalStore(tmp_path / "out")
    store.create_folder()
    make_run(tmp_path / "list.txt", store, 5, 2, State.COMPLETE, PlanState.COMPLETE)
    return store


def keys(store: LocalStore, location: str) -> list[str]:
    """Return the keys of the Outcomes of a run that is at this location."""
    run = RunResult(RunFile.load(store).id, "list.txt", location, Summary({}, {}, 0, 2), 1.0, 1, 1, 0.0, 5)
    return [outcome.key for outcome in run.outcomes()]


_KEYS = ["000000", "000001", "000002", "000010", "000011"]


def test_outcomes_of_a_folder(store: LocalStore) -> None:
    """The Outcomes are in the order of the list."""
    assert keys(store, str(store.root)) == _KEYS


def test_outcomes_of_an_object_store(store: LocalStore, object_server: ObjectServer) -> None:
    """The Outcomes are read from the object store in the same order."""
    for path in store.root.rglob("*.parquet"):
        object_server.buckets["bucket"][f"prefix/{path.relative_to(store.root).as_posix()}"] = path.read_bytes()
    assert keys(store, "s3://bucket/prefix") == _KEYS
