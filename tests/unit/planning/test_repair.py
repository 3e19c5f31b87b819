"""A damaged plan is rebuilt from its URL list, but only if the list is unchanged."""

from __future__ import annotations

import gzip
import logging
import os
from pathlib import Path

import pytest

from producer.output.run_file import PlanState, RunConfig, RunFile, State
from producer.planning.planner import Planner, PlanProgress
from producer.planning.repair import repair_plan
from producer.runs.resume import remaining_requests
from producer.runs.run import Run
from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks.errors import CommandError
from tasks.storage import plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.runs import make_run

_ROWS = 11
_SHARDS = 4


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the path of the URL list."""
    return tmp_path / "list.txt"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return the run's folder."""
    (tmp_path / "out").mkdir()
    return LocalStore(tmp_path / "out")


def plans(store: LocalStore) -> dict[str, bytes]:
    """Return the files of the plan."""
    return {name: store.read(name) for name in store.list_files(plan.FOLDER)}


def damage(store: LocalStore, shard: int) -> None:
    """Truncate a file of the plan."""
    path = store.path(plan.name(shard))
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("state", list(PlanState))
@pytest.mark.parametrize("broken", [[0], [1], [3], [0, 1, 2, 3]], ids=str)
def test_rebuilds_a_damaged_plan(
    store: LocalStore, source: Path, caplog: pytest.LogCaptureFixture, state: PlanState, broken: list[int]
) -> None:
    """Damaged plan files are rebuilt with the same rows. Each damaged file is reported, and intact files stay."""
    record = make_run(source, store, _ROWS, 2, State.INTERRUPTED, state)
    before = plans(store)
    for shard in broken:
        damage(store, shard)
    if state is PlanState.COMPLETE:
        store.remove(plan.name(broken[0]))
    with caplog.at_level(logging.WARNING):
        repair_plan(record, store, _SHARDS)
    assert plans(store) == before
    # A thread of an earlier test may log, too.
    found = [entry.getMessage() for entry in caplog.records if entry.name.startswith("producer.planning")]
    assert all(f"shard {shard:05d}" in text for shard, text in zip(broken, found, strict=True))


@pytest.mark.parametrize(
    ("row", "encoding"),
    [
        ("http://a.example/{}\r", "utf-8"),
        ('\ufeff"http://a.example/{}",\r\n', "utf-8"),
        ("<http://a.example/{}>\n", "utf-16"),
    ],
    ids=["CR", "byte order marks and quotes", "UTF-16"],
)
def test_rebuilds_from_lists_in_other_encodings(store: LocalStore, source: Path, row: str, encoding: str) -> None:
    """A list in any encoding and with any line ends gives the same requests as at the first reading."""
    record = make_run(source, store, _ROWS, 2, State.INTERRUPTED, PlanState.COMPLETE, row, encoding)
    before = plans(store)
    assert plan.requests(plan.decode(before[plan.name(3)], ShardRef(record.id, 3)))[0].url == "http://a.example/9"
    damage(store, 3)
    repair_plan(record, store, _SHARDS)
    assert plans(store) == before


def test_whole_plan_needs_no_list(store: LocalStore, source: Path) -> None:
    """If nothing is damaged, the list is not read."""
    record = make_run(source, store, _ROWS, 0, State.INTERRUPTED, PlanState.COMPLETE)
    source.unlink()
    repair_plan(record, store, _SHARDS)


