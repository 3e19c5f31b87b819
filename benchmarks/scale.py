"""What an image costs a fleet and its Redis, and how many images a second one Redis carries.

``python -m benchmarks.scale`` takes five minutes and writes ``benchmarks/results/scale.json``; `make docs` makes tables
of ``docs/scale.md`` of it. It loads a Redis with the settings of ``config/redis.conf`` in three ways, each heavier than
the one before: a fleet that downloads pictures of 15 KB from nginx, a fleet whose job is empty, and what the first one
said to its Redis, said again as fast as Redis answers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import records, traffic, web
from benchmarks.pictures import SMALL, hang
from benchmarks.watched import PRODUCER, WORKERS, Size, Taken, WatchedFleet
from config import bounds
from producer.local import cores
from producer.runfile import Options
from producer.summary import COLUMNS, summarise
from tasks import manifest, plan
from tasks.storage import Store

_NAME = "scale"
_PICTURES = 500
_WARM_UP = 1000
#: A run's usual options, and the images that are in flight with them.
_OPTIONS = Options()
_WINDOW = _OPTIONS.window * _OPTIONS.shard_size
_STARTS = 3
#: Redis never writes its file anew while it is counted what it appends.
_APPEND_ONLY = ("--auto-aof-rewrite-percentage", "0")

_Fleet = Callable[..., WatchedFleet]
_Numbers = dict[str, float]


def main() -> None:
    """Measure, print the loads, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(cores()))
    parser.add_argument("--concurrency", type=int, default=bounds.CONCURRENCY)
    parser.add_argument("--players", type=int, default=2, help="processes that say what was said")
    parser.add_argument("--times", type=int, default=6, help="how often each of them says it")
    arguments = parser.parse_args()
    size = Size(arguments.workers, arguments.concurrency)
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
        place = Path(folder)
        hang(SMALL, _PICTURES, place / "pictures")
        with web.served(place / "pictures", place / "nginx", tls=False) as site:
            fleet = partial(WatchedFleet, size, place, site.url, _PICTURES)
            image, downloads = _downloads(fleet, arguments.images, arguments.repeat)
            empty = _empty_job(fleet, arguments.images, arguments.repeat)
            alone = _commands_alone(fleet, arguments.players, arguments.times)
    loads = {"downloads": downloads, "an empty job": empty, "the downloads' commands alone": alone}
    result: dict[str, Any] = {
        "fleet": {"workers": size.workers, "concurrency": size.concurrency},
        "images": arguments.images,
        "repeat": arguments.repeat,
        "image": image,
        "loads": loads,
    }
    path = records.keep(_NAME, result)
    for name, load in loads.items():
        print(f"{name:30} {load['images_per_second']:8,.0f} images/s  {load['redis_us']:6.1f} us of Redis an image")
    print(f"written to {path}")


def _downloads(fleet: _Fleet, images: int, repeat: int) -> tuple[dict[str, Any], _Numbers]:
    """Return what an image costs, and the load."""
    with fleet(redis_options=_APPEND_ONLY) as watched:
        watched.run(_WARM_UP)
        before = watched.allocated()
        starts = [watched.run(1) for _ in range(_STARTS)]
        runs = [watched.run(images) for _ in range(repeat)]
    in_flight = min(images, _WINDOW)
    start = median(taken.cpu[PRODUCER] for taken in starts)
    return {
        "worker_us": _middle(runs, lambda taken: taken.cpu[WORKERS] / images * 1e6),
        "producer_us": _middle(runs, lambda taken: (taken.cpu[PRODUCER] - start) / images * 1e6),
        "round_trips": _middle(runs, lambda taken: taken.work.reads / images, 3),
        "bytes_in": _middle(runs, lambda taken: taken.work.bytes_in / images),
        "bytes_out": _middle(runs, lambda taken: taken.work.bytes_out / images),
        "appended": _middle(runs, lambda taken: taken.work.appended / images),
        "in_flight": round((max(taken.peak_allocated for taken in runs) - before) / in_flight),
        "connections_per_worker": round(runs[-1].connections / runs[-1].report["workers"]),
        "commands": _commands(runs[-1], images),
        **_left(runs[-1].out, images),
    }, _load(runs, images)


def _empty_job(fleet: _Fleet, images: int, repeat: int) -> _Numbers:
    with fleet(include=["benchmarks.empty"]) as watched:
        watched.run(_WARM_UP)
        return _load([watched.run(images) for _ in range(repeat)], images)


def _commands_alone(fleet: _Fleet, players: int, times: int) -> _Numbers:
    # The recording begins as every run does, with a full window.
    images = _WINDOW
    with fleet(recorded=True) as watched:
        watched.run(_WARM_UP)
        watched.turns.clear()
        watched.run(images)
        turns = list(watched.turns)
        played = traffic.play(turns, watched.port, players, times)
    images *= players * times
    return {
        "images_per_second": round(images / played.seconds, 1),
        "redis_share": round(played.work.main_thread / played.seconds, 3),
        "redis_us": round(played.work.main_thread / images * 1e6, 1),
    }


def _load(runs: list[Taken], images: int) -> _Numbers:
    return {
        "images_per_second": _middle(runs, lambda taken: images / taken.report["wall_seconds"]),
        "redis_share": _middle(runs, lambda taken: taken.work.main_thread / taken.report["wall_seconds"], 3),
        "redis_us": _middle(runs, lambda taken: taken.work.main_thread / images * 1e6),
    }


def _commands(taken: Taken, images: int) -> dict[str, dict[str, float]]:
    """Return how often each command is called for an image and how long that takes, the longest first."""
    work = taken.work
    longest = sorted(work.calls, key=lambda name: work.microseconds.get(name, 0), reverse=True)
    return {
        name: {
            "calls": round(work.calls[name] / images, 4),
            "microseconds": round(work.microseconds.get(name, 0) / images, 3),
        }
        for name in longest
    }


def _left(out: Path, images: int) -> dict[str, float]:
    """Return the bytes that an image leaves on the disk, and the milliseconds that a shard costs the summary."""
    store, shards = Store(out), range(-(-images // _OPTIONS.shard_size))

    def size(name: Callable[[int], str]) -> float:
        return round(sum(store.path(name(shard)).stat().st_size for shard in shards) / images, 2)

    started = time.perf_counter()
    summary = summarise(manifest.decode(store.read(manifest.name(shard)), COLUMNS) for shard in shards)
    seconds = time.perf_counter() - started
    return {
        "picture": round(summary.bytes / images),
        "manifest": size(manifest.name),
        "stats": size(manifest.stats_name),
        "plan": size(plan.name),
        "summary_ms_per_shard": round(seconds / len(shards) * 1000, 3),
    }


def _middle(runs: list[Taken], number: Callable[[Taken], float], digits: int = 1) -> float:
    return round(median(number(taken) for taken in runs), digits)


if __name__ == "__main__":
    main()
