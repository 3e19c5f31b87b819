"""Measure how many tasks per second a producer on one core sends to a Redis with an append-only file.

The dispatcher reads the plan from disk and sends all its tasks to the queue. The window holds all shards, and there is
no worker.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from benchmarks.records import spread
from config.settings import REDIS_CONF
from producer.dispatch.dispatcher import Dispatcher, DispatchOptions
from producer.local_fleet.fleet import server_binary
from producer.planning.planner import Planner
from tasks.broker import client as broker_client
from tasks.celery import IMAGE_QUEUE, use_broker
from tasks.model import ImageRequest, RunOptions
from tasks.storage.local_store import LocalStore

_IMAGES = 20_000
_SHARD_SIZE = 1000
#: Seconds to wait for Redis.
_TIMEOUT = 10.0


class _AllSentError(Exception):
    """Ends a run after its last task is sent."""


def measure(repeat: int, images: int | None, folder: Path) -> dict[str, Any]:
    """Measure, and return the result as JSON-safe values."""
    images = images or _IMAGES
    turns = []
    for turn in range(repeat):
        place = folder / f"submission-{turn}"
        place.mkdir()
        # Each turn runs in a new process, as each producer command does.
        with _redis(place) as url, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            turns.append(pool.submit(_submit, url, images, place / "out").result())
        print(f"submission: {images / turns[-1][0]:.0f} tasks/s", file=sys.stderr, flush=True)
    return {
        "about": "submission, one core",
        "images": images,
        "repeat": repeat,
        "tasks_per_second": spread([images / seconds for seconds, _ in turns]),
        "cpu_ms_per_task": spread([cpu / images * 1000 for _, cpu in turns]),
    }


def _submit(url: str, images: int, out: Path) -> tuple[float, float]:
    """Plan a list and send all its tasks. Return how long the sending took, in seconds and in CPU seconds."""
    out.mkdir()
    store = LocalStore(out)
    requests = (ImageRequest(index, f"http://images.example/pictures/{index:08d}.jpg") for index in range(images))
    planner = Planner(requests, store, _SHARD_SIZE, lambda rows, shards: None, "benchmark")
    planner.start()
    while not planner.closed:
        planner.wait(planner.shards, 1.0)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    use_broker(url)
    with broker_client.client(url) as server:
        options, dispatch = RunOptions(str(out), _SHARD_SIZE, run_id="benchmark"), DispatchOptions(planner.shards)
        dispatcher = Dispatcher(options, store, planner, server, _stop_after(planner.shards), dispatch)
        started, used = time.monotonic(), time.process_time()
        try:
            dispatcher.run(lambda progress: None)
        except _AllSentError:
            spent = time.monotonic() - started, time.process_time() - used
        queued = server.llen(IMAGE_QUEUE)
    if queued != images:
        raise RuntimeError(f"{queued} tasks are queued, not {images}")
    return spent


def _stop_after(shards: int) -> Callable[[], None]:
    """Return a function. The dispatcher calls it after each shard instead of checking the fleet."""
    remaining = iter(range(shards - 1))

    def check() -> None:
        if next(remaining, None) is None:
            raise _AllSentError

    return check


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """Run a Redis on a Unix socket, as a local fleet does; yield its URL."""
    path = folder / "redis.sock"
    argv = [server_binary(), str(REDIS_CONF), "--port", "0", "--unixsocket", str(path), "--dir", str(folder)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    url = f"redis+socket://{path}"
    try:
        deadline = time.monotonic() + _TIMEOUT
        with broker_client.client(url, retry=False) as server:
            while not _is_ready(server):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Redis did not answer within {_TIMEOUT:.0f} s")
                time.sleep(0.01)
        yield url
    finally:
        process.terminate()
        process.wait()


def _is_ready(server: redis.Redis) -> bool:
    try:
        return bool(server.ping())
    except redis.ConnectionError:
        return False
