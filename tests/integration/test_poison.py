"""An image that kills its worker is found, and nothing else suffers from it for long."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tasks import alone, download, keys, suspects
from tasks.model import FetchOptions, Outcome, Reason, RunOptions
from tasks.storage import Store
from tests.integration import parts

_IMAGES, _POISONS = 200, (20, 21, 150)
_WORKER, _TASK = "node|host|place|1|random", "run-1.00000007"

pytestmark = pytest.mark.slow


@contextmanager
def kept_up(name: str, folder: Path, url: str) -> Iterator[list[int]]:
    """Keep a worker up that poison kills: each time that it dies, another one is started; give the exit statuses."""
    settings = {
        "IMAGEFLEET_BROKER_URL": url,
        "IMAGEFLEET_STORE_ROOTS": str(folder),
        "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1",
    }
    argv = [sys.executable, "-m", "celery", "-A", "tests.faults.poisoned", "worker", "-n", f"{name}@%h", "-c", "8"]
    over, deaths = threading.Event(), list[int]()

    def keep() -> None:
        while not over.is_set():
            with parts.started(f"{name}-{len(deaths)}", argv, folder, settings) as worker:
                while worker.process.poll() is None and not over.wait(0.1):
                    pass
                if worker.process.returncode is not None:
                    deaths.append(worker.process.returncode)

    # An abort would write the memory of each worker to the disk.
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield deaths
    finally:
        over.set()
        keeper.join()
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.mark.timeout(240)
def test_poison_is_found_and_its_neighbours_are_saved(demo_url: str, tmp_path: Path) -> None:
    """Three images of two hundred that abort the process: all others are saved, and they alone are ``crashed``."""
    urls = [f"{demo_url}/images/{index}.jpg" for index in range(_IMAGES)]
    for index in _POISONS:
        urls[index] += "?poison"
    (tmp_path / "list").write_text("\n".join(urls))
    out, started = tmp_path / "out", time.monotonic()
    with parts.redis_server(tmp_path) as port, parts.connect(f"redis://127.0.0.1:{port}/0") as redis_client:
        url = f"redis://127.0.0.1:{port}/0"
        with kept_up("a", tmp_path, url) as some, kept_up("b", tmp_path, url) as others:
            numbers = parts.producer("run", tmp_path / "list", "--out", out, "--broker", url, "--json", seconds=180)
            deaths = [*some, *others]
            assert (numbers.json()["success"], numbers.json()["reasons"]) == (_IMAGES - 3, {"crashed": 3})
        assert not redis_client.keys("imagefleet:*:*")
    assert time.monotonic() - started < 180
    rows = parts.rows(out)
    assert tuple(place for place, row in enumerate(rows) if row["reason"] == "crashed") == _POISONS
    assert Counter(row["status"] for row in rows) == {"success": _IMAGES - 3, "failed_to_download": 3}
    # The first death of an image is not counted, the next two are, and the fourth is that of another process.
    assert 3 <= len(deaths) <= 3 * len(_POISONS)


def test_only_what_had_begun_is_counted(server: redis.Redis) -> None:
    """A task is noted while it is at it; who buries the worker counts it, once, while its run goes on."""
    server.set(keys.run("run-1"), "{}")
    with suspects.watched(server, _WORKER, "run-1", _TASK) as crashes:
        assert crashes == 0
        for _ in range(2):
            suspects.accuse(server, _WORKER)
    with suspects.watched(server, _WORKER, "run-1", _TASK) as crashes:
        assert crashes == 1
    suspects.accuse(server, _WORKER)
    assert server.hgetall(keys.crashes("run-1")) == {_TASK: "1"}
    server.delete(*keys.of_run("run-1"))
    with suspects.watched(server, _WORKER, "run-1", _TASK):
        suspects.accuse(server, _WORKER)
    assert server.keys("*") == []


@pytest.fixture
def asked(demo_url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the URL of a demo server that this process and those that it starts may ask and save from."""
    monkeypatch.setenv("IMAGEFLEET_ALLOW_NETWORKS", "127.0.0.1")
    monkeypatch.setenv("IMAGEFLEET_STORE_ROOTS", str(store.root.parent))
    return demo_url


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Give an empty run folder."""
    (tmp_path / "out").mkdir()
    return Store.below(str(tmp_path / "out"), [tmp_path])


def fetched_alone(url: str, store: Store, deadline: float = 60.0) -> Outcome:
    """Return the Outcome of an image that is fetched alone."""
    run = RunOptions(str(store.root), 1000, FetchOptions(deadline=deadline))
    return alone.fetch(url, 3, run, store, download.for_process())


def test_innocent_suspect_is_saved(asked: str, store: Store) -> None:
    """Fetched alone, an image has the Outcome that it would have had."""
    outcome = fetched_alone(f"{asked}/images/1.jpg", store)
    assert (outcome.ok, outcome.key, outcome.path) == (True, "00000003", "00000/00000003.jpg")
    assert store.exists("00000/00000003.jpg")


@pytest.mark.parametrize(
    ("program", "reason", "said"),
    [
        ("import os; os.abort()", Reason.CRASHED, "signal 6"),
        ("import os; os.kill(os.getpid(), 9)", Reason.CRASHED, "signal 9"),
        ("print('no answer'); raise SystemExit(3)", Reason.CRASHED, "status 3"),
        ("import time; time.sleep(60)", Reason.TIMEOUT, "within 1 s"),
    ],
)
def test_process_that_gives_no_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch, program: str, reason: Reason, said: str
) -> None:
    """A process that dies, or says nothing, or never ends, leaves an Outcome that says so."""
    monkeypatch.setattr(alone, "PROGRAM", (sys.executable, "-c", program))
    monkeypatch.setattr(alone, "_MARGIN", 0.0)
    outcome = fetched_alone("http://127.0.0.1/", store, deadline=1.0)
    assert outcome.reason is reason
    assert said in str(outcome.error_message)


def test_process_that_was_told_to_end_is_no_proof(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a service manager ends on its way is started again: that says nothing of the image."""
    program = f"""
import json, os, pathlib, signal
first = pathlib.Path({str(tmp_path / "first")!r})
if not first.exists():
    first.touch()
    os.kill(os.getpid(), signal.SIGTERM)
print(json.dumps({{"key": "00000003", "status": "success"}}))
"""
    monkeypatch.setattr(alone, "PROGRAM", (sys.executable, "-c", program))
    assert fetched_alone("http://127.0.0.1/", store).ok
