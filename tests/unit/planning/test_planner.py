"""The planner splits requests into shards on the disk, ahead of the dispatcher."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from producer.planning.planner import Planner, PlanProgress
from tasks.errors import StorageError, UsageError
from tasks.model import ImageRequest
from tasks.storage import plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.waiting import PATIENCE, wait_for

Reports = list[tuple[int, int]]


def requests(count: int) -> Iterator[ImageRequest]:
    """Return this many requests."""
    return (ImageRequest(index, f"http://a.example/{index}") for index in range(count))


def planned(source: Iterator[ImageRequest], store: LocalStore, shard_size: int) -> tuple[Planner, Reports]:
    """Return a planner that has finished, and the numbers that it reported."""
    reported: Reports = []
    planner = Planner(source, store, shard_size, lambda rows, shards: reported.append((rows, shards)))
    planner.start()
    wait_for(lambda: planner.closed)
    return planner, reported


@pytest.mark.parametrize(
    ("count", "shard_size", "sizes"), [(1, 3, [1]), (3, 3, [3]), (4, 3, [3, 1]), (7, 3, [3, 3, 1]), (2, 1, [1, 1])]
)
def test_splits_requests_into_shards(store: LocalStore, count: int, shard_size: int, sizes: list[int]) -> None:
    """Every shard except the last is full. Together, the shards hold the URL list in its order."""
    planner, reported = planned(requests(count), store, shard_size)
    shards = [plan.requests(plan.decode(store.read(plan.name(shard)))) for shard in range(len(sizes))]
    assert [len(shard) for shard in shards] == sizes
    assert [request for shard in shards for request in shard] == list(requests(count))
    assert (planner.rows, planner.shards, planner.error, planner.was_stopped) == (count, len(sizes), None, False)
    assert reported == [(count, len(sizes))]
    assert not store.exists(plan.name(len(sizes)))


def test_plan_runs_ahead(store: LocalStore) -> None:
    """Shards are on the disk while the URL list is still being read."""
    more = threading.Event()

    def slow() -> Iterator[ImageRequest]:
        yield from requests(4)
        more.wait(PATIENCE)
        yield ImageRequest(4, "http://a.example/4")

    planner = Planner(slow(), store, 2, lambda rows, shards: None)
    planner.start()
    planner.wait(1, PATIENCE)
    assert (planner.shards, planner.rows, planner.closed) == (2, 4, False)
    assert store.exists(plan.name(1))
    assert not store.exists(plan.name(2))
    more.set()
    planner.wait(3, PATIENCE)
    assert (planner.shards, planner.rows, planner.closed) == (3, 5, True)


def test_wait_times_out(store: LocalStore) -> None:
    """The wait for a missing shard ends after the given number of seconds."""
    planner = Planner(requests(0), store, 2, lambda rows, shards: None)
    planner.wait(0, 0.001)
    assert (planner.shards, planner.closed) == (0, False)


def test_stop_plans_no_further(store: LocalStore) -> None:
    """After a stop, no shard is written, and the plan is incomplete."""
    reported: Reports = []
    planner = Planner(requests(10), store, 2, lambda rows, shards: reported.append((rows, shards)))
    planner.stop()
    planner.start()
    wait_for(lambda: planner.closed)
    assert (planner.shards, reported, store.list_files(plan.FOLDER)) == (0, [], [])
    assert planner.was_stopped


def broken() -> Iterator[ImageRequest]:
    """Return a URL list that fails before its end."""
    yield from requests(3)
    raise UsageError("The list can't be read", "it is gone", "Give another.")


def test_source_that_fails(store: LocalStore) -> None:
    """An error of the URL list is passed to the waiting thread.

    Shards that were complete before the error stay, and the plan is incomplete.
    """
    planner, reported = planned(broken(), store, 2)
    assert isinstance(planner.error, UsageError)
    assert (planner.shards, reported) == (1, [])
    assert store.list_files(plan.FOLDER) == [plan.name(0)]


def test_disk_error(tmp_path: Path) -> None:
    """If a plan can't be written, the waiting thread gets the error."""
    (tmp_path / "file").write_bytes(b"")
    planner, reported = planned(requests(3), LocalStore(tmp_path / "file"), 2)
    assert isinstance(planner.error, StorageError)
    assert reported == []


def test_failing_callback(store: LocalStore) -> None:
    """If the callback that the planner calls at its end fails, the waiting thread gets the error."""

    def fail(*_: int) -> None:
        raise StorageError("could not save run.json")

    listener: Callable[[int, int], None] = fail
    planner = Planner(requests(1), store, 2, listener)
    planner.start()
    wait_for(lambda: planner.closed)
    assert isinstance(planner.error, StorageError)


def test_continues_an_earlier_plan(store: LocalStore) -> None:
    """An earlier command's plan is kept and counted. The plan is continued with the unplanned rows of the URL list."""
    planned(requests(4), store, 2)
    before = [store.read(plan.name(shard)) for shard in (0, 1)]
    reported: Reports = []
    rest = (request for request in requests(7) if request.index >= 4)
    planner = Planner(rest, store, 2, lambda rows, shards: reported.append((rows, shards)), planned=PlanProgress(4, 2))
    assert (planner.rows, planner.shards) == (4, 2)
    planner.start()
    wait_for(lambda: planner.closed)
    assert (planner.rows, planner.shards, reported) == (7, 4, [(7, 4)])
    assert [store.read(plan.name(shard)) for shard in (0, 1)] == before
    again = [plan.requests(plan.decode(store.read(plan.name(shard)), ShardRef("", shard))) for shard in range(4)]
    assert [request for shard in again for request in shard] == list(requests(7))


def test_reports_a_complete_plan_at_once(store: LocalStore) -> None:
    """If nothing remains to be planned, the existing plan is reported as complete."""
    reported: Reports = []
    planner = Planner(
        iter(()), store, 2, lambda rows, shards: reported.append((rows, shards)), planned=PlanProgress(3, 2)
    )
    planner.start()
    wait_for(lambda: planner.closed)
    assert reported == [(3, 2)]
    assert store.list_files(plan.FOLDER) == []
