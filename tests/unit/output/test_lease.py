"""The lock of an output folder in an object store, between real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import time

import pytest

from config.locations import StoreUrl
from producer.output import lease, lock
from tasks.errors import CommandError, StorageError, UsageError
from tasks.storage.object_store import ObjectStore
from tests.object_server import ObjectServer
from tests.unit.output.holders import running_holder
from tests.waiting import wait_for

URL = "s3://bucket/run"
_HOLDER = f"""
import sys
from config.locations import StoreUrl
from producer.output import lease
from tasks.storage.object_store import ObjectStore
lease._RENEWAL_SECONDS = 0.05
with lease.hold(ObjectStore(StoreUrl.parse("{URL}")), "redis://me:word@there:6379/0", "run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def server(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """Return an S3 server, and speed up the leases."""
    for name, seconds in (("_RENEWAL_SECONDS", 0.05), ("_LIFETIME_SECONDS", 0.3), ("_WATCH_INTERVAL_SECONDS", 0.02)):
        monkeypatch.setattr(lease, name, seconds)
    return object_server


@pytest.fixture
def store(server: ObjectServer) -> ObjectStore:
    """Return the store with the lock."""
    return ObjectStore(StoreUrl.parse(URL))


def lock_content(server: ObjectServer) -> bytes:
    """Return the content of the lock."""
    return server.buckets["bucket"]["run/.lock"]


def test_second_producer_is_refused_while_the_first_lives(server: ObjectServer, store: ObjectStore) -> None:
    """The error names the first producer and a remedy, and neither the error nor the lock has a secret."""
    with running_holder(_HOLDER) as first:
        with pytest.raises(UsageError) as caught, lock.hold(store, None):
            pytest.fail("two hold it")
        assert caught.value.what == f"Another producer works on {URL}"
        assert f"process {first.pid} on {socket.gethostname()}, since" in caught.value.why
        assert f"producer cancel {URL}" in caught.value.hint
        with pytest.raises(UsageError):
            lock.check_unlocked(store)
        holder = lock.current_holder(store)
        assert holder is not None
        assert (holder.pid, holder.command, holder.broker) == (first.pid, "run", "redis://***@there:6379/0")
        assert b"word" not in lock_content(server)


def test_lock_of_a_killed_producer_is_free(server: ObjectServer, store: ObjectStore) -> None:
    """After SIGKILL, another producer on the same host takes over the lock at once, and knows the dead holder."""
    with running_holder(_HOLDER) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert lock.current_holder(store) is None
    dead = lock.dead_holder(store)
    assert dead is not None
    assert dead.pid == first.pid
    with lock.hold(store, None):
        assert json.loads(lock_content(server))["pid"] == os.getpid()
    assert lock_content(server) == b""
    assert lock.dead_holder(store) is None


def test_lock_of_a_dead_host_is_taken_over(server: ObjectServer, store: ObjectStore) -> None:
    """A lock is taken over if nobody renews it during its lifetime, whichever host its holder was on."""
    server.buckets["bucket"]["run/.lock"] = b'{"host": "gone", "pid": 1, "since": 0, "command": "run", "broker": null}'
    with lock.hold(store, None):
        lock.check_held(store)
        assert json.loads(lock_content(server))["pid"] == os.getpid()


def test_paused_producer_loses_its_lock(server: ObjectServer, store: ObjectStore) -> None:
    """If another producer takes over the lock, the store refuses the first producer's writes. The first run ends."""
    with lock.hold(store, None):
        store.replace("run.json", b"1")
        server.buckets["bucket"]["run/.lock"] = (
            b'{"host": "other", "pid": 7, "since": 0, "command": "resume", "broker": null, "token": "t"}'
        )
        wait_for(lambda: lease.successor(store) is not None)
        with pytest.raises(StorageError, match="another producer has taken over the run: process 7 on other"):
            store.replace("run.json", b"2")
        with pytest.raises(CommandError, match="Another producer has taken over the run"):
            lock.check_held(store)
    assert b'"pid": 7' in lock_content(server)
    assert store.read("run.json") == b"1"


def test_lost_responses_do_not_lose_the_lock(server: ObjectServer, store: ObjectStore) -> None:
    """If the response to a write of the lock is lost, the holder recognises the lock as its own."""
    number = iter(range(1_000_000))

    def fault(method: str, path: str) -> str | None:
        return "lost" if method == "PUT" and path.endswith(".lock") and next(number) % 3 else None

    server.fault = fault
    with lock.hold(store, None):
        renewed = lock_content(server)
        wait_for(lambda: lock_content(server) != renewed)
        lock.check_held(store)
        store.replace("run.json", b"1")
        assert store.read("run.json") == b"1"
        assert not lock.is_lost(store)


def test_outage_delays_a_write(server: ObjectServer, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an outage outlasts the lock's lifetime, the lock is renewed before the next write."""
    with lock.hold(store, None):
        monkeypatch.setattr(lease, "_LIFETIME_SECONDS", 0.0)
        before = lock_content(server)
        store.replace("run.json", b"1")
        assert lock_content(server) != before


def test_suspended_host_loses_its_lock(
    server: ObjectServer, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its host was suspended, a producer renews its lock before the next write, and notices a lost lock."""
    monkeypatch.setattr(lease, "_RENEWAL_SECONDS", 60.0)
    monkeypatch.setattr(lease, "_LIFETIME_SECONDS", 15.0)
    read_clock = time.clock_gettime
    with lock.hold(store, None):
        assert not lock.is_lost(store)
        server.buckets["bucket"]["run/.lock"] = b""
        # Only this clock counts the time in which a host is suspended.
        monkeypatch.setattr(
            time, "clock_gettime", lambda clock: read_clock(clock) + 60 * (clock == time.CLOCK_BOOTTIME)
        )
        with pytest.raises(StorageError, match="another producer has taken over"):
            store.replace("run.json", b"1")
        assert lock.is_lost(store)


def test_unusable_store_can_not_be_locked(server: ObjectServer, store: ObjectStore) -> None:
    """A store is refused if it has no conditional writes, or denies access. The error gives the reason."""
    server.ignores = frozenset(["If-Match"])
    with pytest.raises(UsageError, match="ignores `If-Match`"), lock.hold(store, None):
        pytest.fail("it is locked")
    server.fault = lambda *_: 403
    with pytest.raises(UsageError, match="refused access"), lock.hold(store, None):
        pytest.fail("it is locked")
    with pytest.raises(CommandError, match="Can't check whether another producer works"):
        lock.current_holder(store)


def test_discarded_lock(store: ObjectStore) -> None:
    """A holder may remove the lock. Then nothing of the lock remains."""
    with lock.hold(store, None):
        lock.discard(store)
    assert store.list_entries() == []


def test_lock_that_another_producer_has_released(server: ObjectServer, store: ObjectStore) -> None:
    """If another producer has taken over and released the lock, the first producer still notices."""
    with lock.hold(store, None):
        server.buckets["bucket"]["run/.lock"] = b""
        wait_for(lambda: lease.successor(store) is not None)
        with pytest.raises(CommandError, match="the other producer is an unknown process"):
            lock.check_held(store)
    assert lock_content(server) == b""


def test_fleet_of_the_holder_is_in_the_lock(server: ObjectServer, store: ObjectStore) -> None:
    """After its next renewal, the lock has the URL of the holder's local fleet."""
    with lock.hold(store, None, "run"):
        lock.set_fleet(store, "redis+socket:///tmp/a/redis.sock")
        wait_for(lambda: b"redis.sock" in lock_content(server))
        holder = lock.current_holder(store)
        assert holder is not None
        assert (holder.pid, holder.fleet) == (os.getpid(), "redis+socket:///tmp/a/redis.sock")
