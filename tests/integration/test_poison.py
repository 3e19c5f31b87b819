"""An image that kills its worker is detected, and delays the other images only briefly."""

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

from tasks import isolation
from tasks.broker import keys, poison
from tasks.fetch import FetchRequest
from tasks.model import FetchOptions, Outcome, Reason, RunOptions
from tasks.storage.local_store import LocalStore
from tests.integration import processes

_IMAGES, _POISONS = 200, (20, 21, 150)
_WORKER, _TASK = "node|host|place|1|random", "run-1.00000007"

pytestmark = pytest.mark.slow


@contextmanager
def keep_worker_running(name: str, folder: Path, url: str) -> Iterator[list[int]]:
    """Restart a worker each time that an image kills it, and return the list of the worker's exit statuses."""
    settings = {
        "IMAGEFLEET_BROKER_URL": url,
        "IMAGEFLEET_STORE_ROOTS": str(folder),
        "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1",
    }
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.faults.crashing_worker",
        "worker",
        "-n",
        f"{name}@%h",
        "-c",
        "8",
    ]
    over, deaths = threading.Event(), list[int]()

    def restart() -> None:
        while not over.is_set():
            with processes.started(f"{name}-{len(deaths)}", argv, folder, settings) as worker:
                while worker.process.poll() is None and not over.wait(0.1):
                    pass
                if worker.process.returncode is not None:
                    deaths.append(worker.process.returncode)

    # An abort would write a core dump of each worker to the disk.
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    restarter = threading.Thread(target=restart)
    restarter.start()
    try:
        yield deaths
    finally:
        over.set()
        restarter.join()
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.mark.timeout(240)
def test_detects_poison_and_saves_its_neighbours(demo_url: str, tmp_path: Path) -> None:
    """Three of two hundred images abort their process.

    These three images are ``crashed``, and all other images are saved.
    """
    urls = [f"{demo_url}/images/{index}.jpg" for index in range(_IMAGES)]
    for index in _POISONS:
        urls[index] += "?poison"
    (tmp_path / "list").write_text("\n".join(urls))
    out, started = tmp_path / "out", time.monotonic()
    with processes.redis_server(tmp_path) as port, processes.connect(f"redis://127.0.0.1:{port}/0") as redis_client:
        url = f"redis://127.0.0.1:{port}/0"
        with keep_worker_running("a", tmp_path, url) as some, keep_worker_running("b", tmp_path, url) as others:
            numbers = processes.producer("run", tmp_path / "list", "--out", out, "--broker", url, "--json", seconds=180)
            deaths = [*some, *others]
            assert (numbers.json()["success"], numbers.json()["reasons"]) == (_IMAGES - 3, {"crashed": 3})
        # The state of a host stays for an hour, for other runs. The lease of a dead worker stays until it expires, or
        # until another worker asks for the host's permits.
        kept = "imagefleet:host:", "imagefleet:leases:"
        assert not [key for key in redis_client.keys("imagefleet:*:*") if not key.startswith(kept)]
    assert time.monotonic() - started < 180
    rows = processes.rows(out)
    assert tuple(place for place, row in enumerate(rows) if row["reason"] == "crashed") == _POISONS
    assert Counter(row["status"] for row in rows) == {"success": _IMAGES - 3, "failed_to_download": 3}
    # An image's first crash is not counted. Its second and third crash are counted, and its fourth crash ends the
    # separate process.
    assert 3 <= len(deaths) <= 3 * len(_POISONS)


def test_counts_a_crash_only_for_running_tasks(server: redis.Redis) -> None:
    """Running tasks are tracked. While the run exists, a worker's death counts as one crash for each of its tasks."""
    server.set(keys.run("run-1"), "{}")
    with poison.track_running(server, _WORKER, "run-1", _TASK) as crashes:
        assert crashes == 0
        for _ in range(2):
            poison.count_crashes(server, _WORKER)
    with poison.track_running(server, _WORKER, "run-1", _TASK) as crashes:
        assert crashes == 1
    poison.count_crashes(server, _WORKER)
    assert server.hgetall(keys.crashes("run-1")) == {_TASK: "1"}
    server.delete(*keys.run_keys("run-1"))
    with poison.track_running(server, _WORKER, "run-1", _TASK):
        poison.count_crashes(server, _WORKER)
    assert server.keys("*") == []


@pytest.fixture
def allowed_url(demo_url: str, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the URL of a demo server that this process and its child processes may fetch from."""
    monkeypatch.setenv("IMAGEFLEET_ALLOW_NETWORKS", "127.0.0.1")
    monkeypatch.setenv("IMAGEFLEET_STORE_ROOTS", str(store.root.parent))
    return demo_url


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Give an empty run folder."""
    (tmp_path / "out").mkdir()
    return LocalStore.open_allowed(str(tmp_path / "out"), [tmp_path])


def fetch_isolated(url: str, store: LocalStore, deadline: float = 60.0) -> Outcome:
    """Return the Outcome of an image fetched in isolation."""
    run = RunOptions(str(store.root), 1000, FetchOptions(deadline=deadline))
    return isolation.fetch(FetchRequest(url, 3), run)


def test_harmless_suspect_is_saved(allowed_url: str, store: LocalStore) -> None:
    """A harmless image fetched in isolation gets its normal Outcome."""
    outcome = fetch_isolated(f"{allowed_url}/images/1.jpg", store)
    assert (outcome.ok, outcome.key, outcome.path) == (True, "00000003", "00000/00000003.jpg")
    assert store.exists("00000/00000003.jpg")


@pytest.mark.parametrize(
    ("program", "reason", "message"),
    [
        ("import os; os.abort()", Reason.CRASHED, "signal 6"),
        ("import os; os.kill(os.getpid(), 9)", Reason.CRASHED, "signal 9"),
        ("print('no answer'); raise SystemExit(3)", Reason.CRASHED, "status 3"),
        ("import time; time.sleep(60)", Reason.TIMEOUT, "within 1 s"),
    ],
)
def test_isolated_process_without_an_answer(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, program: str, reason: Reason, message: str
) -> None:
    """If the process dies, prints no Outcome or never ends, the image gets an Outcome with the reason."""
    monkeypatch.setattr(isolation, "PROGRAM", (sys.executable, "-c", program))
    monkeypatch.setattr(isolation, "_MARGIN_SECONDS", 0.0)
    outcome = fetch_isolated("http://127.0.0.1/", store, deadline=1.0)
    assert outcome.reason is reason
    assert message in str(outcome.error_message)


def test_terminated_isolated_process_is_restarted(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If SIGTERM ends the process, for example from a service manager, the process is restarted.

    This end of the process proves nothing about the image.
    """
    program = f"""
import json, os, pathlib, signal
first = pathlib.Path({str(tmp_path / "first")!r})
if not first.exists():
    first.touch()
    os.kill(os.getpid(), signal.SIGTERM)
print(json.dumps({{"key": "00000003", "status": "success"}}))
"""
    monkeypatch.setattr(isolation, "PROGRAM", (sys.executable, "-c", program))
    assert fetch_isolated("http://127.0.0.1/", store).ok
