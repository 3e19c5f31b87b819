"""The result of a run reads its Outcomes from a local folder or from an object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.output.run_file import PlanState, RunFile, State
from producer.output.summary import Summary
from producer.runs import result
from producer.runs.result import RunResult
from tasks.storage.local_store import LocalStore
from tests.runs import make_run


@pytest.mark.parametrize("location", ["path", "s3://bucket/prefix"])
def test_outcomes_come_from_the_location_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """The Outcomes are in the order of the list, even if the run is in an object store."""
    store = LocalStore(tmp_path / "out")
    store.create_folder()
    make_run(tmp_path / "list.txt", store, 5, 2, State.COMPLETE, PlanState.COMPLETE)
    opened: list[str] = []

    def open_output(found: object) -> LocalStore:
        opened.append(str(found))
        return store

    monkeypatch.setattr(result, "open_output", open_output)
    shards = len(list(store.root.glob("*.parquet")))
    summary = Summary({}, {}, 0, shards)
    run = RunResult(RunFile.load(store).id, "list.txt", location, summary, 1.0, 1, 1, 0.0, 5)
    assert len({outcome.key for outcome in run.outcomes()}) >= shards > 0
    assert opened == [location]
