"""A manifest is written once, as the last file. A manifest needs exactly one Outcome for each request of its plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from tasks.collect import IncompleteShardError, collect
from tasks.errors import StorageError
from tasks.model import ImageRequest, Outcome, Reason, Refusal, RunOptions, Status, image_key
from tasks.storage import fsync, manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.manifest import CorruptManifestError
from tasks.storage.plan import CorruptPlanError
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.shard_status import manifest_revision
from tests.unit.conftest import success

_SHARD, _SIZE = 2, 3
_RUN = RunOptions("/out", _SIZE)


def saved(place: int) -> Outcome:
    """Return the Outcome of a saved image of the shard."""
    return success(place, _SHARD, _SIZE)


@pytest.fixture
def planned(store: LocalStore) -> LocalStore:
    """Return a store with a shard's plan, the files of its first two images, and a stray file."""
    requests = [ImageRequest(_SHARD * _SIZE + place, f"http://a.example/{place}") for place in range(_SIZE)]
    store.create_durably(plan.name(_SHARD), plan.encode(requests, ShardRef("", _SHARD)))
    for name in (saved(0).path, saved(1).path, "00002/000022.jpg", "00002/.000020.png.claim"):
        assert name is not None
        store.create(name, b"png")
    return store


@pytest.fixture
def outcomes() -> list[Outcome]:
    """Return the Outcomes of the planned shard."""
    failed = Outcome(image_key(_SHARD * _SIZE + 2, _SIZE), Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, finished_at=101.0)
    return [saved(0), saved(1), failed]


def snapshot(store: LocalStore) -> dict[str, bytes]:
    """Return all files of a store with their bytes, except temporary files."""
    paths = [path for path in store.root.rglob("*") if path.is_file()]
    return {str(path.relative_to(store.root)): path.read_bytes() for path in paths}


def test_collects_in_plan_order(planned: LocalStore, outcomes: list[Outcome]) -> None:
    """Outcomes may be in any order. The rows are in the plan's order, and each row has its URL."""
    collect(_SHARD, outcomes[::-1], _RUN, planned)
    table = manifest.decode(planned.read("00002.parquet"))
    assert table["key"].to_pylist() == ["000020", "000021", "000022"]
    assert table["url"].to_pylist() == [f"http://a.example/{place}" for place in range(_SIZE)]
    assert json.loads(planned.read("00002_stats.json"))["status_dict"] == {"success": 2, "timeout": 1}


def test_strays_are_removed(planned: LocalStore, outcomes: list[Outcome]) -> None:
    """The shard's files without an Outcome are removed. Files with an Outcome stay."""
    collect(_SHARD, outcomes, _RUN, planned)
    assert sorted(planned.list_files("00002")) == [saved(0).path, saved(1).path]


def test_second_delivery_changes_nothing(planned: LocalStore, outcomes: list[Outcome]) -> None:
    """A redelivered collect task finds the manifest and changes nothing, even if it has other Outcomes."""
    collect(_SHARD, outcomes, _RUN, planned)
    before = snapshot(planned)
    other = [Outcome(outcome.key, Status.FAILED_TO_DOWNLOAD, Reason.DNS) for outcome in outcomes]
    collect(_SHARD, other, _RUN, planned)
    collect(_SHARD, [], _RUN, planned)
    assert snapshot(planned) == before


def test_interrupted_clean_up_is_finished(planned: LocalStore, outcomes: list[Outcome]) -> None:
    """If a collect task died after writing the manifest, the next delivery removes the remaining stray files."""
    collect(_SHARD, outcomes, _RUN, planned)
    planned.create("00002/late.jpg", b"")
    collect(_SHARD, outcomes, _RUN, planned)
    assert not planned.exists("00002/late.jpg")


_WRONG: dict[str, tuple[Callable[[list[Outcome]], Sequence[Outcome]], str]] = {
    "none": (lambda good: [], "3 requests and 0 Outcomes; the first missing one is 000020"),
    "one Outcome missing": (lambda good: good[:1] + good[2:], "the first missing one is 000021"),
    "one duplicate": (lambda good: [*good, good[0]], "3 requests and 4 Outcomes"),
    "one duplicate in place of another": (lambda good: [good[0], good[0], good[2]], "missing one is 000021"),
    "one foreign": (lambda good: [*good, success(0, 5, _SIZE)], "3 requests and 4 Outcomes"),
    "one foreign in place of another": (lambda good: [*good[:2], success(2, 5, _SIZE)], "missing one is 000022"),
}


