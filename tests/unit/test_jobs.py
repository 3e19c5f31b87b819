"""What a worker knows of runs is fresh enough, and not asked for again with each image."""

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

from tasks import jobs, manifest
from tasks.jobs import Runs
from tasks.later import Earlier, Later
from tasks.model import RunOptions
from tasks.storage import Store


class Looked(Store):
    """A Store that counts how often a file is looked for."""

    looks = 0

    def exists(self, name: str) -> bool:
        """Look, and count."""
        self.looks += 1
        return super().exists(name)


@pytest.fixture
def looked(store: Store) -> Looked:
    """Give an empty run folder that counts."""
    return Looked(store.root)


def test_open_shard_is_looked_at_once_in_a_while(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a shard has no manifest is known for a second; another shard, or another run, is another question."""
    now = 100.0
    monkeypatch.setattr("tasks.jobs.monotonic", lambda: now)
    runs = Runs(Mock())
    assert [runs.is_done("a", 0, looked) for _ in range(3)] == [False] * 3
    assert looked.looks == 1
    runs.is_done("a", 1, looked)
    runs.is_done("b", 1, looked)
    assert looked.looks == 3
    now += 1.0
    runs.is_done("b", 1, looked)
    assert looked.looks == 4


def test_finished_shard_is_always_looked_at(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that is done is told within a second, and what was looked at last does not hide it."""
    now = 100.0
    monkeypatch.setattr("tasks.jobs.monotonic", lambda: now)
    runs = Runs(Mock())
    assert not runs.is_done("a", 0, looked)
    looked.create(manifest.name(0), b"")
    now += 1.0
    assert runs.is_done("a", 0, looked)
    assert runs.is_done("a", 0, looked)


class Sending:
    """A task that can't be sent as often as a test says."""

    def __init__(self, failures: int, **kwargs: Any) -> None:
        self.request = SimpleNamespace(
            args=["run", 7, "http://a/?token=x"], kwargs=kwargs, argsrepr="a", kwargsrepr="{}"
        )
        self.sent: list[dict[str, Any]] = []
        self._failures = failures

    def retry(self, **options: Any) -> Retry:
        """Do what Celery does, up to the message."""
        if self._failures:
            self._failures -= 1
            raise Reject(OSError("away"), requeue=False)
        self.sent.append(options)
        return Retry(exc=options["exc"], when=options["countdown"])


_LATER = Later("HTTP 429", 61.5, Earlier(2, 0.75))


def test_task_is_sent_again_with_what_was_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arguments stay, what was spent is added, what is shown stays masked; a Redis that is away is waited for."""
    monkeypatch.setattr("tasks.away.time.sleep", lambda _: None)
    task: Any = Sending(2, revision=1, recover=True, attempts=1, seconds=0.5)
    assert jobs._sent_later(task, _LATER).when == 61.5
    (sent,) = task.sent
    assert sent["args"] == task.request.args
    assert sent["kwargs"] == {"revision": 1, "recover": True, "attempts": 2, "seconds": 0.75}
    assert (sent["argsrepr"], sent["kwargsrepr"], str(sent["exc"])) == ("a", "{}", "HTTP 429")


def test_worker_that_stops_does_not_wait_to_send_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message stays unacknowledged, and another worker gets it."""
    monkeypatch.setattr("tasks.away.stopping", lambda: True)
    task: Any = Sending(1)
    with pytest.raises(redis.ConnectionError):
        jobs._sent_later(task, _LATER)


_FORMER = {"path": "00000/00000000.png", "width": 1, "height": 1, "format": "png", "bytes": 3, "sha256": "f00"}


def test_former_run_that_is_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is taken over from a folder that the worker's operator does not allow; its log says so once."""
    monkeypatch.setattr(jobs, "settings", lambda: SimpleNamespace(store_roots=(tmp_path / "allowed",)))
    jobs._former_store.cache_clear()
    allowed, denied = (
        RunOptions("/out", 10, since=str(tmp_path / folder)) for folder in ("allowed/old", "allowed/../denied")
    )
    former = jobs._former(_FORMER, allowed)
    assert former is not None
    assert (former.store.root, former.facts.path) == (tmp_path / "allowed" / "old", "00000/00000000.png")
    assert [jobs._former(_FORMER, denied) for _ in range(2)] == [None, None]
    assert caplog.text.count("nothing is taken over from") == 1
    assert [jobs._former(None, allowed), jobs._former(_FORMER, RunOptions("/out", 10))] == [None, None]
    jobs._former_store.cache_clear()


@pytest.mark.parametrize("arguments", [["http://a.example/1.jpg"], [], ["run", 0, *range(9)]])
@pytest.mark.parametrize("task", [jobs.fetch_image, jobs.collect_shard])
def test_task_sent_by_hand_names_the_command(task: Any, arguments: list[Any]) -> None:
    """A person at a Celery prompt is told what to call, before anything is sent."""
    with pytest.raises(TypeError, match=r"call `producer run SOURCE --out OUT`$"):
        task.delay(*arguments)


def test_run_that_drains_is_looked_up_each_time() -> None:
    """Options that say that a run drains are not kept, so a command that resumes the run is heard at once."""
    records = [
        json.dumps(RunOptions("/out", 10, run_id="a", draining=draining).to_json()) for draining in (True, False)
    ]
    server = Mock()
    server.get.side_effect = records
    runs = Runs(server)
    assert [runs.options("a", 0).draining for _ in range(3)] == [True, False, False]
    server.get.side_effect = records
    runs.forget("a")
    assert runs.options("a", 0).draining


def test_slots_read_options_once_together() -> None:
    """Slots that start at the same moment read a run's options once, and not over a connection each."""
    slots = 16
    barrier = threading.Barrier(slots)
    server = Mock()
    server.get.return_value = json.dumps(RunOptions("/out", 10, run_id="run").to_json())
    runs = Runs(server)

    def read(_: int) -> str:
        barrier.wait()
        return runs.options("run", 0).run_id

    with ThreadPoolExecutor(slots) as pool:
        assert set(pool.map(read, range(slots))) == {"run"}
    assert server.get.call_count == 1
