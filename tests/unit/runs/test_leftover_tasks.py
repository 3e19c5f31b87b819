"""Before a run is removed, its remaining tasks end, so that none of its images gets into the next run."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from producer.output.run_file import PlanState, RunConfig, State
from producer.runs import incremental, leftover_tasks
from producer.runs.incremental import RunRequest
from producer.runs.incremental_mode import IncrementalMode
from producer.sources import url_list
from tasks.errors import CommandError
from tasks.storage.local_store import LocalStore
from tests.runs import SIZE, make_run


def test_image_of_a_dying_local_fleet_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a worker of a killed producer saves an image when the run is about to be replaced, the image is removed."""
    monkeypatch.setattr(leftover_tasks, "_LOCAL_FLEET_SECONDS", 0.5)
    source, store = tmp_path / "list.txt", LocalStore(tmp_path / "out")
    store.create_folder()
    make_run(source, store, 5, 1, State.RUNNING, PlanState.COMPLETE)
    saved = threading.Timer(0.1, store.create, ("00001/000010.jpg", b"of the old run"))
    saved.start()
    wanted = RunRequest(str(source), url_list.read(str(source)), RunConfig(shard_size=SIZE))
    prepared = incremental.prepare(wanted, IncrementalMode.OVERWRITE, store, None)
    with pytest.raises(KeyError), prepared.start():
        raise KeyError
    saved.join()
    assert not store.exists("00001/000010.jpg")


def test_late_duplicates_of_a_complete_run_are_dropped(tmp_path: Path) -> None:
    """If a run has just ended, its broker is asked about the run's tasks. For an older run, no broker is needed."""
    store = LocalStore(tmp_path)
    record = make_run(tmp_path / "list.txt", store, 5, 2, State.COMPLETE, PlanState.COMPLETE)
    record = replace(record, broker="redis://127.0.0.1:1/0")
    leftover_tasks.end_tasks(record, None)
    recent = replace(record, finished_at=time.time() - record.options.fetch.deadline)
    with pytest.raises(CommandError, match=r"127\.0\.0\.1:1"):
        leftover_tasks.end_tasks(recent, None)
    leftover_tasks.end_tasks(replace(recent, broker=None), None)
    leftover_tasks.end_tasks(replace(recent, state=State.REMOVING), None)
