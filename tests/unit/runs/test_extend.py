"""Extending a run adds shards after the existing ones. A crash at any step leaves a run that can be resumed."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import pytest

from producer.doctor.finding import Level
from producer.doctor.folder_checks import inspect_folder
from producer.output.run_file import PlanState, RunFile, State
from producer.planning.repair import repair_plan
from producer.runs.run import Run
from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks.collect import collect
from tasks.errors import CommandError, UsageError
from tasks.model import Outcome, Reason, RunOptions, Status, image_key
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tests.runs import RUN_ID, SIZE, make_run
from tests.waiting import wait_for

#: The last shard of the first list is not full. So the first list's indexes end at 10, and the second list's indexes
#: begin at 12.
_ROWS, _SHARDS, _ADDED = 11, 4, 5
_FIRST_INDEX = 12


@pytest.fixture
def added(tmp_path: Path) -> Path:
    """Return the path of a second list."""
    path = tmp_path / "more.txt"
    path.write_text("".join(f"http://b.example/{number}\n" for number in range(_ADDED)))
    return path


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return the folder of a complete run."""
    (tmp_path / "out").mkdir()
    store = LocalStore(tmp_path / "out")
    make_run(tmp_path / "list.txt", store, _ROWS, _SHARDS, State.COMPLETE, PlanState.COMPLETE)
    return store


def plan_all(run: Run, store: LocalStore) -> None:
    """Let a run plan everything, and then fail before it gets workers."""
    with suppress(KeyError), run:
        wait_for(lambda: RunFile.load(store).plan is PlanState.COMPLETE)
        raise KeyError


def extend(store: LocalStore, added: Path) -> RunFile:
    """Extend a run, plan everything, and then fail because there are no workers. Return the run's record."""
    plan_all(Run.extend(store, url_list.read(str(added)), str(added), SourceOptions()), store)
    return RunFile.load(store)


def contents(store: LocalStore) -> dict[str, bytes]:
    """Return the files of the plan, and the manifests."""
    names = [*store.list_files(plan.FOLDER), *(name for name in store.list_entries() if name.endswith(".parquet"))]
    return {name: store.read(name) for name in names}


def indexes(store: LocalStore) -> list[list[int]]:
    """Return the indexes of each planned shard."""
    return [plan.indexes(plan.decode(store.read(name))) for name in sorted(store.list_files(plan.FOLDER))]


def collect_added(store: LocalStore) -> None:
    """Write manifests for the added shards. Every image in these shards has failed."""
    for shard in (4, 5):
        requests = plan.requests(plan.decode(store.read(plan.name(shard))))
        outcomes = [
            Outcome(image_key(request.index, SIZE), Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, finished_at=1.0)
            for request in requests
        ]
        collect(shard, outcomes, RunOptions(str(store.root), SIZE, run_id=RUN_ID), store)


def test_new_rows_come_in_new_shards(store: LocalStore, added: Path) -> None:
    """The existing shards keep their rows and files. The new rows are numbered from the next shard on."""
    before = contents(store)
    record = extend(store, added)
    assert indexes(store) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10], [12, 13, 14], [15, 16]]
    assert contents(store).items() >= before.items()
    assert (record.planned_rows, record.planned_shards) == (_ROWS + _ADDED, _SHARDS + 2)
    assert (record.earlier_rows, record.earlier_shards) == (_ROWS, _SHARDS)
    assert (record.source, record.state) == (str(added), State.FAILED)
    assert url_list.is_unchanged(str(added), record.fingerprint)


@pytest.mark.parametrize("planned", [0, 1, 2])
def test_resume_after_the_producer_was_killed(store: LocalStore, added: Path, planned: int) -> None:
    """An extending producer may die after planning none, some or all new shards. Resuming plans the missing shards."""
    record = extend(store, added)
    whole = contents(store)
    for shard in range(_SHARDS + planned, _SHARDS + 2):
        store.remove(plan.name(shard))
    record.save(store, state=State.RUNNING, plan=PlanState.OPEN, planned_rows=_ROWS, planned_shards=_SHARDS)
    plan_all(Run.resume(store), store)
    assert contents(store) == whole
    found = RunFile.load(store)
    assert (found.planned_rows, found.planned_shards) == (_ROWS + _ADDED, _SHARDS + 2)
    assert found.end_index(found.planned_rows) == _FIRST_INDEX + _ADDED


def test_changed_list_is_not_planned_further(store: LocalStore, added: Path) -> None:
    """If the second list has changed since the crash, resuming reports the change and plans nothing."""
    record = extend(store, added)
    store.remove(plan.name(5))
    record.save(store, state=State.RUNNING, plan=PlanState.OPEN)
    added.write_bytes(b"http://c.example/\n")
    run = Run.resume(store)
    wait_for(lambda: run._planner.closed)
    assert "The list" in str(run._planner.error)
    assert len(indexes(store)) == _SHARDS + 1


@pytest.mark.parametrize("state", list(PlanState))
def test_repairs_the_plan_of_the_new_shards(
    store: LocalStore, added: Path, caplog: pytest.LogCaptureFixture, state: PlanState
) -> None:
    """A damaged plan file of the last list is rebuilt.

    A damaged file of an earlier list is reported with the reason.
    """
    record = extend(store, added)
    whole = contents(store)
    record = record.save(store, plan=state)
    for shard in (4, 5):
        path = store.path(plan.name(shard))
        path.write_bytes(path.read_bytes()[:-50])
    with caplog.at_level(logging.WARNING):
        repair_plan(record, store, _SHARDS + 2)
    assert contents(store) == whole
    store.remove(plan.name(1))
    with pytest.raises(CommandError, match="from an earlier list, before the run was extended"):
        Run.resume(store)


def test_extended_run_is_retried_as_a_whole(store: LocalStore, added: Path) -> None:
    """Retrying an extended run repeats the failed images of all lists. After that, another list can be added."""
    record = extend(store, added)
    collect_added(store)
    record.save(store, state=State.COMPLETE, totals={"total": _ROWS + _ADDED, "failed": 0})
    run = Run.retry(store, ["timeout"])
    assert run.summary().before == {"timeout": _ROWS + _ADDED}
    with pytest.raises(KeyError), run:
        raise KeyError
    assert [finding.level for finding in inspect_folder(store) if "disk" not in finding.name] == [Level.OK] * 3
    added.write_bytes(b"http://c.example/\n")
    assert extend(store, added).planned_rows == _ROWS + _ADDED + 1
    assert indexes(store)[-1] == [18]


def test_damaged_run_is_not_extended(store: LocalStore, added: Path, tmp_path: Path) -> None:
    """A damaged manifest, or a damaged plan whose list is missing, is reported before anything changes."""
    record = store.read("run.json")
    body = store.read(manifest.name(1))
    store.replace(manifest.name(1), body[:-40])
    with pytest.raises(CommandError, match="is unusable"):
        extend(store, added)
    store.replace(manifest.name(1), body)
    (tmp_path / "list.txt").unlink()
    store.remove(plan.name(0))
    with pytest.raises(CommandError, match="can't be rebuilt"):
        extend(store, added)
    assert store.read("run.json") == record


def test_unfinished_run_is_not_extended(store: LocalStore, added: Path) -> None:
    """Only a complete run can be extended. For an incomplete run, the hint is the command that completes it."""
    RunFile.load(store).save(store, state=State.INTERRUPTED)
    with pytest.raises(UsageError, match="is not complete") as caught:
        extend(store, added)
    assert caught.value.hint == f"Run `producer resume {store.root}` to complete it."
