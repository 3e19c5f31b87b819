"""Progress reaches Redis as sums, at a cost that does not grow with the number of images."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from config import limits
from tasks.broker import client as broker_client
from tasks.broker import keys, progress
from tasks.broker.progress import ProgressCounters
from tasks.model import Outcome, Reason, Status
from tests.unit.conftest import success
from tests.waiting import wait_for

_FAILED = Outcome("00000001", Status.FAILED_TO_DOWNLOAD, Reason.DNS)


@pytest.fixture
def server(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """Give a client of an empty Redis, and shorten the time between flushes."""
    monkeypatch.setattr(progress, "_FLUSH_INTERVAL_SECONDS", 0.02)
    with broker_client.client(redis_url) as client:
        client.flushall()
        client.mset({keys.run("a"): "options", keys.run("b"): "options"})
        client.config_resetstat()
        yield client


def sums(server: Any, run_id: str) -> dict[str, str]:
    """Return the sums as the progress display reads them."""
    return dict(server.hgetall(keys.progress(run_id)))


def test_sums_arrive(server: redis.Redis) -> None:
    """Saved and failed images and their bytes are summed by run, with the time to live of a run's record."""
    reporter = ProgressCounters(lambda: server)
    for run_id, outcome in (("a", success(0, bytes=7)), ("a", _FAILED), ("b", success(0, bytes=5)), ("a", success(2))):
        reporter.add(run_id, outcome)
    wait_for(lambda: sums(server, "a") == {"success": "2", "failed": "1", "bytes": "10", "reason:dns": "1"})
    wait_for(lambda: sums(server, "b") == {"success": "1", "bytes": "5"})
    assert limits.RUN_RECORD_TTL - 60 < int(server.ttl(keys.progress("a"))) <= limits.RUN_RECORD_TTL


def test_counts_unsaved_images(server: redis.Redis) -> None:
    """Images that could not be saved are counted as failed images, and also separately."""
    reporter = ProgressCounters(lambda: server)
    for outcome in (success(0, bytes=7), _FAILED, replace(_FAILED, reason=Reason.STORAGE)):
        reporter.add("a", outcome)
    counts = {"success": "1", "failed": "2", "unsaved": "1", "bytes": "7"}
    wait_for(lambda: sums(server, "a") == {**counts, "reason:dns": "1", "reason:storage": "1"})


def test_later_sums_are_added(server: redis.Redis) -> None:
    """Results after a flush are added to the existing sums, even if another process adds them."""
    for reporter in (ProgressCounters(lambda: server), ProgressCounters(lambda: server)):
        reporter.add("a", success(0))
    wait_for(lambda: sums(server, "a") == {"success": "2", "bytes": "6"})


def test_cost_does_not_grow(server: redis.Redis) -> None:
    """Many threads count a thousand images. They send few Redis commands, and lose no image."""
    reporter = ProgressCounters(lambda: server)

    def add() -> None:
        for _ in range(125):
            reporter.add("a", success(0))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: sums(server, "a") == {"success": "1000", "bytes": "3000"})
    stats: Any = server.info("commandstats")
    assert stats["cmdstat_hincrby"]["calls"] < 50


def test_failing_redis_is_not_an_error(server: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    """A failed progress update is logged, and later updates arrive."""
    caplog.set_level(logging.WARNING)
    reporter = ProgressCounters(lambda: server)
    server.set(keys.progress("a"), "not a hash")
    reporter.add("a", success(0))
    wait_for(lambda: "could not update the progress" in caplog.text)
    server.delete(keys.progress("a"))
    reporter.add("a", success(1))
    wait_for(lambda: sums(server, "a") == {"success": "1", "bytes": "3"})


def test_sums_refused_by_a_full_redis_arrive_later(server: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    """A full Redis reports that it added nothing, so a second try of the flush counts nothing twice."""
    caplog.set_level(logging.WARNING)
    reporter = ProgressCounters(lambda: server)
    server.config_set("maxmemory", 1)
    try:
        reporter.add("a", success(0))
        wait_for(lambda: "OOM" in caplog.text)
    finally:
        server.config_set("maxmemory", 0)
    reporter.add("a", success(1))
    wait_for(lambda: sums(server, "a") == {"success": "2", "bytes": "6"})


def test_ended_run_gets_no_keys_again(server: redis.Redis) -> None:
    """A flush after the end of its run is dropped, and leaves no key behind."""
    server.delete(keys.run("a"))
    reporter = ProgressCounters(lambda: server)
    reporter.add("a", success(0))
    reporter.add("b", success(0))
    wait_for(lambda: sums(server, "b") == {"success": "1", "bytes": "3"})
    assert not server.exists(keys.progress("a"))


def test_all_keys_of_a_run_are_known() -> None:
    """All keys of a run are named in one place, and each key has the run's id."""
    assert keys.run_keys("ID") == tuple(
        f"imagefleet:{kind}:ID" for kind in ("run", "done", "progress", "status", "crashes", "unfit")
    )
