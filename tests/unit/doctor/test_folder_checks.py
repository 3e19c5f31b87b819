"""The doctor's findings about a folder, and about a current or past run in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from producer.doctor import folder_checks
from producer.doctor.finding import Finding, Level
from producer.doctor.folder_checks import SpaceNeed
from producer.output import lock
from producer.output.run_file import PlanState, State
from tasks.collect import collect
from tasks.model import ImageRequest, Outcome, OutputFormat, OutputOptions, Reason, RunOptions, Status
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.runs import RUN_ID, SIZE, make_run
from tests.unit.conftest import success

_GIB = 1024**3
_ROWS, _SHARDS = 11, 4


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the path of the URL list."""
    return tmp_path / "list.txt"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return the run's folder."""
    (tmp_path / "out").mkdir()
    return LocalStore(tmp_path / "out")


def findings_by_name(store: LocalStore) -> dict[str, Finding]:
    """Return the findings about a folder's run, by name; each problem has a remedy."""
    findings = [finding for finding in folder_checks.inspect_folder(store) if not finding.name.endswith("here")]
    assert all(bool(finding.todo) == (finding.level is not Level.OK) for finding in findings)
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


def levels(store: LocalStore) -> dict[str, Level]:
    """Return the levels of all findings except OK."""
    return {name: finding.level for name, finding in findings_by_name(store).items() if finding.level is not Level.OK}


def test_folder_without_a_run(store: LocalStore) -> None:
    """A folder that is empty, or holds only other files, can be used."""
    store.replace("mine.txt", b"")
    assert (levels(store), findings_by_name(store)["run"].found) == ({}, "no run is in it")


@pytest.mark.parametrize("name", ["00000.parquet", "00001_stats.json", "00000.tar"])
def test_leftovers_of_a_run_are_named(store: LocalStore, name: str) -> None:
    """A file that would prevent a run is named."""
    store.replace(name, b"")
    assert levels(store) == {"run": Level.BAD}
    assert name in findings_by_name(store)["run"].found


@pytest.mark.parametrize("name", ["00003", ".plan", ".tmp"])
def test_folder_inside_of_a_run(store: LocalStore, source: Path, name: str) -> None:
    """If the folder is inside of a run's folder, the run's folder is suggested."""
    make_run(source, store, _ROWS, 0, State.INTERRUPTED, PlanState.COMPLETE)
    store.path(name).mkdir(exist_ok=True)
    for file in store.path(name).iterdir():
        file.unlink()
    finding = findings_by_name(LocalStore(store.path(name)))["run"]
    assert (finding.level, finding.todo) == (Level.BAD, f"Use {store.root}.")


def test_damaged_run_file(store: LocalStore, source: Path) -> None:
    """A damaged run.json is bad, and the finding has a remedy."""
    make_run(source, store, _ROWS, 2, State.INTERRUPTED, PlanState.COMPLETE)
    path = store.path("run.json")
    path.write_text(path.read_text().replace('"window": 8', '"window": 9'))
    finding = findings_by_name(store)["run"]
    assert finding.level is Level.BAD
    assert "is damaged" in finding.found
    assert "download the list into another folder" in finding.todo


def test_folder_of_a_baseline(store: LocalStore) -> None:
    """The folder of one way of `compare` is fine. The doctor does not mistake it for a run's leftovers."""
    options = RunOptions(str(store.root), 2)
    store.create_durably(plan.name(0), plan.encode([ImageRequest(0, "http://a.example/")], ShardRef("", 0)))
    collect(0, [Outcome("000000", Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, finished_at=101.0)], options, store)
    for name in ("00000.parquet", plan.name(0)):
        assert levels(store) == {}
        assert "one way of a comparison" in findings_by_name(store)["run"].found
        store.remove(name)
    assert levels(store) == {"run": Level.BAD}
    # A comparison.json next to the folder also shows that the folder belongs to `compare`.
    store.path("../comparison.json").write_text(json.dumps({"ways": [{"out": "/moved/since/out"}]}))
    assert levels(store) == {}