@pytest.mark.parametrize(("change", "message"), _WRONG.values(), ids=_WRONG)
def test_wrong_outcomes_write_nothing(
    planned: LocalStore, outcomes: list[Outcome], change: Callable[[list[Outcome]], Sequence[Outcome]], message: str
) -> None:
    """Collecting fails unless every request of the plan has exactly one Outcome. Nothing is written or removed."""
    before = snapshot(planned)
    with pytest.raises(IncompleteShardError, match=message):
        collect(_SHARD, change(outcomes), _RUN, planned)
    assert snapshot(planned) == before


def test_missing_file_prevents_the_manifest(planned: LocalStore, outcomes: list[Outcome]) -> None:
    """If a file named by an Outcome is missing, neither stats nor manifest are written."""
    planned.remove("00002/000021.png")
    with pytest.raises(StorageError, match="could not sync"):
        collect(_SHARD, outcomes, _RUN, planned)
    assert not planned.exists("00002.parquet")
    assert not planned.exists("00002_stats.json")


def test_failed_stats_prevent_the_manifest(planned: LocalStore, outcomes: list[Outcome]) -> None:
    """If the stats can't be written, no manifest is written and no file is removed."""
    (planned.root / "00002_stats.json").mkdir()
    with pytest.raises(StorageError, match=r"could not save 00002_stats\.json"):
        collect(_SHARD, outcomes, _RUN, planned)
    assert not planned.exists("00002.parquet")
    assert planned.exists("00002/000022.jpg")


