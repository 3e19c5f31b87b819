"""A Redis that is away while images end: their parts are counted when it is back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from celery.worker import state

from tasks import away
from tests.integration import parts

_IMAGES = 16


@pytest.mark.slow
def test_run_survives_a_restart_of_redis(demo_url: str, tmp_path: Path) -> None:
    """Redis is away while the images of all slots end: the run completes, and none is asked for twice."""
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{demo_url}/images/{index}.png?latency=3\n" for index in range(_IMAGES)))
    out = tmp_path / "out"
    port = parts.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    before = parts.request_count(demo_url, "/images")
    arguments = parts.command(["run", source, "--out", out, "--broker", url, "--json"])
    with parts.redis_server(tmp_path, port=port):
        worker = parts.worker("worker", tmp_path, url, tmp_path, "127.0.0.1")
        producer = parts.started("producer", arguments, tmp_path)
        with worker, producer as running:
            parts.eventually(
                lambda: parts.request_count(demo_url, "/images") == before + _IMAGES, "all images asked for"
            )
            with parts.connect(url) as server:
                server.shutdown()
            parts.eventually(lambda: len(parts.image_files(out)) == _IMAGES, "all images saved")
            with parts.redis_server(tmp_path, port=port):
                numbers = running.wait(60).json()
                assert (numbers["total"], numbers["success"]) == (_IMAGES, _IMAGES)
    assert parts.request_count(demo_url, "/images") == before + _IMAGES


def test_worker_that_is_told_to_stop_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task stays unacknowledged, and goes to another worker."""
    monkeypatch.setattr(state, "should_stop", 0)
    started = time.monotonic()
    with redis.Redis(port=parts.free_port()) as nobody, pytest.raises(redis.ConnectionError):
        away.patiently(nobody.ping)
    assert time.monotonic() - started < 10