def test_missing_images_are_counted(store: LocalStore, source: Path) -> None:
    """The images that a manifest names but that are missing are counted per shard. The finding has a remedy."""
    make_run(source, store, _ROWS, _SHARDS, State.COMPLETE, PlanState.COMPLETE)
    store.remove("00001.parquet")
    outcomes = [success(place, 1, SIZE) for place in range(SIZE)]
    for outcome in outcomes:
        store.create(outcome.path or "", b"image")
    collect(1, outcomes, RunOptions(str(store.root), SIZE, run_id=RUN_ID), store)
    assert "images" not in findings_by_name(store)
    for outcome in outcomes[1:]:
        store.remove(outcome.path or "")
    finding = findings_by_name(store)["images"]
    assert (finding.level, finding.found) == (
        Level.WARN,
        "2 images listed in manifests are missing, in shards 00001 (2)",
    )
    assert "remove the manifest of such a shard (00001.parquet)" in finding.todo
    assert f"run `producer resume {store.root}`" in finding.todo


def test_missing_packed_images_are_counted(store: LocalStore, source: Path) -> None:
    """The images of a missing tar are counted, and the remedy names the tar."""
    record = make_run(source, store, _ROWS, _SHARDS, State.COMPLETE, PlanState.COMPLETE)
    output = OutputOptions(OutputFormat.WEBDATASET)
    record.save(store, options=replace(record.options, output=output))
    for shard in range(_SHARDS):
        store.remove(manifest.name(shard))
        outcomes = [success(place, shard, SIZE, bytes=5) for place in range(min(SIZE, _ROWS - shard * SIZE))]
        for outcome in outcomes:
            store.create(outcome.path or "", b"image")
        collect(shard, outcomes, RunOptions(str(store.root), SIZE, run_id=RUN_ID, output=output), store)
    assert "images" not in findings_by_name(store)
    store.remove("00002.tar")
    finding = findings_by_name(store)["images"]
    assert finding.found == "3 images listed in manifests are missing, in shards 00002 (3)"
    assert "Restore 00002.tar" in finding.todo
    assert "remove it and the manifest of its shard (00002.parquet)" in finding.todo


@pytest.mark.parametrize("state", [State.INTERRUPTED, State.CANCELLED, State.FAILED])
def test_unfinished_run(store: LocalStore, source: Path, state: State) -> None:
    """The report gives the run's state, its progress, and how to resume it."""
    make_run(source, store, _ROWS, 2, state, PlanState.COMPLETE)
    assert levels(store) == {"run": Level.WARN}
    seen = findings_by_name(store)
    assert seen["run"].found == f"{RUN_ID} of {source}: {state}"
    assert seen["run"].todo == f"Resume it with `producer resume {store.root}`."
    assert seen["plan"].found == "4 shards planned, all checked"
    assert seen["manifests"].found == "2 of 4 shards done, all checked"


def test_live_and_dead_producer(store: LocalStore, source: Path) -> None:
    """A run in the state "running" is fine if its lock is held. If the lock is free, the run's producer is dead."""
    make_run(source, store, _ROWS, 2, State.RUNNING, PlanState.OPEN)
    with lock.hold(store, None):
        assert levels(store) == {}
        assert "its producer is process" in findings_by_name(store)["run"].found
        written = store.read(lock.NAME)
    assert levels(store) == {"run": Level.WARN}
    assert findings_by_name(store)["run"].found.endswith("run.json says it is running, but its producer is dead")
    # This is the folder's state after a kill of the producer.
    store.replace(lock.NAME, written)
    assert "but its producer, process" in findings_by_name(store)["run"].found


def test_complete_run_with_failures(store: LocalStore, source: Path) -> None:
    """For temporary failures, a retry is suggested."""
    make_run(source, store, _ROWS, _SHARDS, State.COMPLETE, PlanState.COMPLETE)
    assert levels(store) == {"failures": Level.WARN}
    finding = findings_by_name(store)["failures"]
    assert finding.found == "11 of 11 images failed, 11 of them for reasons worth a retry"
    assert f"producer retry {store.root}" in finding.todo


