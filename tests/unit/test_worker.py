"""A worker caches facts about runs for a short time instead of reading them again for each image."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from config import SettingsError
from tasks import worker
from tasks.celery import COLLECT_SHARD, FETCH_IMAGE
from tasks.errors import CancelledError
from tasks.metrics.counters import WorkerMetrics
from tasks.model import RunOptions
from tasks.storage import manifest
from tasks.storage.local_store import LocalStore
from tasks.worker import RunCache


class CountingStore(LocalStore):
    """Count the lookups of files."""

    lookups = 0

    def exists(self, name: str) -> bool:
        """Look up the file and count the lookup."""
        self.lookups += 1
        return super().exists(name)


@pytest.fixture
def counting_store(store: LocalStore) -> CountingStore:
    """Return a counting store with an empty run folder."""
    return CountingStore(store.root)


def test_open_shard_is_checked_once_a_second(counting_store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing manifest is cached for a second, for each shard of each run."""
    now = 100.0
    monkeypatch.setattr("tasks.worker.monotonic", lambda: now)
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
    """A worker notices a finished shard within a second, whichever shard it looked up last."""
    now = 100.0
    monkeypatch.setattr("tasks.worker.monotonic", lambda: now)
    runs = RunCache(Mock())
    assert not runs.is_done("a", 0, counting_store)
    counting_store.create(manifest.name(0), b"")
    now += 1.0
    assert runs.is_done("a", 0, counting_store)
    assert runs.is_done("a", 0, counting_store)


_PREVIOUS = {"path": "00000/00000000.png", "width": 1, "height": 1, "format": "png", "bytes": 3, "sha256": "f00"}


def test_previous_run_outside_of_the_allowed_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is reused from a folder that the worker's operator does not allow. The worker logs the refusal once."""
    monkeypatch.setattr(worker, "settings", lambda: SimpleNamespace(store_roots=(tmp_path / "allowed",)))
    worker._previous_run_store.cache_clear()
    allowed, denied = (
        RunOptions("/out", 10, previous_run=str(tmp_path / folder)) for folder in ("allowed/old", "allowed/../denied")
    )
    previous = worker.previous_file(_PREVIOUS, allowed)
    assert previous is not None
    assert (previous.store.location, previous.image.path) == (str(tmp_path / "allowed" / "old"), "00000/00000000.png")
    assert [worker.previous_file(_PREVIOUS, denied) for _ in range(2)] == [None, None]
    assert caplog.text.count("no image is reused from") == 1
    assert [worker.previous_file(None, allowed), worker.previous_file(_PREVIOUS, RunOptions("/out", 10))] == [
        None,
        None,
    ]
    worker._previous_run_store.cache_clear()


def test_options_of_a_draining_run_are_not_cached() -> None:
    """The options of a draining run are read for each task, so a resumed run is noticed immediately."""
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
    """If several slots start at the same moment, they read the run's options only once."""
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


def test_runs_whose_tasks_are_dropped_are_known() -> None:
    """After the first dropped task of a run, the run counts as ended or draining, until a later task finds it again."""
    server = Mock()
    runs = RunCache(server)
    found = [runs.is_dropped("a")]
    for record in (None, RunOptions("/out", 10, run_id="a"), RunOptions("/out", 10, run_id="a", draining=True)):
        server.get.return_value = None if record is None else json.dumps(record.to_json())
        with suppress(CancelledError):
            runs.options("a", 0, fresh=True)
        found.append(runs.is_dropped("a"))
    assert found == [False, True, False, True]


def test_looks_up_the_host_of_a_reserved_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that waits for its host name is held.

    Other tasks, refused rows, odd arguments and the tasks of ended runs are not looked up.
    """
    asked: list[str] = []

    def look_up_ahead(url: str, _: object) -> bool:
        asked.append(url)
        return True

    monkeypatch.setattr(worker, "downloader", lambda: SimpleNamespace(look_up_ahead=look_up_ahead))
    monkeypatch.setattr(worker, "run_cache", lambda: SimpleNamespace(is_dropped=lambda run_id: run_id == "ended"))

    def is_held(name: str, *args: object, **kwargs: object) -> bool:
        return worker._look_up_ahead(SimpleNamespace(type=name, args=args, kwargs=kwargs), lambda: None)

    assert is_held(FETCH_IMAGE, "run", 0, "http://a.example/1.jpg")
    assert not is_held(FETCH_IMAGE, "run", 0, "http://b.example/1.jpg", refused={"reason": "invalid_row"})
    assert not is_held(FETCH_IMAGE, "ended", 0, "http://d.example/1.jpg")
    assert not is_held(FETCH_IMAGE, "run", 0)
    assert not is_held(FETCH_IMAGE, "run", 0, 7)
    assert not is_held(COLLECT_SHARD, "run", 0, "http://c.example/1.jpg")
    assert asked == ["http://a.example/1.jpg"]


def test_metrics_need_a_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a port, a worker counts nothing. If its port is taken, the error names the setting."""
    chosen = SimpleNamespace(metrics_port=None, metrics_address="127.0.0.1")
    monkeypatch.setattr(worker, "settings", lambda: chosen)
    worker.metrics.cache_clear()
    assert type(worker.metrics()) is WorkerMetrics
    worker.metrics.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen.metrics_port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=r"IMAGEFLEET_METRICS_PORT: .* Address already in use"):
            worker.metrics()
