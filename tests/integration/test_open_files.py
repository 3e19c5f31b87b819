"""Runs work with a small limit of open files, and with a Redis that accepts few clients."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from tests.integration import processes
from tests.unit.conftest import Canned, always, image, response

_HOSTS, _SLOTS = 40, 128


@pytest.fixture(scope="module")
def kept_alive() -> Iterator[int]:
    """Give the port of a server that keeps every connection open. The server listens on all loopback addresses."""
    with Canned(always(response(image("JPEG"))), host="0.0.0.0") as server:
        yield server.port


def limited(descriptors: int) -> Callable[[], None]:
    """Return a function that sets both limits of open files in a starting process."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


def run_images(
    folder: Path, port: int, images: int, descriptors: int, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a list of images on many hosts with a local fleet. Each process of the fleet has this limit of open files."""
    source = folder / "list.txt"
    urls = (f"http://127.0.1.{number % _HOSTS + 1}:{port}/{number}.jpg\n" for number in range(images))
    source.write_text("".join(urls))
    return subprocess.run(
        processes.command(["run", source, "--out", folder / "out", "--workers", "1", "--json", *arguments]),
        env=processes.environment({"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.0/8"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        preexec_fn=limited(descriptors),
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("descriptors", [256, 512, 1024])
def test_run_completes_under_a_small_limit(tmp_path: Path, kept_alive: int, descriptors: int) -> None:
    """With 128 slots, all 6,000 images on 40 keep-alive hosts are saved at the first attempt."""
    ended = run_images(tmp_path, kept_alive, 6_000, descriptors, "--concurrency", str(_SLOTS), "--retries", "0")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["success"], found["failed"], found["repaired"]) == (6_000, 0, 0)


def test_refuses_a_fleet_beyond_the_limit(tmp_path: Path, kept_alive: int) -> None:
    """If there are more slots than file descriptors, the command reports this and leaves no folder behind."""
    ended = run_images(tmp_path, kept_alive, 1, 128, "--concurrency", "128")
    assert ended.returncode == 2
    assert "128 downloads at a time can't run in one process here" in ended.stderr
    assert "--concurrency 64" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_worker_raises_its_soft_limit(tmp_path: Path) -> None:
    """A worker raises its soft limit, so it does not warn of too few descriptors."""
    with processes.redis_server(tmp_path) as port, ExitStack() as stack:
        url = f"redis://127.0.0.1:{port}/0"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            # The worker inherits this lower limit. Afterwards, this process gets its old limit back.
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, soft), hard))
            worker = stack.enter_context(processes.worker("crowded", tmp_path, url, tmp_path, "127.0.0.1"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        processes.eventually(lambda: processes.worker_stats(url), "a worker")
        soft_there, _ = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
        assert soft_there == min(hard, 65_536)
        assert "limit of open files" not in worker.err


def test_refuses_a_redis_that_accepts_few_clients(tmp_path: Path) -> None:
    """If Redis has too few free connections for a run, `run` and `doctor` report this before they send anything."""
    (tmp_path / "list.txt").write_text("http://127.0.0.1:9/1.jpg\n")
    with processes.redis_server(tmp_path, "--maxclients", "20") as port, ExitStack() as stack:
        url = f"redis://127.0.0.1:{port}/0"
        for _ in range(12):
            client = stack.enter_context(redis.Redis(port=port))
            client.ping()
        ended = processes.producer("run", tmp_path / "list.txt", "--out", tmp_path / "out", "--broker", url)
        assert ended.code == 1
        assert "has too few free connections" in ended.err
        assert "maxclients" in ended.err
        diagnosis = json.loads(processes.producer("doctor", "--json", "--broker", url).out)
    (found,) = (finding for finding in diagnosis["findings"] if finding["name"] == "connections")
    assert found["level"] == "bad"
    assert found["found"].startswith("13 of 20 in use")