@pytest.mark.parametrize("change", ["gone", "longer", "other", "manifest", "neighbour"])
def test_refuses_a_changed_list(store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """No plan is rebuilt from a missing or changed list, even if the list's fingerprint does not show the change."""
    record = make_run(source, store, _ROWS, 2, State.INTERRUPTED, PlanState.COMPLETE)
    broken = 1 if change == "manifest" else 2
    damage(store, broken)
    before = plans(store)
    text = source.read_text(encoding="utf-8")
    if change == "gone":
        source.unlink()
    elif change == "longer":
        source.write_text(text + "http://a.example/more\n", encoding="utf-8")
    else:
        row = {"other": 7, "manifest": 4, "neighbour": 9}[change]
        source.write_text(text.replace(f"example/{row}\n", "example/x\n"), encoding="utf-8")
    if change in ("manifest", "neighbour"):
        monkeypatch.setattr("producer.sources.url_list.fingerprint", lambda _: record.fingerprint)
    with pytest.raises(CommandError, match=rf"\.plan/0000{broken}\.parquet is unusable") as caught:
        repair_plan(record, store, _SHARDS)
    assert "is missing or has changed" in caught.value.why
    assert "Restore a good copy" in caught.value.hint
    assert plans(store) == before


def test_resumes_with_a_rebuilt_plan(store: LocalStore, source: Path) -> None:
    """A run with a damaged plan is resumed if its list is unchanged, and refused otherwise."""
    make_run(source, store, _ROWS, 2, State.INTERRUPTED, PlanState.COMPLETE)
    before = plans(store)
    damage(store, 3)
    assert not Run.resume(store).is_done
    assert plans(store) == before
    damage(store, 3)
    os.truncate(source, 5)
    with pytest.raises(CommandError, match="is unusable"):
        Run.resume(store)


def test_complete_run_needs_no_plan(store: LocalStore, source: Path) -> None:
    """A completed run is reported as done, even if its plan is damaged and its list is missing."""
    make_run(source, store, _ROWS, _SHARDS, State.COMPLETE, PlanState.COMPLETE)
    damage(store, 1)
    source.unlink()
    assert Run.resume(store).is_done


@pytest.mark.parametrize(
    ("done", "state", "error", "expected"),
    [
        (2, State.INTERRUPTED, KeyError, State.INTERRUPTED),
        (2, State.RUNNING, KeyError, State.FAILED),
        (2, State.RUNNING, KeyboardInterrupt, State.INTERRUPTED),
        (_SHARDS, State.COMPLETE, KeyboardInterrupt, State.COMPLETE),
    ],
)
def test_record_states_how_a_run_ended(
    store: LocalStore, source: Path, done: int, state: State, error: type[BaseException], expected: State
) -> None:
    """A run that fails before it executes keeps its earlier state.

    Only a run in the state "running" gets another state.
    """
    make_run(source, store, _ROWS, done, state, PlanState.COMPLETE)
    run = Run.resume(store)
    assert run.abandoned is (state is State.RUNNING)
    with pytest.raises(error), run:
        raise error
    assert RunFile.load(store).state is expected


def test_rebuilds_the_columns_of_a_table(store: LocalStore, tmp_path: Path) -> None:
    """A table's plan has the table's columns in each shard, with the same types.

    The plan is rebuilt with the same columns.
    """
    table = tmp_path / "list.csv"
    rows = ["http://a.example/{},", "bad,row,{}", "http://a.example/{},dog"]
    table.write_text("url,text\n" + "".join(f"{rows[index // 3 % 3].format(index)}\n" for index in range(_ROWS)))
    options = RunConfig(shard_size=3, source=SourceOptions(caption_col="text"))
    requests = url_list.read(str(table), options.source)
    record = RunFile("id", str(table), str(store.root), options, url_list.fingerprint(str(table)))
    record.create(store)
    planner = Planner(requests, store, 3, lambda rows, shards: None, record.id)
    planner._run()
    before = plans(store)
    shards = [plan.decode(before[plan.name(shard)], ShardRef(record.id, shard)) for shard in range(_SHARDS)]
    assert {str(shard.schema.field("caption").type) for shard in shards} == {"string"}
    assert shards[2]["caption"].to_pylist() == ["dog"] * 3
    assert str(plan.requests(shards[1])[0].refused).count("line 5 has 3 fields, the header has 2") == 1
    for shard in range(_SHARDS):
        damage(store, shard)
    repair_plan(record, store, _SHARDS)
    assert plans(store) == before


@pytest.mark.parametrize("sample", [None, 7])
def test_folder_of_compressed_tables_is_resumed(store: LocalStore, tmp_path: Path, sample: int | None) -> None:
    """For a list of several files, or a sample of a list, reading continues where planning stopped.

    The options of the list stay the same.
    """
    folder = tmp_path / "lists"
    folder.mkdir()
    for name in "ab":
        rows = "".join(f"http://{name}.example/{row},{row}\n" for row in range(5))
        (folder / f"{name}.csv.gz").write_bytes(gzip.compress(f"url,n\n{rows}".encode()))
    options = RunConfig(shard_size=3, source=SourceOptions(columns=("n",), sample=sample))
    record = RunFile("id", str(folder), str(store.root), options, url_list.fingerprint(str(folder)))
    record.create(store)
    whole = list(url_list.read(str(folder), options.source))
    assert len(whole) == (sample or 10)
    store.create_durably(plan.name(0), plan.encode(whole[:3], ShardRef("id", 0)))
    rest = remaining_requests(record, store, PlanProgress(3, 1))
    assert list(rest) == whole[3:]
    assert rest.schema is not None
    assert rest.schema.names == ["n"]
    (folder / "b.csv.gz").write_bytes(b"")
    with pytest.raises(CommandError, match="can't be read further"):
        list(remaining_requests(record, store, PlanProgress(3, 1)))
