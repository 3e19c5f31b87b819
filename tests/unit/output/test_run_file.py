"""A run's record describes the run and is replaced atomically. The record keeps other runs out of the folder."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from producer.output import run_file
from producer.output.run_file import PlanState, RunConfig, RunFile, State, continue_command, new_id, resume_command
from producer.sources.options import SourceOptions
from tasks.errors import CommandError, StorageError, UsageError
from tasks.image_options import ResizeMode, ResizeOptions
from tasks.model import FetchOptions
from tasks.storage.local_store import LocalStore

_RECORD = RunFile(
    "20260101-000000-abcdef", "list.txt", "/out", RunConfig(FetchOptions(retries=7), 10, 2), started_at=1.5
)


def test_writes_a_new_record(store: LocalStore) -> None:
    """A new run's record has an id, a source and options.

    The record's state is "running", and its plan is incomplete.
    """
    _RECORD.create(store)
    written = json.loads(store.read("run.json"))
    assert len(written.pop("checksum")) == 64
    assert written == {
        "version": 3,
        "id": "20260101-000000-abcdef",
        "source": "list.txt",
        "out": "/out",
        "options": {
            "fetch": json.loads(json.dumps(asdict(FetchOptions(retries=7)))),
            "shard_size": 10,
            "window": 2,
            "max_parked": 64,
            "previous_run": None,
            "output": {"format": "files", "sidecars": [], "path_template": None},
            "source": json.loads(json.dumps(asdict(SourceOptions()))),
        },
        "plan": "open",
        "planned_rows": 0,
        "planned_shards": 0,
        "earlier_shards": 0,
        "earlier_rows": 0,
        "state": "running",
        "started_at": 1.5,
        "finished_at": None,
        "totals": None,
        "fingerprint": None,
        "revision": 0,
        "epoch": 0,
        "broker": None,
        "retried": [],
    }
    assert stat.S_IMODE(store.path("run.json").stat().st_mode) == 0o600


def test_changes_are_saved(store: LocalStore) -> None:
    """Changes are written, other fields stay, and the previous record object is not modified."""
    _RECORD.create(store)
    changed = _RECORD.save(store, plan=PlanState.COMPLETE, planned_rows=3)
    changed = changed.save(store, state=State.COMPLETE, finished_at=9.0, totals={"total": 3})
    written = json.loads(store.read("run.json"))
    assert (written["plan"], written["planned_rows"], written["state"]) == ("complete", 3, "complete")
    assert (written["finished_at"], written["totals"], written["id"]) == (9.0, {"total": 3}, _RECORD.id)
    assert (changed.state, _RECORD.state) == (State.COMPLETE, State.RUNNING)


@pytest.mark.parametrize("step", [RunFile("other", "b", "/b", RunConfig()).create, RunFile.check_no_run])
def test_folder_with_a_run_is_refused(store: LocalStore, step: Callable[[LocalStore], None]) -> None:
    """A second run in the same folder is refused. The record of the first run stays."""
    RunFile.check_no_run(store)
    _RECORD.create(store)
    with pytest.raises(UsageError, match="already holds a run") as caught:
        step(store)
    assert "--out" in caught.value.hint
    assert json.loads(store.read(run_file.NAME))["id"] == _RECORD.id


def test_one_of_two_runs_at_once_wins(store: LocalStore) -> None:
    """If several runs start in one folder at the same time, exactly one succeeds."""

    def create(number: int) -> bool:
        try:
            RunFile(str(number), "a", "/a", RunConfig()).create(store)
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(create, range(8))).count(True) == 1


def test_failed_save_leaves_the_old_record(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a record can't be replaced, the old one is unchanged."""
    _RECORD.create(store)
    monkeypatch.setattr(store, "root", store.root / "run.json")
    with pytest.raises(StorageError):
        _RECORD.save(store, state=State.FAILED)
    monkeypatch.undo()
    assert json.loads(store.read("run.json"))["state"] == "running"


def test_ids_are_distinct_and_sort() -> None:
    """An id begins with its time, so ids sort by time. Two ids of the same second differ."""
    ids = [new_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run_id) for run_id in ids)


@pytest.mark.parametrize(
    "name", ["run.json", ".plan/00000.parquet", "00000/1.jpg", "00000.parquet", "00007_stats.json", "123456.parquet"]
)
def test_refuses_remains_of_a_run(tmp_path: Path, name: str) -> None:
    """A run is refused if its folder has a stale manifest or a stale shard folder.

    The run would use the stale manifest, or remove files in the shard folder.
    """
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match="already holds a run, or leftovers of one"):
        RunFile.check_no_run(LocalStore(tmp_path))


def test_complete_run_is_not_resumed(store: LocalStore) -> None:
    """For a complete run, the hint says how to retry it or download the list again.

    The hint does not say how to resume the run.
    """
    _RECORD.create(store)
    _RECORD.save(store, state=State.COMPLETE)
    with pytest.raises(UsageError) as caught:
        RunFile.check_no_run(store)
    assert f"producer retry {store.root}" in caught.value.hint
    assert f"another --out to download the list again; add `--refresh-from {store.root}`" in caught.value.hint
    assert "resume" not in caught.value.hint


def test_hint_depends_on_the_record(tmp_path: Path) -> None:
    """The hint to resume appears only if a record exists. The hint is quoted for the shell."""
    store = LocalStore(tmp_path / "my out")
    store.root.mkdir()
    store.path("00000.parquet").touch()
    with pytest.raises(UsageError) as caught:
        RunFile.check_no_run(store)
    assert caught.value.hint == "Choose another --out, or remove that folder."
    _RECORD.create(LocalStore(tmp_path))
    store.path("run.json").write_bytes((tmp_path / "run.json").read_bytes())
    with pytest.raises(UsageError) as caught:
        RunFile.check_no_run(store)
    assert caught.value.hint.startswith(f"Resume it with `producer resume '{store.root}'`, choose another --out")


