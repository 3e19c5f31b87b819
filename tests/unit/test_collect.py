"""A manifest is written once, last, and only from the Outcomes of its plan, one for one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tasks import manifest, plan
from tasks.collect import Incomplete, collect
from tasks.errors import StorageFailed
from tasks.model import ImageRequest, Outcome, Reason, RunOptions, Status, key_of
from tasks.plan import BadPlan
from tasks.shardfile import Mark
from tasks.storage import Store
from tests.unit.conftest import success

_SHARD, _SIZE = 2, 3
_RUN = RunOptions("/out", _SIZE)


def saved(place: int) -> Outcome:
    """The Outcome of a saved image of the shard."""
    return success(place, _SHARD, _SIZE)


@pytest.fixture
def planned(store: Store) -> Store:
    """A Store with the plan of a shard, the files of its first two images, and a stray."""
    requests = [ImageRequest(_SHARD * _SIZE + place, f"http://a.example/{place}") for place in range(_SIZE)]
    store.create_durably(plan.name(_SHARD), plan.encode(requests, Mark("", _SHARD)))
    for name in (saved(0).path, saved(1).path, "00002/000022.jpg", "00002/.000020.png.claim"):
        assert name is not None
        store.create(name, b"png")
    return store


@pytest.fixture
def outcomes() -> list[Outcome]:
    """The Outcomes of that shard."""
    failed = Outcome(key_of(_SHARD, 2, _SIZE), Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, finished_at=101.0)
    return [saved(0), saved(1), failed]


def standing(store: Store) -> dict[str, bytes]:
    """All files of a Store but its temporary ones, with their bytes."""
    paths = [path for path in store.root.rglob("*") if path.is_file()]
    return {str(path.relative_to(store.root)): path.read_bytes() for path in paths}


def test_collected_in_order(planned: Store, outcomes: list[Outcome]) -> None:
    """Outcomes in any order become rows in the plan's order, joined with their URLs."""
    collect(_SHARD, outcomes[::-1], _RUN, planned)
    table = manifest.decode(planned.read("00002.parquet"))
    assert table["key"].to_pylist() == ["000020", "000021", "000022"]
    assert table["url"].to_pylist() == [f"http://a.example/{place}" for place in range(_SIZE)]
    assert json.loads(planned.read("00002_stats.json"))["status_dict"] == {"success": 2, "timeout": 1}


def test_strays_are_removed(planned: Store, outcomes: list[Outcome]) -> None:
    """Files of the shard that no Outcome names are gone afterwards; those that one names stay."""
    collect(_SHARD, outcomes, _RUN, planned)
    assert sorted(planned.names("00002")) == [saved(0).path, saved(1).path]


def test_second_time_changes_nothing(planned: Store, outcomes: list[Outcome]) -> None:
    """A body that is delivered again, also with other Outcomes, finds the manifest and leaves all as it is."""
    collect(_SHARD, outcomes, _RUN, planned)
    before = standing(planned)
    other = [Outcome(outcome.key, Status.FAILED_TO_DOWNLOAD, Reason.DNS) for outcome in outcomes]
    collect(_SHARD, other, _RUN, planned)
    collect(_SHARD, [], _RUN, planned)
    assert standing(planned) == before


def test_interrupted_clean_up_is_finished(planned: Store, outcomes: list[Outcome]) -> None:
    """Strays that were left when a collector died after its manifest go with the next delivery."""
    collect(_SHARD, outcomes, _RUN, planned)
    planned.create("00002/late.jpg", b"")
    collect(_SHARD, outcomes, _RUN, planned)
    assert not planned.exists("00002/late.jpg")


_WRONG: dict[str, tuple[Callable[[list[Outcome]], Sequence[Outcome]], str]] = {
    "none": (lambda good: [], "3 requests and 0 Outcomes; the first that is missing is 000020"),
    "one missing": (lambda good: good[:1] + good[2:], "the first that is missing is 000021"),
    "one doubled": (lambda good: [*good, good[0]], "3 requests and 4 Outcomes"),
    "one doubled in place of another": (lambda good: [good[0], good[0], good[2]], "missing is 000021"),
    "one foreign": (lambda good: [*good, success(0, 5, _SIZE)], "3 requests and 4 Outcomes"),
    "one foreign in place of another": (lambda good: [*good[:2], success(2, 5, _SIZE)], "missing is 000022"),
}


@pytest.mark.parametrize(("change", "message"), _WRONG.values(), ids=_WRONG)
def test_wrong_outcomes_write_nothing(
    planned: Store, outcomes: list[Outcome], change: Callable[[list[Outcome]], Sequence[Outcome]], message: str
) -> None:
    """Outcomes that are not those of the plan, one for one, are told, and nothing is written or removed."""
    before = standing(planned)
    with pytest.raises(Incomplete, match=message):
        collect(_SHARD, change(outcomes), _RUN, planned)
    assert standing(planned) == before


def test_manifest_comes_last_after_the_files(planned: Store, outcomes: list[Outcome]) -> None:
    """Where a file that an Outcome names is missing, neither stats nor manifest are written."""
    planned.remove("00002/000021.png")
    with pytest.raises(StorageFailed, match="could not sync"):
        collect(_SHARD, outcomes, _RUN, planned)
    assert not planned.exists("00002.parquet")
    assert not planned.exists("00002_stats.json")


def test_manifest_comes_last_after_the_stats(planned: Store, outcomes: list[Outcome]) -> None:
    """Where the stats can't be written, there is no manifest, and no stray is removed."""
    (planned.root / "00002_stats.json").mkdir()
    with pytest.raises(StorageFailed, match=r"could not save 00002_stats\.json"):
        collect(_SHARD, outcomes, _RUN, planned)
    assert not planned.exists("00002.parquet")
    assert planned.exists("00002/000022.jpg")


def test_all_is_durable_before_the_manifest(
    planned: Store, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files' sync comes first, the stats second, and the manifest third."""
    steps: list[str] = []
    for name in ("sync", "replace", "create_durably", "remove"):

        def step(self: Store, *args: object, _real: object = getattr(Store, name), _name: str = name) -> object:
            steps.append(_name)
            assert callable(_real)
            return _real(self, *args)

        monkeypatch.setattr(Store, name, step)
    collect(_SHARD, outcomes, _RUN, planned)
    assert steps == ["sync", "replace", "create_durably", "remove", "remove"]


def test_plan_that_is_missing_or_broken(store: Store, outcomes: list[Outcome]) -> None:
    """Without a whole plan nothing is collected, and the error says why."""
    with pytest.raises(StorageFailed, match=r"could not read \.plan/00002\.parquet: No such file"):
        collect(_SHARD, outcomes, _RUN, store)
    store.create(plan.name(_SHARD), b"broken")
    with pytest.raises(BadPlan):
        collect(_SHARD, outcomes, _RUN, store)
    assert not store.exists("00002.parquet")


def test_shard_without_a_saved_image(tmp_path: Path) -> None:
    """A shard of which nothing was saved has no folder, and a manifest all the same."""
    store = Store(tmp_path)
    store.create_durably(plan.name(0), plan.encode([ImageRequest(0, "a")], Mark("", 0)))
    collect(0, [Outcome("00000000", Status.FAILED_TO_DOWNLOAD, Reason.INVALID_URL)], RunOptions("/out", 1000), store)
    assert manifest.decode(store.read("00000.parquet"))["reason"].to_pylist() == ["invalid_url"]
    assert not store.exists("00000")