@pytest.mark.parametrize("taken", [False, True], ids=["no manifest", "another copy's manifest"])
def test_stats_are_removed_without_their_manifest(
    planned: LocalStore, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """If the manifest does not fit on the disk, its stats are removed.

    If a duplicate task has written the manifest, the stats stay.
    """
    create = LocalStore.create_durably

    def refuse(self: LocalStore, name: str, body: bytes) -> NoReturn:
        if taken:
            create(self, name, body)
        raise StorageError(f"could not save {name}: No space left on device")

    monkeypatch.setattr(LocalStore, "create_durably", refuse)
    with pytest.raises(StorageError, match="No space left"):
        collect(_SHARD, outcomes, _RUN, planned)
    assert planned.exists("00002_stats.json") is planned.exists("00002.parquet") is taken


def test_stats_of_a_failed_revision_are_removed(
    planned: LocalStore, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a later revision can't replace the manifest, the new stats are removed.

    The new stats would not match the old manifest.
    """
    collect(_SHARD, outcomes, _RUN, planned)
    before = planned.read("00002.parquet")
    replaced = LocalStore.replace

    def refuse(self: LocalStore, name: str, body: bytes, mode: int = 0o600) -> None:
        if name.endswith(".parquet"):
            raise StorageError(f"could not save {name}: No space left on device")
        replaced(self, name, body, mode)

    monkeypatch.setattr(LocalStore, "replace", refuse)
    again = [Outcome(image_key(_SHARD * _SIZE + 2, _SIZE), Status.FAILED_TO_DOWNLOAD, Reason.DNS, finished_at=102.0)]
    with pytest.raises(StorageError, match="No space left"):
        collect(_SHARD, again, replace(_RUN, revision=1), planned, 1)
    assert planned.read("00002.parquet") == before
    assert not planned.exists("00002_stats.json")


def test_images_and_stats_are_durable_before_the_manifest(
    planned: LocalStore, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are synced first, then the stats are written, then the manifest."""
    steps: list[str] = []
    for name in ("sync", "replace", "create_durably", "remove"):

        def step(
            self: LocalStore, *args: object, _real: object = getattr(LocalStore, name), _name: str = name
        ) -> object:
            steps.append(_name)
            assert callable(_real)
            return _real(self, *args)

        monkeypatch.setattr(LocalStore, name, step)
    collect(_SHARD, outcomes, _RUN, planned)
    assert steps == ["sync", "replace", "create_durably", "remove", "remove"]


def test_missing_or_damaged_plan_prevents_collecting(store: LocalStore, outcomes: list[Outcome]) -> None:
    """Without a complete plan, nothing is collected. The error gives the reason."""
    with pytest.raises(StorageError, match=r"could not read \.plan/00002\.parquet: No such file"):
        collect(_SHARD, outcomes, _RUN, store)
    store.create(plan.name(_SHARD), b"broken")
    with pytest.raises(CorruptPlanError):
        collect(_SHARD, outcomes, _RUN, store)
    assert not store.exists("00002.parquet")


def test_shard_without_a_saved_image(tmp_path: Path) -> None:
    """A shard without a saved image has a manifest, but no folder."""
    store = LocalStore(tmp_path)
    store.create_durably(plan.name(0), plan.encode([ImageRequest(0, "a")], ShardRef("", 0)))
    collect(0, [Outcome("00000000", Status.FAILED_TO_DOWNLOAD, Reason.INVALID_URL)], RunOptions("/out", 1000), store)
    assert manifest.decode(store.read("00000.parquet"))["reason"].to_pylist() == ["invalid_url"]
    assert not store.exists("00000")


_LATER = replace(_RUN, revision=1)


@pytest.fixture
def collected(planned: LocalStore) -> LocalStore:
    """Return the store after a first revision, which has one saved image and two failures."""
    timeout, refused = (
        Outcome(image_key(_SHARD * _SIZE + place, _SIZE), reason.status, reason, attempts=attempts, finished_at=101.0)
        for place, reason, attempts in ((1, Reason.TIMEOUT, 3), (2, Reason.HTTP_4XX, 1))
    )
    collect(_SHARD, [saved(0), timeout, refused], _RUN, planned)
    planned.create(str(saved(1).path), b"png")
    return planned


def test_later_revision_replaces_failures(collected: LocalStore) -> None:
    """Retried images get new Outcomes with the attempts of all revisions. The rows of other images stay."""
    before = list(manifest.outcomes(manifest.decode(collected.read("00002.parquet"))))
    collect(_SHARD, [saved(1)], _LATER, collected, count=1)
    rows = list(manifest.outcomes(manifest.decode(collected.read("00002.parquet"), expected=ShardRef("", _SHARD))))
    assert rows == [before[0], replace(saved(1), attempts=4), before[2]]
    assert json.loads(collected.read("00002_stats.json"))["status_dict"] == {"success": 2, "http_4xx": 1}
    assert sorted(collected.list_files("00002")) == [saved(0).path, saved(1).path]
    assert manifest_revision(_SHARD, collected) == 1


def test_redelivered_revision_changes_nothing(collected: LocalStore) -> None:
    """A redelivered collect task of a later revision adds no attempts."""
    collect(_SHARD, [saved(1)], _LATER, collected, count=1)
    before = snapshot(collected)
    collect(_SHARD, [saved(1)], _LATER, collected, count=1)
    assert snapshot(collected) == before


def test_attempts_of_revisions_add_up(collected: LocalStore) -> None:
    """A third revision adds its attempts to the attempts of the first two revisions."""
    again = Outcome(
        image_key(_SHARD * _SIZE + 1, _SIZE), Status.FAILED_TO_DOWNLOAD, Reason.DNS, attempts=2, finished_at=102.0
    )
    collect(_SHARD, [again], _LATER, collected, count=1)
    collected.create(str(saved(1).path), b"png")
    collect(_SHARD, [saved(1)], replace(_RUN, revision=2), collected, count=1)
    table = manifest.decode(collected.read("00002.parquet"))
    assert table["attempts"].to_pylist() == [1, 6, 1]
    assert table["reason"].to_pylist() == [None, None, "http_4xx"]


_WRONG_LATER: dict[str, tuple[list[Outcome], int | None]] = {
    "none": ([], 1),
    "one of two": ([saved(1)], 2),
    "one duplicate": ([saved(1), saved(1)], 2),
    "one too many": ([saved(1), saved(2)], 1),
    "one saved before": ([saved(0)], 1),
    "one foreign": ([success(1, 5, _SIZE)], 1),
    "without a count": ([saved(1)], None),
}


@pytest.mark.parametrize(("outcomes", "count"), _WRONG_LATER.values(), ids=_WRONG_LATER)
def test_wrong_outcomes_of_a_later_revision_write_nothing(
    collected: LocalStore, outcomes: list[Outcome], count: int | None
) -> None:
    """If a later revision gets other Outcomes than it expects, collecting fails, and nothing is written."""
    before = snapshot(collected)
    with pytest.raises(IncompleteShardError, match="to retry"):
        collect(_SHARD, outcomes, _LATER, collected, count)
    assert snapshot(collected) == before


def test_late_collect_task_of_an_earlier_revision_removes_nothing(collected: LocalStore) -> None:
    """A late collect task removes no image of a later revision, whether or not that revision has a manifest."""
    collect(_SHARD, [saved(1)], _LATER, collected, count=1)
    collected.create("00002/000022.png", b"saved by the pass that is under way")
    before = snapshot(collected)
    collect(_SHARD, [saved(0), saved(1), saved(2)], _RUN, collected)
    assert snapshot(collected) == before


def test_manifest_of_another_run_is_not_replaced(collected: LocalStore) -> None:
    """If a later revision finds a manifest of another run, it fails and leaves the manifest unchanged."""
    plan_of = [ImageRequest(_SHARD * _SIZE + place, "a") for place in range(_SIZE)]
    foreign = plan.decode(plan.encode(plan_of, ShardRef("", _SHARD)))
    outcomes = manifest.outcomes(manifest.decode(collected.read("00002.parquet")))
    collected.replace("00002.parquet", manifest.encode(foreign, list(outcomes), ShardRef("another", _SHARD)))
    before = snapshot(collected)
    with pytest.raises(CorruptManifestError, match="run another"):
        collect(_SHARD, [saved(1)], _LATER, collected, count=1)
    assert snapshot(collected) == before


def test_named_files(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with names of their own are synced together with all of their folders.

    Files of failed images are removed.
    """
    paths = ["cats/tom", "cats/old/cleo", "dogs/{sha256}"]
    requests = [ImageRequest(place, "http://a.example/", path=path) for place, path in enumerate(paths)]
    store.create_durably(plan.name(0), plan.encode(requests, ShardRef("", 0)))
    for name in ("cats/tom.png", "cats/tom.jpg", "cats/old/cleo.gif", "cats/other.gif", "dogs/f00.png"):
        store.create(name, b"png")
    synced: list[str] = []
    monkeypatch.setattr(fsync, "sync", lambda path: synced.append(str(path)))
    failed = [
        Outcome(f"00000{place}", Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, finished_at=101.0) for place in (1, 2)
    ]
    collect(0, [success(0, 0, _SIZE, path="cats/tom.png"), *failed], _RUN, store)
    assert {str(store.path(name)) for name in ("", "cats", "cats/tom.png")} <= set(synced)
    left = {
        str(path.relative_to(store.root))
        for path in store.root.rglob("*.*")
        if path.parent.name in ("cats", "dogs", "old")
    }
    assert left == {"cats/tom.png", "cats/tom.jpg", "cats/other.gif", "dogs/f00.png"}


def test_files_of_other_rows_stay(tmp_path: Path) -> None:
    """For a refused row, or a name outside of the folder, no file is removed."""
    store = LocalStore(tmp_path / "out")
    refusal = Refusal(Reason.DUPLICATE, "the same URL as 000000")
    requests = [
        ImageRequest(3, "", path="cat", refused=refusal),
        ImageRequest(4, "http://a.example/", path="../victim"),
    ]
    store.create_durably(plan.name(1), plan.encode(requests, ShardRef("", 1)))
    store.create("cat.jpg", b"listed by shard 0")
    (tmp_path / "victim.jpg").write_bytes(b"mine")
    failed = [Outcome(image_key(3, _SIZE), Reason.DUPLICATE.status, Reason.DUPLICATE)]
    failed += [Outcome(image_key(4, _SIZE), Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT)]
    collect(1, failed, _RUN, store)
    assert store.exists("cat.jpg")
    assert (tmp_path / "victim.jpg").exists()


@pytest.fixture
def failed_cat(store: LocalStore) -> LocalStore:
    """Return a store with the plan of a shard of one named image, and a file with that name."""
    store.create_durably(plan.name(0), plan.encode([ImageRequest(0, "a", path="cat")], ShardRef("", 0)))
    store.create("cat.jpg", b"left")
    return store


_FAILED_CAT = [Outcome("000000", Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT)]


def test_images_of_a_retry_stay(failed_cat: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image saved after the manifest may belong to a retry, so neither this task nor a duplicate task removes it."""
    create = LocalStore.create_durably

    def create_and_retry(self: LocalStore, name: str, body: bytes) -> bool:
        created = create(self, name, body)
        self.create("cat.png", b"saved by a retry")
        return created

    monkeypatch.setattr(LocalStore, "create_durably", create_and_retry)
    for _ in range(2):
        collect(0, _FAILED_CAT, _RUN, failed_cat)
        assert failed_cat.exists("cat.png")
        assert not failed_cat.exists("cat.jpg")


@pytest.mark.parametrize("method", ["exists", "remove"])
def test_named_files_that_stay_are_only_reported(
    failed_cat: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """If a failed image's file can't be found or removed, the shard is still done, and the worker logs a warning."""
    real = getattr(LocalStore, method)

    def fail(self: LocalStore, name: str) -> object:
        if name == "cat.jpg":
            raise StorageError("disconnected")
        return real(self, name)

    monkeypatch.setattr(LocalStore, method, fail)
    collect(0, _FAILED_CAT, _RUN, failed_cat)
    assert manifest_revision(0, failed_cat) == 0
    assert "disconnected" in caplog.text
