"""A packed shard is complete or absent.

A packed shard has exactly its manifest's images, however often it is collected.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks.collect import collect
from tasks.errors import StorageError
from tasks.model import ImageRequest, Outcome, OutputFormat, OutputOptions, Reason, RunOptions, Status, image_key
from tasks.outputs import agreed_outcomes
from tasks.outputs.packing import count_missing, packed_name
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.unit.conftest import image, success

_SHARD, _SIZE = 2, 4
_CAPTIONS = ['a "quoted", cat 🐈\nand its second line', None, "", "der Bär"]
_KEYS = [image_key(_SHARD * _SIZE + place, _SIZE) for place in range(_SIZE)]
#: The images of the shard, where the second URL serves a PNG.
_BODIES = [image("PNG" if place == 1 else "JPEG", (4 + place, 3)) for place in range(_SIZE)]


@pytest.fixture(params=[OutputFormat.WEBDATASET, OutputFormat.PARQUET])
def run(request: pytest.FixtureRequest) -> RunOptions:
    """Return the options of a run with each packed format."""
    return RunOptions("/out", _SIZE, output=OutputOptions(request.param))


@pytest.fixture
def planned(store: LocalStore) -> LocalStore:
    """Return a store with the plan of a captioned shard."""
    requests = [
        ImageRequest(_SHARD * _SIZE + place, f"http://a.example/{place}", {"caption": caption, "tags": ["a", place]})
        for place, caption in enumerate(_CAPTIONS)
    ]
    for request in requests:
        request.columns["tags"][1] = str(request.columns["tags"][1])
    store.create_durably(plan.name(_SHARD), plan.encode(requests, ShardRef("", _SHARD)))
    return store


def save(store: LocalStore, place: int, finished_at: float = 100.0) -> Outcome:
    """Save an image of the shard as the image's task does. Return the image's Outcome."""
    extension = "png" if place == 1 else "jpg"
    path = f"0000{_SHARD}/{_KEYS[place]}.{extension}"
    store.create(path, _BODIES[place])
    return success(
        place, _SHARD, _SIZE, path=path, bytes=len(_BODIES[place]), finished_at=finished_at, worker=f"w{finished_at}"
    )


def failed(place: int) -> Outcome:
    """Return the Outcome of a failed image of the shard."""
    return Outcome(_KEYS[place], Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, finished_at=101.0, attempts=1)


def packed_body(store: LocalStore, run: RunOptions) -> bytes:
    """Return the bytes of the shard's packed file."""
    name = packed_name(_SHARD, run.output)
    assert name is not None
    return store.read(name)


def packed_images(store: LocalStore, run: RunOptions) -> dict[str, bytes]:
    """Return the images in the shard's packed file, by their keys."""
    file = io.BytesIO(packed_body(store, run))
    if run.output.format is OutputFormat.PARQUET:
        table = pq.read_table(file)
        return dict(zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True))  # type: ignore[arg-type]
    with tarfile.open(fileobj=file) as tar:
        found = {member.name: tar.extractfile(member) for member in tar}
    return {
        name.partition(".")[0]: body.read() for name, body in found.items() if body and name.endswith(("jpg", "png"))
    }


def files(store: LocalStore) -> set[str]:
    """Return the names of all files of the shard, except its plan."""
    found = {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}
    return found - {plan.name(_SHARD)}


def test_packs_all_saved_images(planned: LocalStore, run: RunOptions) -> None:
    """The packed file has the saved images, and the manifest names the packed file. No other file remains."""
    outcomes = [save(planned, 0), failed(2), save(planned, 1), save(planned, 3)]
    planned.create(f"0000{_SHARD}/{_KEYS[2]}.jpg", b"stray")
    collect(_SHARD, outcomes, run, planned)
    name = packed_name(_SHARD, run.output)
    assert packed_images(planned, run) == {_KEYS[place]: _BODIES[place] for place in (0, 1, 3)}
    assert files(planned) == {name, manifest.name(_SHARD), manifest.stats_name(_SHARD)}
    assert manifest.decode(planned.read(manifest.name(_SHARD)))["path"].to_pylist() == [name, name, None, name]


def test_shard_without_images_has_an_empty_file(planned: LocalStore, run: RunOptions) -> None:
    """A shard whose images all failed has a valid packed file, because tools expect a file for each shard."""
    collect(_SHARD, [failed(place) for place in range(_SIZE)], run, planned)
    assert packed_images(planned, run) == {}
    assert count_missing(_SHARD, {}, run.output, planned) == 0


