"""Resuming a packed run removes only the files that a dead collect task has left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from producer.output.run_file import PlanState, State
from producer.runs.resume import remove_packed_images
from producer.runs.run import Run
from tasks.collect import collect
from tasks.model import OutputFormat, OutputOptions, RunOptions
from tasks.storage import manifest
from tasks.storage.local_store import LocalStore
from tests.runs import RUN_ID, SIZE, make_run
from tests.unit.conftest import success

_LEFT = ["00000/000000.png", "00001/000010.jpg"]


@pytest.mark.parametrize("output_format", [OutputFormat.WEBDATASET, OutputFormat.PARQUET])
def test_removes_left_files_of_finished_shards(tmp_path: Path, output_format: OutputFormat) -> None:
    """If a shard has no manifest of the run's revision, its files stay, because its images are not packed yet."""
    store = LocalStore(tmp_path / "out")
    store.root.mkdir()
    record = make_run(tmp_path / "list.txt", store, 2 * SIZE, 2, State.INTERRUPTED, PlanState.COMPLETE)
    output = OutputOptions(output_format)
    record = record.save(store, options=replace(record.options, output=output))
    store.remove(manifest.name(0))
    outcomes = [success(place, 0, SIZE, bytes=3) for place in range(SIZE)]
    for outcome in outcomes:
        store.create(outcome.path or "", b"png")
    collect(0, outcomes, RunOptions(str(store.root), SIZE, run_id=RUN_ID, output=output), store)
    store.remove(manifest.name(1))
    for name in _LEFT:
        store.create(name, b"png")
    with Run.resume(store):
        assert [store.exists(name) for name in _LEFT] == [False, True]
    store.create(_LEFT[0], b"png")
    remove_packed_images(replace(record, revision=1), store, 2)
    assert store.exists(_LEFT[0])


def test_files_stay(tmp_path: Path) -> None:
    """If a run is not packed, nothing is removed."""
    store = LocalStore(tmp_path / "out")
    store.root.mkdir()
    make_run(tmp_path / "list.txt", store, 2 * SIZE, 2, State.INTERRUPTED, PlanState.COMPLETE)
    store.create(_LEFT[0], b"png")
    with Run.resume(store):
        assert store.exists(_LEFT[0])
