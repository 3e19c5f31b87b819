"""Measure the cost of an image for a fleet and its Redis, and how many images per second one Redis can handle.

``python -m benchmarks.scale`` takes five minutes and writes ``benchmarks/results/scale.json``. `make docs` turns this
file into tables of ``docs/scale.md``. It uses a Redis with the settings of ``config/redis.conf`` and three loads, each
heavier than the one before:

- a fleet that downloads images of 15 KB from nginx;
- a fleet with an empty job;
- the recorded commands of the first fleet, replayed as fast as Redis responds.
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
from benchmarks.pictures import SMALL, create_gallery
from benchmarks.watched import PRODUCER, WORKERS, MeasuredFleet, RunUsage, Size
from config import limits
from producer.local_fleet.fleet import cores
from producer.output.run_file import RunConfig
from producer.output.summary import COLUMNS, summarise
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore

_NAME = "scale"
_DIFFERENT_IMAGES = 500
_WARM_UP = 1000
#: The default options of a run, and the number of images in flight with these options.
_OPTIONS = RunConfig()
_WINDOW = _OPTIONS.window * _OPTIONS.shard_size
_STARTS = 3
#: Redis must not rewrite its append-only file while we measure the file's growth.
_NO_REWRITE = ("--auto-aof-rewrite-percentage", "0")

_Fleet = Callable[..., MeasuredFleet]
_Numbers = dict[str, float]


def main() -> None:
    """Measure, print the loads, and save the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(cores()))
    parser.add_argument("--concurrency", type=int, default=limits.CONCURRENCY)
    parser.add_argument("--clients", type=int, default=2, help="processes that replay the recorded commands")
    parser.add_argument("--times", type=int, default=6, help="how often each process replays them")
    arguments = parser.parse_args()
    size = Size(arguments.workers, arguments.concurrency)
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
        place = Path(folder)
        create_gallery(SMALL, _DIFFERENT_IMAGES, place / "pictures")
        with web.serve(place / "pictures", place / "nginx", tls=False) as site:
            fleet = partial(MeasuredFleet, size, place, site.url, _DIFFERENT_IMAGES)
            image, downloads = _downloads(fleet, arguments.images, arguments.repeat)
            empty = _empty_job(fleet, arguments.images, arguments.repeat)
            replayed = _replay(fleet, arguments.clients, arguments.times)
    loads = {"downloads": downloads, "an empty job": empty, "the downloads' commands alone": replayed}
    result: dict[str, Any] = {
        "fleet": {"workers": size.workers, "concurrency": size.concurrency},
        "images": arguments.images,
        "repeat": arguments.repeat,
        "image": image,
        "loads": loads,
    }
    path = records.save(_NAME, result)
    for name, load in loads.items():
        print(f"{name:30} {load['images_per_second']:8,.0f} images/s  {load['redis_us']:6.1f} us of Redis per image")
    print(f"written to {path}")


def _downloads(fleet: _Fleet, images: int, repeat: int) -> tuple[dict[str, Any], _Numbers]:
    """Return the cost per image, and the load on Redis."""
    with fleet(redis_options=_NO_REWRITE) as measured:
        measured.run(_WARM_UP)
        before = measured.allocated()
        starts = [measured.run(1) for _ in range(_STARTS)]
        runs = [measured.run(images) for _ in range(repeat)]
    in_flight = min(images, _WINDOW)
    start = median(run.cpu[PRODUCER] for run in starts)
    return {
        "worker_us": _median(runs, lambda run: run.cpu[WORKERS] / images * 1e6),
        "producer_us": _median(runs, lambda run: (run.cpu[PRODUCER] - start) / images * 1e6),
        "round_trips": _median(runs, lambda run: run.work.reads / images, 3),
        "bytes_in": _median(runs, lambda run: run.work.bytes_in / images),
        "bytes_out": _median(runs, lambda run: run.work.bytes_out / images),
        "appended": _median(runs, lambda run: run.work.appended / images),
        "in_flight": round((max(run.peak_allocated for run in runs) - before) / in_flight),
        "connections_per_worker": round(runs[-1].connections / runs[-1].report["workers"]),
        "commands": _commands(runs[-1], images),
        **_output(runs[-1].out, images),
    }, _load(runs, images)


def _empty_job(fleet: _Fleet, images: int, repeat: int) -> _Numbers:
    with fleet(include=["benchmarks.empty"]) as measured:
        measured.run(_WARM_UP)
        return _load([measured.run(images) for _ in range(repeat)], images)


def _replay(fleet: _Fleet, clients: int, times: int) -> _Numbers:
    # Record as many images as a full window, because every run starts by filling its window.
    images = _WINDOW
    with fleet(record=True) as measured:
        measured.run(_WARM_UP)
        measured.batches.clear()
        measured.run(images)
        batches = list(measured.batches)
        replayed = traffic.replay(batches, measured.port, clients, times)
    images *= clients * times
    return {
        "images_per_second": round(images / replayed.seconds, 1),
        "redis_share": round(replayed.work.main_thread / replayed.seconds, 3),
        "redis_us": round(replayed.work.main_thread / images * 1e6, 1),
    }


def _load(runs: list[RunUsage], images: int) -> _Numbers:
    return {
        "images_per_second": _median(runs, lambda run: images / run.report["wall_seconds"]),
        "redis_share": _median(runs, lambda run: run.work.main_thread / run.report["wall_seconds"], 3),
        "redis_us": _median(runs, lambda run: run.work.main_thread / images * 1e6),
    }


def _commands(run: RunUsage, images: int) -> dict[str, dict[str, float]]:
    """Return the calls and microseconds per image of each command, with the most expensive command first."""
    work = run.work
    longest = sorted(work.calls, key=lambda name: work.microseconds.get(name, 0), reverse=True)
    return {
        name: {
            "calls": round(work.calls[name] / images, 4),
            "microseconds": round(work.microseconds.get(name, 0) / images, 3),
        }
        for name in longest
    }


def _output(out: Path, images: int) -> dict[str, float]:
    """Return the bytes on disk per image, and the milliseconds that the summary takes per shard."""
    store, shards = LocalStore(out), range(-(-images // _OPTIONS.shard_size))

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


def _median(runs: list[RunUsage], number: Callable[[RunUsage], float], digits: int = 1) -> float:
    return round(median(number(run) for run in runs), digits)


if __name__ == "__main__":
    main()