def test_same_images_give_the_same_bytes(planned: LocalStore, run: RunOptions, tmp_path: Path) -> None:
    """The packed file depends only on the images and the list, and not on times, workers or attempts."""
    collect(_SHARD, [save(planned, place) for place in range(_SIZE)], run, planned)
    first = packed_body(planned, run)
    planned.remove(manifest.name(_SHARD))
    collect(_SHARD, [save(planned, place, 2e9) for place in range(_SIZE)], run, planned)
    assert packed_body(planned, run) == first
    workers = manifest.decode(planned.read(manifest.name(_SHARD)))["worker"].to_pylist()
    assert set(workers) == {"w2000000000.0"}


def test_second_collect_task_changes_nothing(planned: LocalStore, run: RunOptions) -> None:
    """A redelivered collect task does not pack again, because the images are no longer separate files."""
    outcomes = [save(planned, place) for place in range(_SIZE)]
    collect(_SHARD, outcomes, run, planned)
    before = packed_body(planned, run)
    collect(_SHARD, outcomes, run, planned)
    assert packed_body(planned, run) == before


def test_collect_task_that_died_after_packing(
    planned: LocalStore, run: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a collect task dies, its successor packs again: with the Outcomes of the dead task, or of a later command.

    The files stay until the manifest exists.
    """
    outcomes = [save(planned, place) for place in range(_SIZE)]
    with monkeypatch.context() as patch:
        # The stats file is written after the packed file.
        patch.setattr(LocalStore, "replace", _raise_full_disk)
        with pytest.raises(StorageError):
            collect(_SHARD, outcomes, run, planned)
        with pytest.raises(StorageError):
            collect(_SHARD, [*outcomes[:3], failed(3)], run, planned)
    assert packed_images(planned, run).keys() == set(_KEYS)
    collect(_SHARD, [*outcomes[:3], failed(3)], replace(run, epoch=1), planned)
    assert packed_images(planned, run).keys() == set(_KEYS[:3])
    assert files(planned) == {packed_name(_SHARD, run.output), manifest.name(_SHARD), manifest.stats_name(_SHARD)}


def test_retry_adds_to_the_packed_file(planned: LocalStore, run: RunOptions) -> None:
    """A later revision keeps the packed images and adds the new images in key order, as if all were saved at once."""
    collect(_SHARD, [save(planned, 0), failed(1), save(planned, 2), failed(3)], run, planned)
    later = replace(run, revision=1)
    collect(_SHARD, [save(planned, 1), failed(3)], later, planned, count=2)
    assert list(packed_images(planned, run)) == _KEYS[:3]
    assert files(planned) == {packed_name(_SHARD, run.output), manifest.name(_SHARD), manifest.stats_name(_SHARD)}
    collect(_SHARD, [save(planned, 3)], replace(run, revision=2), planned, count=1)
    added = packed_body(planned, run)
    planned.remove(manifest.name(_SHARD))
    collect(_SHARD, [save(planned, place) for place in range(_SIZE)], run, planned)
    assert packed_body(planned, run) == added


def test_retry_that_died_after_packing(planned: LocalStore, run: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a later revision's collect task dies, its successor finds the new images both as files and in the packed file.

    The successor packs each image once.
    """
    collect(_SHARD, [save(planned, 0), failed(1), save(planned, 2), save(planned, 3)], run, planned)
    later = replace(run, revision=1)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "replace", _raise_full_disk)
        with pytest.raises(StorageError):
            collect(_SHARD, [save(planned, 1)], later, planned, count=1)
    collect(_SHARD, [save(planned, 1)], later, planned, count=1)
    assert packed_images(planned, run) == dict(zip(_KEYS, _BODIES, strict=True))
    assert set(manifest.decode(planned.read(manifest.name(_SHARD)))["status"].to_pylist()) == {"success"}


