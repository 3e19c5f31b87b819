"""A worker caches facts about runs for a short time instead of reading them again for each image."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from celery.exceptions import Reject, Retry

from tasks import jobs
from tasks.jobs import RunCache
from tasks.model import RunOptions
from tasks.retry_later import PriorAttempts, RetryLater
from tasks.storage import manifest
from tasks.storage.store import Store


class CountingStore(Store):
    """Count the lookups of files."""

    lookups = 0

    def exists(self, name: str) -> bool:
        """Look up the file, and count the lookup."""
        self.lookups += 1
        return super().exists(name)


@pytest.fixture
def counting_store(store: Store) -> CountingStore:
    """Return a counting store with an empty run folder."""
    return CountingStore(store.root)


def test_open_shard_is_checked_once_a_second(counting_store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing manifest is cached for a second, for each shard of each run."""
    now = 100.0
    monkeypatch.setattr("tasks.jobs.monotonic", lambda: now)
    runs = RunCache(Mock())
    assert [runs.is_done("a", 0, counting_store) for _ in range(3)] == [False] * 3
    assert counting_store.lookups == 1
    runs.is_done("a", 1, counting_store)
    runs.is_done("b", 1, counting_store)
    assert counting_store.lookups == 3
    now += 1.0
    runs.is_done("b", 1, counting_store)
    assert counting_store.lookups == 4


def test_finished_shard_is_noticed_within_a_second(
    counting_store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished shard is noticed within a second, whichever shard was looked up last."""
    now = 100.0
    monkeypatch.setattr("tasks.jobs.monotonic", lambda: now)
    runs = RunCache(Mock())
    assert not runs.is_done("a", 0, counting_store)
    counting_store.create(manifest.name(0), b"")
    now += 1.0
    assert runs.is_done("a", 0, counting_store)
    assert runs.is_done("a", 0, counting_store)


class Sending:
    """Simulate a task that can't be sent this many times."""

    def __init__(self, failures: int, **kwargs: Any) -> None:
        self.request = SimpleNamespace(
            args=["run", 7, "http://a/?token=x"], kwargs=kwargs, argsrepr="a", kwargsrepr="{}"
        )
        self.sent: list[dict[str, Any]] = []
        self._failures = failures

    def retry(self, **options: Any) -> Retry:
        """Do the same as Celery, except for sending the message."""
        if self._failures:
            self._failures -= 1
            raise Reject(OSError("away"), requeue=False)
        self.sent.append(options)
        return Retry(exc=options["exc"], when=options["countdown"])


_LATER = RetryLater("HTTP 429", 61.5, PriorAttempts(2, 0.75))


def test_task_is_resent_with_its_attempts_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments stay, attempts and time are added, texts stay redacted; an unreachable Redis is waited for."""
    monkeypatch.setattr("tasks.broker.redis_retry.time.sleep", lambda _: None)
    task: Any = Sending(2, revision=1, recover=True, attempts=1, seconds=0.5)
    assert jobs._requeue_later(task, _LATER).when == 61.5
    (sent,) = task.sent
    assert sent["args"] == task.request.args
    assert sent["kwargs"] == {"revision": 1, "recover": True, "attempts": 2, "seconds": 0.75}
    assert (sent["argsrepr"], sent["kwargsrepr"], str(sent["exc"])) == ("a", "{}", "HTTP 429")


def test_stopping_worker_does_not_wait_to_resend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message stays unacknowledged, so another worker gets it."""
    monkeypatch.setattr("tasks.broker.redis_retry.worker_is_stopping", lambda: True)
    task: Any = Sending(1)
    with pytest.raises(redis.ConnectionError):
        jobs._requeue_later(task, _LATER)


_FORMER = {"path": "00000/00000000.png", "width": 1, "height": 1, "format": "png", "bytes": 3, "sha256": "f00"}


def test_previous_run_outside_of_the_allowed_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is reused from a folder that the worker's operator does not allow; the worker logs this once."""
    monkeypatch.setattr(jobs, "settings", lambda: SimpleNamespace(store_roots=(tmp_path / "allowed",)))
    jobs._previous_run_store.cache_clear()
    allowed, denied = (
        RunOptions("/out", 10, previous_run=str(tmp_path / folder)) for folder in ("allowed/old", "allowed/../denied")
    )
    former = jobs._previous_file(_FORMER, allowed)
    assert former is not None
    assert (former.store.root, former.image.path) == (tmp_path / "allowed" / "old", "00000/00000000.png")
    assert [jobs._previous_file(_FORMER, denied) for _ in range(2)] == [None, None]
    assert caplog.text.count("nothing is taken over from") == 1
    assert [jobs._previous_file(None, allowed), jobs._previous_file(_FORMER, RunOptions("/out", 10))] == [None, None]
    jobs._previous_run_store.cache_clear()


@pytest.mark.parametrize("arguments", [["http://a.example/1.jpg"], [], ["run", 0, *range(9)]])
@pytest.mark.parametrize("task", [jobs.fetch_image, jobs.collect_shard])
def test_task_sent_by_hand_names_the_command(task: Any, arguments: list[Any]) -> None:
    """A task called at a Celery prompt fails with the command to use instead, before anything is sent."""
    with pytest.raises(TypeError, match=r"call `producer run SOURCE --out OUT`$"):
        task.delay(*arguments)


def test_options_of_a_draining_run_are_not_cached() -> None:
    """They are read each time, so a resumed run is noticed at once."""
    records = [
        json.dumps(RunOptions("/out", 10, run_id="a", draining=draining).to_json()) for draining in (True, False)
    ]
    server = Mock()
    server.get.side_effect = records
    runs = RunCache(server)
    assert [runs.options("a", 0).draining for _ in range(3)] == [True, False, False]
    server.get.side_effect = records
    runs.forget("a")
    assert runs.options("a", 0).draining


def test_slots_read_options_once_together() -> None:
    """Slots that start at the same moment read a run's options once, not each over its own connection."""
    slots = 16
    barrier = threading.Barrier(slots)
    server = Mock()
    server.get.return_value = json.dumps(RunOptions("/out", 10, run_id="run").to_json())
    runs = RunCache(server)

    def read(_: int) -> str:
        barrier.wait()
        return runs.options("run", 0).run_id

    with ThreadPoolExecutor(slots) as pool:
        assert set(pool.map(read, range(slots))) == {"run"}
    assert server.get.call_count == 1
