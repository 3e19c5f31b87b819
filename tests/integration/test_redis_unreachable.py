"""If Redis is unreachable while downloads end, their chord parts are counted as soon as Redis is back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from celery.worker import state

from tasks.broker import redis_retry
from tests.integration import processes

_IMAGES = 16


@pytest.mark.slow
def test_run_survives_a_restart_of_redis(demo_url: str, tmp_path: Path) -> None:
    """If Redis is unreachable while all slots end their downloads, the run completes and requests no image twice."""
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{demo_url}/images/{index}.png?latency=3\n" for index in range(_IMAGES)))
    out = tmp_path / "out"
    port = processes.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    before = processes.request_count(demo_url, "/images")
    arguments = processes.command(["run", source, "--out", out, "--broker", url, "--json"])
    with processes.redis_server(tmp_path, port=port):
        worker = processes.worker("worker", tmp_path, url, tmp_path, "127.0.0.1")
        producer = processes.started("producer", arguments, tmp_path)
        with worker, producer as running:
            processes.eventually(
                lambda: processes.request_count(demo_url, "/images") == before + _IMAGES, "requests for all images"
            )
            with processes.connect(url) as server:
                server.shutdown()
            processes.eventually(lambda: len(processes.image_files(out)) == _IMAGES, "all images saved")
            with processes.redis_server(tmp_path, port=port):
                numbers = running.wait(60).json()
                assert (numbers["total"], numbers["success"]) == (_IMAGES, _IMAGES)
    assert processes.request_count(demo_url, "/images") == before + _IMAGES


def test_stopping_worker_does_not_wait_for_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a worker is stopped while Redis is unreachable, the worker gives up.

    The task stays unacknowledged and goes to another worker.
    """
    monkeypatch.setattr(state, "should_stop", 0)
    started = time.monotonic()
    with redis.Redis(port=processes.free_port()) as unreachable, pytest.raises(redis.ConnectionError):
        redis_retry.retry_until_redis_is_back(unreachable.ping)
    assert time.monotonic() - started < 10