def test_damaged_packed_file_stops_a_retry(planned: LocalStore, run: RunOptions) -> None:
    """If the packed images are missing, a later revision changes nothing."""
    collect(_SHARD, [save(planned, 0), failed(1), save(planned, 2), save(planned, 3)], run, planned)
    name, body = packed_name(_SHARD, run.output), packed_body(planned, run)
    assert name is not None
    before = planned.read(manifest.name(_SHARD))
    planned.replace(name, body[: len(body) // 2])
    with pytest.raises(StorageError, match=f"could not read {name}"):
        collect(_SHARD, [save(planned, 1)], replace(run, revision=1), planned, count=1)
    assert planned.read(manifest.name(_SHARD)) == before
    assert packed_body(planned, run) == body[: len(body) // 2]


def test_changed_file_is_not_packed(planned: LocalStore, run: RunOptions) -> None:
    """If a file is missing, or has another size than its Outcome says, no packed file and no manifest are written."""
    outcomes = [save(planned, place) for place in range(_SIZE)]
    path = outcomes[2].path
    assert path is not None
    planned.replace(path, _BODIES[2][:-1])
    with pytest.raises(StorageError, match=f"image {_KEYS[2]} has"):
        collect(_SHARD, outcomes, run, planned)
    planned.remove(path)
    with pytest.raises(StorageError, match="could not read"):
        collect(_SHARD, outcomes, run, planned)
    assert not {manifest.name(_SHARD), packed_name(_SHARD, run.output)} & files(planned)


def test_slower_of_two_collect_tasks_gives_up(
    planned: LocalStore, run: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another task collects the shard first, a task that has also packed the images keeps the first task's file."""
    outcomes = [save(planned, place) for place in range(_SIZE)]
    real = LocalStore.replace_from

    def overtaken(store: LocalStore, name: str, chunks: Iterable[bytes]) -> None:
        def late() -> Iterator[bytes]:
            remaining = iter(chunks)
            yield next(remaining)
            monkeypatch.setattr(LocalStore, "replace_from", real)
            collect(_SHARD, outcomes, run, store)
            yield from remaining

        real(store, name, late())

    monkeypatch.setattr(LocalStore, "replace_from", overtaken)
    collect(_SHARD, [*outcomes[:3], failed(3)], run, planned)
    assert packed_images(planned, run) == dict(zip(_KEYS[:3], _BODIES[:3], strict=True))
    assert json.loads(planned.read(manifest.stats_name(_SHARD)))["successes"] == 3
    assert files(planned) == {packed_name(_SHARD, run.output), manifest.name(_SHARD), manifest.stats_name(_SHARD)}


@pytest.mark.parametrize("revision", [0, 1])
def test_collect_tasks_with_different_outcomes(
    planned: LocalStore, run: RunOptions, monkeypatch: pytest.MonkeyPatch, revision: int
) -> None:
    """If the slower task replaces the packed file after the faster task wrote the manifest, both still agree."""
    if revision:
        collect(_SHARD, [save(planned, 0), *map(failed, range(1, _SIZE))], run, planned)
    places, run = range(revision, _SIZE), replace(run, revision=revision)
    outcomes = [save(planned, place) for place in places]
    real = LocalStore.replace_from

    def overtaken(store: LocalStore, name: str, chunks: Iterable[bytes]) -> None:
        body = list(chunks)
        monkeypatch.setattr(LocalStore, "replace_from", real)
        collect(_SHARD, [failed(place) for place in places], run, store, count=len(places))
        real(store, name, body)

    monkeypatch.setattr(LocalStore, "replace_from", overtaken)
    collect(_SHARD, outcomes, run, planned, count=len(places))
    table = manifest.decode(planned.read(manifest.name(_SHARD)))
    saved = [key for key, path in zip(_KEYS, table["path"].to_pylist(), strict=True) if path is not None]
    assert list(packed_images(planned, run)) == saved == _KEYS
    assert files(planned) == {packed_name(_SHARD, run.output), manifest.name(_SHARD), manifest.stats_name(_SHARD)}


def test_late_collect_task_leaves_no_file(
    planned: LocalStore, run: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a task saves its Outcomes after another task has collected the shard, it removes them again."""
    outcomes = [save(planned, place) for place in range(_SIZE)]
    real = agreed_outcomes.agree

    def overtaken(*args: Any) -> Sequence[Outcome]:
        monkeypatch.setattr(agreed_outcomes, "agree", real)
        collect(_SHARD, outcomes, run, planned)
        return real(*args)

    monkeypatch.setattr(agreed_outcomes, "agree", overtaken)
    collect(_SHARD, [failed(place) for place in range(_SIZE)], run, planned)
    assert packed_images(planned, run) == dict(zip(_KEYS, _BODIES, strict=True))
    assert files(planned) == {packed_name(_SHARD, run.output), manifest.name(_SHARD), manifest.stats_name(_SHARD)}


def test_missing_images_are_counted(planned: LocalStore, run: RunOptions) -> None:
    """The doctor learns how many images a packed file lacks. A truncated file lacks all of its images."""
    collect(_SHARD, [save(planned, 0), save(planned, 1), save(planned, 2), failed(3)], run, planned)
    sizes = {_KEYS[place]: len(_BODIES[place]) for place in range(3)}
    assert count_missing(_SHARD, sizes, run.output, planned) == 0
    assert count_missing(_SHARD, {**sizes, _KEYS[3]: 9, _KEYS[0]: 9}, run.output, planned) == 2
    name = packed_name(_SHARD, run.output)
    assert name is not None
    planned.replace(name, packed_body(planned, run)[:-600])
    assert count_missing(_SHARD, sizes, run.output, planned) == 3
    planned.remove(name)
    assert count_missing(_SHARD, sizes, run.output, planned) == 3


def _raise_full_disk(*_: object) -> None:
    raise StorageError("could not save: no space left")