@pytest.mark.parametrize(
    ("broker", "configured", "option"),
    [
        (None, None, ""),
        (None, "redis://a.example:6379/0", ""),
        ("redis://a.example:6379/0", None, " --broker redis://a.example:6379/0"),
        ("redis://***@a.example:6379/0", None, " --broker 'redis://***@a.example:6379/0'"),
        ("redis://***@a.example:6379/0", "redis://u:word@a.example:6379/0", ""),
        ("redis://a.example:6379/0", "redis://b.example:6379/0", " --broker redis://a.example:6379/0"),
    ],
)
def test_hint_names_the_broker(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, broker: str | None, configured: str | None, option: str
) -> None:
    """The suggested command uses the run's broker, whether the broker was given by an option or configured."""
    monkeypatch.setattr(run_file, "settings", lambda: SimpleNamespace(broker=configured))
    replace(_RECORD, broker=broker).create(store)
    assert resume_command(store) == f"producer resume {store.root}{option}"
    assert continue_command("retry", store, " --all") == f"producer retry {store.root} --all{option}"


def test_finds_the_broker_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker URL is in the record if it has no password. A URL with a password comes only from the environment."""
    monkeypatch.setattr(run_file, "settings", lambda: SimpleNamespace(broker="redis://:word@a.example/0"))
    assert replace(_RECORD, broker=None).broker_url() is None
    assert replace(_RECORD, broker="redis://b.example/0").broker_url() == "redis://b.example/0"
    assert replace(_RECORD, broker="redis://***@a.example/0").broker_url() == "redis://:word@a.example/0"
    with pytest.raises(UsageError, match="its password is not saved") as caught:
        replace(_RECORD, broker="redis://***@b.example/0").broker_url()
    assert "--broker" in caught.value.hint


@pytest.mark.parametrize("name", ["holiday.jpg", "notes", "1234", "00000.txt"])
def test_other_files_are_not_a_run(tmp_path: Path, name: str) -> None:
    """Other files in the output folder do not prevent a run."""
    (tmp_path / name).touch()
    RunFile.check_no_run(LocalStore(tmp_path))


_FULL = RunFile(
    "20260101-000000-abcdef",
    "list.txt",
    "/out",
    RunConfig(FetchOptions(retries=7, resize=ResizeOptions(ResizeMode.KEEP_RATIO, 32)), 10, 2),
    fingerprint="3:f00",
    plan=PlanState.COMPLETE,
    planned_rows=25,
    planned_shards=3,
    state=State.INTERRUPTED,
    revision=2,
    retried=("dns", "timeout"),
    started_at=1.5,
    finished_at=2.25,
    totals={"total": 25, "reasons": {"dns": 1}},
)


@pytest.mark.parametrize("record", [_RECORD, _FULL], ids=["new", "full"])
def test_record_survives_a_round_trip(store: LocalStore, record: RunFile) -> None:
    """A record that is read back equals the record that was written."""
    record.create(store)
    assert RunFile.load(store) == record


def test_reports_a_folder_without_a_run(store: LocalStore) -> None:
    """A folder without a record has no run."""
    with pytest.raises(UsageError, match="holds no run"):
        RunFile.load(store)


def test_reports_any_changed_byte(store: LocalStore) -> None:
    """A record with any changed byte is refused, even if a number keeps its value.

    The error names the record's path.
    """
    # The record's time has more digits than a floating-point number keeps.
    replace(_FULL, started_at=1795621279.7116647).create(store)
    body = store.read("run.json")
    for place in range(len(body)):
        for bit in {0, place % 8}:
            flipped = bytearray(body)
            flipped[place] ^= 1 << bit
            # A file that is truncated before the write would be flushed to the disk each time.
            with store.path("run.json").open("r+b") as file:
                file.write(flipped)
            with pytest.raises(CommandError, match="nothing was changed") as caught:
                RunFile.load(store)
            assert caught.value.what == f"{store.path('run.json')} is damaged"
            assert store.read("run.json") == flipped


def test_reports_any_truncation(store: LocalStore) -> None:
    """A record truncated at any byte is refused."""
    _FULL.create(store)
    for length in reversed(range(store.path("run.json").stat().st_size)):
        os.truncate(store.path("run.json"), length)
        with pytest.raises(CommandError, match=r"run\.json is damaged"):
            RunFile.load(store)


def test_record_that_cannot_be_read_is_not_damaged(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store refuses to read the record, the error names this cause. There is nothing to restore."""
    _FULL.create(store)

    def read(name: str) -> bytes:
        raise StorageError(f"could not read {name}: Permission denied")

    monkeypatch.setattr(store, "read", read)
    with pytest.raises(CommandError, match=r"run\.json can't be read: could not read run\.json: Permission") as caught:
        RunFile.load(store)
    assert "permissions of this user" in caught.value.hint


@pytest.mark.parametrize("text", ["[]", "null", "1", '"text"', "{}", '{"checksum": 1}'])
def test_other_json_is_refused(store: LocalStore, text: str) -> None:
    """JSON that is not a record is refused."""
    store.replace("run.json", text.encode())
    with pytest.raises(CommandError, match="is damaged"):
        RunFile.load(store)


def test_record_of_another_version_is_refused(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of another version is refused."""
    monkeypatch.setattr(run_file, "_VERSION", 99)
    _FULL.create(store)
    monkeypatch.undo()
    with pytest.raises(CommandError, match="it was written by another version"):
        RunFile.load(store)
