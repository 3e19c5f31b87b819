"""What goes on with a run looks at all that it acts upon before it changes anything."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from producer import dispatch
from producer.run import Run
from producer.runfile import PlanState, RunFile, State
from tasks import manifest, plan
from tasks.errors import Fault, UsageFault
from tasks.storage import Store
from tests.runs import left

_ROWS, _SHARDS = 11, 4


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The folder of a complete run whose images have all failed."""
    (tmp_path / "my out").mkdir()
    store = Store(tmp_path / "my out")
    left(tmp_path / "list.txt", store, _ROWS, _SHARDS, State.COMPLETE, PlanState.COMPLETE)
    return store


def flip(store: Store, name: str, place: int = 700) -> None:
    """Change a byte of a file."""
    body = bytearray(store.read(name))
    body[place] ^= 1
    store.path(name).write_bytes(body)


@pytest.mark.parametrize("shard", [0, 3])
@pytest.mark.parametrize("place", [700, 1500, -300])
def test_flipped_byte_of_a_manifest_is_told(store: Store, shard: int, place: int) -> None:
    """A manifest with another byte is named by whatever goes on, and the run's record stays to the letter."""
    flip(store, manifest.name(shard), place)
    record = store.read("run.json")
    for reasons in (None, ["timeout"], ["dns"]):
        with pytest.raises(Fault, match="nothing was changed") as caught:
            Run.resume(store) if reasons is None else Run.retry(store, reasons)
        assert caught.value.what == f"{store.path(manifest.name(shard))} can't be trusted"
        assert f"remove it, and `producer resume '{store.root}'` does that shard again" in caught.value.todo
    assert store.read("run.json") == record


def test_retry_looks_at_the_plan_first(store: Store) -> None:
    """A damaged file of the plan of what is tried again is told before the record is touched."""
    flip(store, plan.name(2))
    record = store.read("run.json")
    with pytest.raises(Fault, match="can't be trusted"):
        Run.retry(store, ["timeout"])
    assert Run.retry(store, ["dns"]).is_done
    assert store.read("run.json") == record


def test_retry_that_sends_nothing_changes_nothing(store: Store) -> None:
    """A pass whose fleet can't be had leaves the record as it was; one that was interrupted can be gone on with."""
    record = store.read("run.json")
    with pytest.raises(KeyError), Run.retry(store, ["timeout"]):
        raise KeyError
    assert store.read("run.json") == record
    with pytest.raises(KeyboardInterrupt), Run.retry(store, ["timeout"]):
        raise KeyboardInterrupt
    found = RunFile.load(store)
    assert (found.state, found.revision) == (State.INTERRUPTED, 1)


def test_manifest_that_is_gone(store: Store) -> None:
    """What to do about a manifest that is gone is not to remove it, and is a command that can be called."""
    store.remove(manifest.name(1))
    with pytest.raises(Fault, match=r"00001\.parquet is gone") as caught:
        Run.retry(store, ["timeout"])
    assert caught.value.todo.startswith(
        f"Put a copy of it back that is whole; or `producer resume '{store.root}'` does that shard again"
    )


def test_unfinished_run_is_not_tried_again(store: Store) -> None:
    """To retry a run that is not finished is wrong usage, and how to finish it is said as a shell takes it."""
    RunFile.load(store).save(store, state=State.INTERRUPTED)
    with pytest.raises(UsageFault, match="is not finished") as caught:
        Run.retry(store, ["timeout"])
    assert caught.value.todo == f"Finish it by `producer resume '{store.root}'`."


@pytest.mark.parametrize(("local", "said"), [(True, "is starting them again"), (False, "celery -A tasks worker")])
def test_no_worker_responds(monkeypatch: pytest.MonkeyPatch, local: bool, said: str) -> None:
    """Who waits for a local fleet is not told to start workers."""
    monkeypatch.setattr(dispatch, "online_workers", list)
    monkeypatch.setattr("tasks.presence.signs_of_life", lambda _: {})
    note = dispatch._asked(local, 3, Mock())
    assert note.startswith("waiting for 3 images; no worker responds")
    assert said in note
    assert ("celery" in note) is not local


@pytest.mark.parametrize(
    ("images", "slots", "dead", "note"),
    [
        (2, [32, 32], 0, "waiting for 2 images; 2 workers respond"),
        (1, [32], 0, "waiting for 1 image; 1 worker responds"),
        (2, [32], 1, "waiting for 2 images; 1 worker responds; 1 worker has died, and its tasks are handed to others"),
    ],
)
def test_dead_worker_is_told_only_where_one_died(
    monkeypatch: pytest.MonkeyPatch, images: int, slots: list[int], dead: int, note: str
) -> None:
    """A run that waits says for how many images, and how many workers respond."""
    monkeypatch.setattr(dispatch, "online_workers", lambda: slots)
    lives = {**{f"alive-{number}": True for number in range(2)}, **{f"dead-{number}": False for number in range(dead)}}
    monkeypatch.setattr("tasks.presence.signs_of_life", lambda _: lives)
    within = " within 20 s" if dead else ""
    assert dispatch._asked(False, images, Mock()) == note + within
