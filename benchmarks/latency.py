"""Measure how close a fleet of 64 slots comes to the ideal rate if each download only waits 200 ms.

All images are on one host, so the limit for each host is raised to the number of slots. The ideal rate is slots /
latency. It is 320 images per second, and leaves out the startup. So the fleet's rate is measured from the run's first
task to its last manifest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.records import spread
from producer.local_fleet.demo_process import DemoProcess

_IMAGES = 20_000
_LATENCY = 0.2
_WORKERS, _CONCURRENCY = 2, 32
_SLOTS = _WORKERS * _CONCURRENCY
_IDEAL = _SLOTS / _LATENCY
#: Number of images drawn in advance, so that drawing is not measured.
_DIFFERENT_IMAGES = 100


def measure(repeat: int, images: int | None, folder: Path) -> dict[str, Any]:
    """Measure, and return the result as JSON-safe values."""
    images = images or _IMAGES
    with DemoProcess(_LATENCY, ready=_DIFFERENT_IMAGES) as server:
        rates = [_rate(folder / f"latency-{turn}", server, images) for turn in range(repeat)]
    return {
        "about": f"{_LATENCY * 1000:.0f} ms latency, {_SLOTS} slots",
        "images": images,
        "repeat": repeat,
        "latency_ms": _LATENCY * 1000,
        "slots": _SLOTS,
        "ideal_per_second": _IDEAL,
        "images_per_second": spread(rates),
        "of_ideal": spread([rate / _IDEAL for rate in rates]),
    }


def _rate(place: Path, server: DemoProcess, images: int) -> float:
    place.mkdir()
    source = place / "urls.txt"
    source.write_text(
        "".join(f"{server.url}/images/{index % _DIFFERENT_IMAGES}.jpg?{index}\n" for index in range(images)),
        encoding="utf-8",
    )
    size = ("--workers", str(_WORKERS), "--concurrency", str(_CONCURRENCY), "--per-host-concurrency", str(_SLOTS))
    command = [sys.executable, "-m", "producer", "run", str(source), "--out", str(place / "out"), "--json", *size]
    report = json.loads(processes.measure(command, {"IMAGEFLEET_ALLOW_NETWORKS": server.address}).output)
    if report["success"] != images:
        raise RuntimeError(f"{report['failed']} images failed: {report['reasons']}")
    rate = images / report["wall_seconds"]
    print(f"latency: {rate:.0f} of {_IDEAL:.0f} images/s", file=sys.stderr, flush=True)
    return float(rate)
