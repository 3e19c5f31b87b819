"""Files of a store are used in order: one by one in a folder, several at a time in an object store."""

from __future__ import annotations

import threading

import pytest

from config.locations import StoreUrl
from tasks.errors import CommandError
from tasks.storage import parallel
from tasks.storage.local_store import LocalStore
from tasks.storage.object_store import ObjectStore
from tasks.storage.parallel import parallel_map
from tests.conftest import required_module


def test_local_files_are_used_one_by_one(store: LocalStore) -> None:
    """Local files are used one by one as they are needed, in the caller's thread."""
    read = parallel_map(lambda shard: (shard, threading.get_ident()), iter(range(3)), store)
    assert list(read) == [(shard, threading.get_ident()) for shard in range(3)]


def test_objects_are_used_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several objects are used at a time, and the results are in order. An error reaches the caller."""
    required_module("obstore")
    monkeypatch.setattr(parallel, "_PARALLEL_REQUESTS", 4)
    store = ObjectStore(StoreUrl.parse("s3://bucket"))
    together = threading.Barrier(4, timeout=5)
    assert list(parallel_map(lambda shard: (together.wait() >= 0, shard)[1], range(8), store)) == list(range(8))

    def fail(shard: int) -> None:
        raise CommandError(f"shard {shard}", "", "")

    with pytest.raises(CommandError, match="shard 0"):
        list(parallel_map(fail, range(8), store))
