"""Resuming or retrying a run checks all of its files before it changes anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.output.run_file import PlanState, RunFile, State
from producer.output.shard_files import load_manifest
from producer.runs.run import Run
from tasks.errors import CommandError, StorageError, UsageError
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tests.runs import RUN_ID, make_run

_ROWS, _SHARDS = 11, 4


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return the folder of a complete run with only failed images."""
    (tmp_path / "my out").mkdir()
    store = LocalStore(tmp_path / "my out")
    make_run(tmp_path / "list.txt", store, _ROWS, _SHARDS, State.COMPLETE, PlanState.COMPLETE)
    return store


def flip(store: LocalStore, name: str, place: int = 700) -> None:
    """Change a byte of a file."""
    body = bytearray(store.read(name))
    body[place] ^= 1
    store.path(name).write_bytes(body)


@pytest.mark.parametrize("shard", [0, 3])
@pytest.mark.parametrize("place", [700, 1500, -300])
def test_reports_a_changed_byte_of_a_manifest(store: LocalStore, shard: int, place: int) -> None:
    """A changed manifest is reported by its path, and the run's record is unchanged."""
    flip(store, manifest.name(shard), place)
    record = store.read("run.json")
    for reasons in (None, ["timeout"], ["dns"]):
        with pytest.raises(CommandError, match="nothing was changed") as caught:
            Run.resume(store) if reasons is None else Run.retry(store, reasons)
        assert caught.value.what == f"{store.path(manifest.name(shard))} is unusable"
        assert f"remove the file and run `producer resume '{store.root}'` to repeat that shard" in caught.value.hint
    assert store.read("run.json") == record


def test_retry_checks_the_plan_first(store: LocalStore) -> None:
    """If a shard to retry has a damaged plan file, the file is reported before the record changes."""
    flip(store, plan.name(2))
    record = store.read("run.json")
    with pytest.raises(CommandError, match="is unusable"):
        Run.retry(store, ["timeout"])
    assert Run.retry(store, ["dns"]).is_done
    assert store.read("run.json") == record


def test_retry_that_sends_nothing_changes_nothing(store: LocalStore) -> None:
    """If a retry gets no fleet, the record is unchanged. An interrupted retry can be resumed."""
    record = store.read("run.json")
    with pytest.raises(KeyError), Run.retry(store, ["timeout"]):
        raise KeyError
    assert store.read("run.json") == record
    with pytest.raises(KeyboardInterrupt), Run.retry(store, ["timeout"]):
        raise KeyboardInterrupt
    found = RunFile.load(store)
    assert (found.state, found.revision) == (State.INTERRUPTED, 1)


def test_manifest_that_cannot_be_read_is_not_damaged(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store refuses to read a manifest, the hint does not advise to remove the manifest."""

    def read(name: str) -> bytes:
        raise StorageError(f"could not read {name}: Permission denied")

    monkeypatch.setattr(store, "read", read)
    with pytest.raises(CommandError, match=r"00001\.parquet can't be read: could not read 00001\.parquet") as caught:
        load_manifest(1, store, RUN_ID, None)
    assert "remove" not in caught.value.hint


def test_missing_manifest(store: LocalStore) -> None:
    """For a missing manifest, the hint is a valid command, and does not advise to remove the manifest."""
    store.remove(manifest.name(1))
    with pytest.raises(CommandError, match=r"00001\.parquet is missing") as caught:
        Run.retry(store, ["timeout"])
    assert caught.value.hint.startswith(
        f"Restore a good copy. Or run `producer resume '{store.root}'` to repeat that shard"
    )


def test_refuses_to_retry_an_unfinished_run(store: LocalStore) -> None:
    """Retrying an unfinished run is a usage error. The hint has the command to finish the run, quoted for the shell."""
    RunFile.load(store).save(store, state=State.INTERRUPTED)
    with pytest.raises(UsageError, match="is not complete") as caught:
        Run.retry(store, ["timeout"])
    assert caught.value.hint == f"Run `producer resume '{store.root}'` to complete it."
