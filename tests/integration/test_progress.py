"""What a process has done reaches Redis in sums, at a cost that does not grow with the images."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from config import bounds
from tasks import broker, keys, progress
from tasks.model import Outcome, Reason, Status
from tasks.progress import Progress
from tests.conditions import wait_for
from tests.unit.conftest import success

_FAILED = Outcome("00000001", Status.FAILED_TO_DOWNLOAD, Reason.DNS)


@pytest.fixture
def server(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """A client of an empty Redis, and flushes that follow each other quickly."""
    monkeypatch.setattr(progress, "_INTERVAL", 0.02)
    with broker.client(redis_url) as client:
        client.flushall()
        client.mset({keys.run("a"): "options", keys.run("b"): "options"})
        client.config_resetstat()
        yield client


def sums(server: Any, run_id: str) -> dict[str, str]:
    """What the display would read."""
    return dict(server.hgetall(keys.moved(run_id)))


def test_sums_arrive(server: redis.Redis) -> None:
    """Saved and failed images and their bytes are added up by run, with the life time of a run's record."""
    told = Progress(lambda: server)
    for run_id, outcome in (("a", success(0, bytes=7)), ("a", _FAILED), ("b", success(0, bytes=5)), ("a", success(2))):
        told.add(run_id, outcome)
    wait_for(lambda: sums(server, "a") == {"success": "2", "failed": "1", "bytes": "10", "reason:dns": "1"})
    wait_for(lambda: sums(server, "b") == {"success": "1", "bytes": "5"})
    assert bounds.RECORD_LIFETIME - 60 < int(server.ttl(keys.moved("a"))) <= bounds.RECORD_LIFETIME


def test_what_could_not_be_saved_is_counted(server: redis.Redis) -> None:
    """Images that failed because nothing can be saved are told, as failed and for themselves."""
    told = Progress(lambda: server)
    for outcome in (success(0, bytes=7), _FAILED, replace(_FAILED, reason=Reason.STORAGE)):
        told.add("a", outcome)
    counts = {"success": "1", "failed": "2", "unsaved": "1", "bytes": "7"}
    wait_for(lambda: sums(server, "a") == {**counts, "reason:dns": "1", "reason:storage": "1"})


def test_later_sums_are_added(server: redis.Redis) -> None:
    """What comes after a flush is added to what is there, also by another process."""
    for told in (Progress(lambda: server), Progress(lambda: server)):
        told.add("a", success(0))
    wait_for(lambda: sums(server, "a") == {"success": "2", "bytes": "6"})


def test_cost_does_not_grow(server: redis.Redis) -> None:
    """A thousand images of many threads cost a few commands, and none is lost."""
    told = Progress(lambda: server)

    def add() -> None:
        for _ in range(125):
            told.add("a", success(0))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: sums(server, "a") == {"success": "1000", "bytes": "3000"})
    stats: Any = server.info("commandstats")
    assert stats["cmdstat_hincrby"]["calls"] < 50


def test_redis_that_fails_is_no_fault(server: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers for the eye that can't be told are logged, and the next ones arrive."""
    caplog.set_level(logging.WARNING)
    told = Progress(lambda: server)
    server.set(keys.moved("a"), "no hash")
    told.add("a", success(0))
    wait_for(lambda: "progress could not be shown" in caplog.text)
    server.delete(keys.moved("a"))
    told.add("a", success(1))
    wait_for(lambda: sums(server, "a") == {"success": "1", "bytes": "3"})


def test_sums_that_a_full_redis_refuses_arrive_later(server: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Redis says that it added nothing, so nothing counts twice."""
    caplog.set_level(logging.WARNING)
    told = Progress(lambda: server)
    server.config_set("maxmemory", 1)
    try:
        told.add("a", success(0))
        wait_for(lambda: "OOM" in caplog.text)
    finally:
        server.config_set("maxmemory", 0)
    told.add("a", success(1))
    wait_for(lambda: sums(server, "a") == {"success": "2", "bytes": "6"})


def test_run_that_has_ended_gets_no_keys_again(server: redis.Redis) -> None:
    """What is flushed after a run's end is dropped, with no key left behind."""
    server.delete(keys.run("a"))
    told = Progress(lambda: server)
    told.add("a", success(0))
    told.add("b", success(0))
    wait_for(lambda: sums(server, "b") == {"success": "1", "bytes": "3"})
    assert not server.exists(keys.moved("a"))


def test_keys_of_a_run_are_known() -> None:
    """All keys of a run are named in one place, each with the run's id."""
    assert keys.of_run("ID") == tuple(f"imagefleet:{kind}:ID" for kind in ("run", "done", "moved", "crashes", "unfit"))
