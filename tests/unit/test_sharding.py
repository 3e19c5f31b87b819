"""The planner cuts requests into shards on the disk, ahead of whoever sends them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from producer.sharding import Planned, Planner
from tasks import plan
from tasks.errors import StorageFailed, UsageFault
from tasks.model import ImageRequest
from tasks.shardfile import Mark
from tasks.storage import Store
from tests.conditions import PATIENCE, wait_for

Told = list[tuple[int, int]]


def requests(count: int) -> Iterator[ImageRequest]:
    """So many requests."""
    return (ImageRequest(index, f"http://a.example/{index}") for index in range(count))


def planned(source: Iterator[ImageRequest], store: Store, shard_size: int) -> tuple[Planner, Told]:
    """A planner that has come to its end, and what it told then."""
    told: Told = []
    planner = Planner(source, store, shard_size, lambda rows, shards: told.append((rows, shards)))
    planner.start()
    wait_for(lambda: planner.closed)
    return planner, told


@pytest.mark.parametrize(
    ("count", "shard_size", "sizes"), [(1, 3, [1]), (3, 3, [3]), (4, 3, [3, 1]), (7, 3, [3, 3, 1]), (2, 1, [1, 1])]
)
def test_requests_are_cut_into_shards(store: Store, count: int, shard_size: int, sizes: list[int]) -> None:
    """Every shard but the last is full, and together they are the Source in its order."""
    planner, told = planned(requests(count), store, shard_size)
    shards = [plan.requests(plan.decode(store.read(plan.name(shard)))) for shard in range(len(sizes))]
    assert [len(shard) for shard in shards] == sizes
    assert [request for shard in shards for request in shard] == list(requests(count))
    assert (planner.rows, planner.shards, planner.error, planner.cut) == (count, len(sizes), None, False)
    assert told == [(count, len(sizes))]
    assert not store.exists(plan.name(len(sizes)))


def test_plan_runs_ahead(store: Store) -> None:
    """Shards are on the disk while the Source is still being read."""
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


def test_wait_ends_with_its_time(store: Store) -> None:
    """Whoever waits for a shard that does not come is let go after the seconds given."""
    planner = Planner(requests(0), store, 2, lambda rows, shards: None)
    planner.wait(0, 0.001)
    assert (planner.shards, planner.closed) == (0, False)


def test_stop_plans_no_further(store: Store) -> None:
    """After a stop no shard is written, and the plan is not called complete."""
    told: Told = []
    planner = Planner(requests(10), store, 2, lambda rows, shards: told.append((rows, shards)))
    planner.stop()
    planner.start()
    wait_for(lambda: planner.closed)
    assert (planner.shards, told, store.names(plan.FOLDER)) == (0, [], [])
    assert planner.cut


def broken() -> Iterator[ImageRequest]:
    """A Source that can't be read to its end."""
    yield from requests(3)
    raise UsageFault("The list can't be read", "it is gone", "Give another.")


def test_source_that_breaks_off(store: Store) -> None:
    """An error of the Source is kept for who waits; whole shards before it stand, and the plan is not complete."""
    planner, told = planned(broken(), store, 2)
    assert isinstance(planner.error, UsageFault)
    assert (planner.shards, told) == (1, [])
    assert store.names(plan.FOLDER) == [plan.name(0)]


def test_disk_that_fails(tmp_path: Path) -> None:
    """A plan that can't be written is an error for who waits."""
    (tmp_path / "file").write_bytes(b"")
    planner, told = planned(requests(3), Store(tmp_path / "file"), 2)
    assert isinstance(planner.error, StorageFailed)
    assert told == []


def test_nobody_to_tell(store: Store) -> None:
    """An error of whoever is told of the end is an error for who waits."""

    def fail(*_: int) -> None:
        raise StorageFailed("could not save run.json")

    listener: Callable[[int, int], None] = fail
    planner = Planner(requests(1), store, 2, listener)
    planner.start()
    wait_for(lambda: planner.closed)
    assert isinstance(planner.error, StorageFailed)


def test_plan_goes_on_where_it_was(store: Store) -> None:
    """What an earlier command has planned counts, stays as it is, and is followed by the rest of the Source."""
    planned(requests(4), store, 2)
    before = [store.read(plan.name(shard)) for shard in (0, 1)]
    told: Told = []
    rest = (request for request in requests(7) if request.index >= 4)
    planner = Planner(rest, store, 2, lambda rows, shards: told.append((rows, shards)), planned=Planned(4, 2))
    assert (planner.rows, planner.shards) == (4, 2)
    planner.start()
    wait_for(lambda: planner.closed)
    assert (planner.rows, planner.shards, told) == (7, 4, [(7, 4)])
    assert [store.read(plan.name(shard)) for shard in (0, 1)] == before
    again = [plan.requests(plan.decode(store.read(plan.name(shard)), Mark("", shard))) for shard in range(4)]
    assert [request for shard in again for request in shard] == list(requests(7))


def test_plan_that_is_whole_is_told_at_once(store: Store) -> None:
    """Where nothing is left to plan, what is planned is the plan."""
    told: Told = []
    planner = Planner(iter(()), store, 2, lambda rows, shards: told.append((rows, shards)), planned=Planned(3, 2))
    planner.start()
    wait_for(lambda: planner.closed)
    assert told == [(3, 2)]
    assert store.names(plan.FOLDER) == []