def test_damaged_and_missing_manifests(store: LocalStore, source: Path) -> None:
    """A truncated manifest is bad, and is named. If a complete run lacks a manifest, `resume` rebuilds it."""
    make_run(source, store, _ROWS, _SHARDS, State.COMPLETE, PlanState.COMPLETE)
    whole = store.read("00001.parquet")
    store.path("00001.parquet").write_bytes(whole[:-100])
    finding = findings_by_name(store)["manifests"]
    assert finding.level is Level.BAD
    assert finding.found.startswith("4 of 4 shards done, all checked, 1 unusable: 00001.parquet (")
    assert "remove the file" in finding.todo
    store.remove("00001.parquet")
    finding = findings_by_name(store)["manifests"]
    assert (finding.level, finding.found) == (Level.WARN, "3 of 4 shards done, all checked")


@pytest.mark.parametrize(
    ("change", "level", "todo"),
    [
        (lambda source: None, Level.WARN, "producer resume"),
        (lambda source: source.unlink(), Level.BAD, "Restore a good copy"),
    ],
    ids=["same", "gone"],
)
def test_missing_plan_file(
    store: LocalStore, source: Path, change: Callable[[Path], None], level: Level, todo: str
) -> None:
    """A missing plan file is rebuilt from the URL list, if the list is unchanged."""
    make_run(source, store, _ROWS, 2, State.INTERRUPTED, PlanState.COMPLETE)
    store.remove(".plan/00002.parquet")
    change(source)
    finding = findings_by_name(store)["plan"]
    assert (finding.level, ".plan/00002.parquet" in finding.found) == (level, True)
    assert todo in finding.todo


def test_partly_read_list(store: LocalStore, source: Path) -> None:
    """The doctor reports a list whose unplanned rows can no longer be planned."""
    make_run(source, store, _ROWS, 2, State.INTERRUPTED, PlanState.OPEN)
    assert findings_by_name(store)["plan"].found.endswith("the URL list was not fully read")
    source.unlink()
    assert findings_by_name(store)["plan"].level is Level.WARN
    assert "is missing or has changed" in findings_by_name(store)["plan"].found


def test_checking_manifests_is_limited_in_time(
    store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checking stops when the time is up. The report gives the number of checked manifests."""
    make_run(source, store, _ROWS, 3, State.INTERRUPTED, PlanState.COMPLETE)
    monkeypatch.setattr(folder_checks, "_READ_SECONDS", 0)
    assert findings_by_name(store)["manifests"].found == "3 of 4 shards done, 1 checked within 0 s"


_MIB = 1024**2


@pytest.mark.parametrize(
    ("free", "need", "level", "bound"),
    [
        (4096, None, Level.BAD, "4.0 KiB are free, less than 8.0 MiB"),
        (8 * _MIB, None, Level.WARN, "less than 1.0 GiB"),
        (_GIB, None, Level.OK, "1.0 GiB are free"),
        # A complete run.
        (15 * _MIB, SpaceNeed(0, 0), Level.OK, "15.0 MiB are free"),
        (7 * _MIB, SpaceNeed(0, 0), Level.WARN, "less than 8.0 MiB"),
        (31 * _MIB, SpaceNeed(32 * _MIB, 320 * _MIB), Level.BAD, "in flight need about 32.0 MiB"),
        (195 * _MIB, SpaceNeed(32 * _MIB, 320 * _MIB), Level.WARN, "the rest of this run needs about 320.0 MiB"),
        (195 * _MIB, SpaceNeed(_MIB, 10 * _MIB), Level.OK, "the rest of this run needs about 10.0 MiB"),
    ],
)
def test_space(free: int, need: SpaceNeed | None, level: Level, bound: str) -> None:
    """Free space is compared with the run's estimated need, if the need is known. The finding names the threshold."""
    finding = folder_checks.space_finding("disk here", free, need)
    assert finding.level is level
    assert bound in finding.found


@pytest.mark.parametrize(("free", "level"), [(999, Level.BAD), (1_000, Level.WARN), (20_000, None)])
def test_few_free_inodes_are_reported(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, free: int, level: Level | None
) -> None:
    """A file system with few free inodes is reported, because each image is a file."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=_GIB))
    monkeypatch.setattr("os.statvfs", lambda _: SimpleNamespace(f_files=10**6, f_favail=free))
    found = {finding.name: finding.level for finding in folder_checks.inspect_folder(store)}
    assert found.get("disk files here") == level
