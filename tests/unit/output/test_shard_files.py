"""Files of many shards are read in order, several at a time from an object store."""

from __future__ import annotations

import threading

import pytest

from config.locations import StoreUrl
from producer.output import shard_files
from producer.output.shard_files import each_shard
from tasks.errors import CommandError
from tasks.storage.local_store import LocalStore
from tasks.storage.object_store import ObjectStore
from tests.conftest import required_module


def test_reads_local_shards_one_by_one(store: LocalStore) -> None:
    """Local files are read one by one as they are used, in the caller's thread."""
    read = each_shard(lambda shard: (shard, threading.get_ident()), iter(range(3)), store)
    assert list(read) == [(shard, threading.get_ident()) for shard in range(3)]


def test_reads_objects_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several objects are read at a time, and the results are in order. An error reaches the caller."""
    required_module("obstore")
    monkeypatch.setattr(shard_files, "_PARALLEL_READS", 4)
    store = ObjectStore(StoreUrl.parse("s3://bucket"))
    together = threading.Barrier(4, timeout=5)
    assert list(each_shard(lambda shard: (together.wait() >= 0, shard)[1], range(8), store)) == list(range(8))

    def fail(shard: int) -> None:
        raise CommandError(f"shard {shard}", "", "")

    with pytest.raises(CommandError, match="shard 0"):
        list(each_shard(fail, range(8), store))
