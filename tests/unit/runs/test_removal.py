"""Overwriting removes all files of the run, and no other file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from producer.doctor.folder_checks import inspect_folder
from producer.output.run_file import PlanState, RunConfig, RunFile, State
from producer.runs.cancel import cancel
from producer.runs.removal import RunRemoval
from producer.runs.run import Run
from tasks.errors import StorageError, UsageError
from tasks.model import Outcome, OutputFormat, OutputOptions, Sidecar, Status
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.runs import RUN_ID, make_run


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return the folder of an interrupted run of four shards. Two shards are complete. Some images are saved."""
    (tmp_path / "out").mkdir()
    store = LocalStore(tmp_path / "out")
    record = make_run(tmp_path / "list.txt", store, 11, 2, State.INTERRUPTED, PlanState.OPEN)
    record.save(store, options=replace(record.options, output=OutputOptions(sidecars=(Sidecar.JSON,))))
    for name in (
        "00000/000000.jpg",
        "00000/000000.json",
        "00003/000031.webp",
        "00003/.000031.webp.claim",
        "00003/.outcomes-0-1.json",
        "failures.jsonl",
    ):
        store.create(name, b"image")
    return store


def files(store: LocalStore) -> set[str]:
    """Return the names of all files and folders in the output folder."""
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*")}


def test_removes_all_files_of_the_run(store: LocalStore) -> None:
    """The images, their sidecars, the plan, the manifests, the stats and the record are removed. Other files stay."""
    store.create("notes.txt", b"mine")
    store.create("lists/list.txt", b"mine")
    RunRemoval(RunFile.load(store), store).remove()
    assert files(store) == {"notes.txt", "lists", "lists/list.txt"}


@pytest.mark.parametrize("kind", [OutputFormat.WEBDATASET, OutputFormat.PARQUET])
def test_removes_packed_files(store: LocalStore, kind: OutputFormat) -> None:
    """The packed files of a run are removed too."""
    record = RunFile.load(store)
    record = record.save(store, options=replace(record.options, output=OutputOptions(kind)))
    store.remove("00000/000000.json")
    store.create("00000.tar" if kind is OutputFormat.WEBDATASET else "00000/images.parquet", b"packed")
    RunRemoval(record, store).remove()
    assert files(store) == set()


@pytest.mark.parametrize(
    "name",
    [
        "00000/notes.txt",
        "00000/000000.npy",
        "00000/000000.txt",
        "00000/.000000.jpg",
        "00001/000000.jpg",
        "00077.parquet",
        ".plan/mine",
        "00004/x",
    ],
)
def test_foreign_file_is_reported_first(store: LocalStore, name: str) -> None:
    """If a foreign file is among the run's files, nothing is removed. A new run would mix its files with that file."""
    store.create(name, b"mine")
    before = files(store)
    with pytest.raises(UsageError, match="can't be overwritten") as caught:
        RunRemoval(RunFile.load(store), store)
    assert name.partition("/")[0] in caught.value.why
    assert files(store) == before


@pytest.mark.parametrize("step", [0, 1, 4, 9, 13, 16])
def test_interrupted_removal_can_only_be_repeated(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """If a removal dies half-way, every command refuses the run. A second removal removes the remaining files."""
    left = step

    def remove(name: str) -> None:
        nonlocal left
        if left == 0:
            raise StorageError("disconnected")
        left -= 1
        LocalStore.remove(store, name)

    monkeypatch.setattr(store, "remove", remove)
    with pytest.raises(UsageError, match="can't be written"):
        RunRemoval(RunFile.load(store), store).remove()
    monkeypatch.undo()
    for command in (Run.resume, lambda store: Run.retry(store, ["timeout"]), lambda store: cancel(store, None, bool)):
        with pytest.raises(UsageError, match="already removed") as caught:
            command(store)
        assert "Run that command again" in caught.value.hint
    with pytest.raises(UsageError, match="already holds a run"):
        RunFile("id", "list", str(store.root), RunConfig()).create(store)
    finding = next(finding for finding in inspect_folder(store) if finding.name == "run")
    assert "already removed" in finding.found
    RunRemoval(RunFile.load(store), store).remove()
    assert files(store) == set()


def test_removes_images_in_other_folders(store: LocalStore, tmp_path: Path) -> None:
    """Images in other folders are removed with their sidecars. Names that no run would write are ignored."""
    (tmp_path / "foreign.jpg").write_bytes(b"mine")
    paths = [["photos/a.jpg", "../foreign.jpg", str(tmp_path / "foreign.jpg")], ["run.json", "00009/a.jpg", "b.jpg"]]
    for name in ("photos/a.jpg", "photos/a.json", "photos/mine.jpg", "b.jpg", "b.json"):
        store.create(name, b"image")
    for shard, images in enumerate(paths):
        rows = plan.decode(store.read(plan.name(shard)))
        outcomes = [Outcome("", Status.SUCCESS, path=path) for path in images]
        store.replace(manifest.name(shard), manifest.encode(rows, outcomes, ShardRef(RUN_ID, shard)))
    RunRemoval(RunFile.load(store), store).remove()
    assert files(store) == {"photos", "photos/mine.jpg"}
    assert (tmp_path / "foreign.jpg").exists()
