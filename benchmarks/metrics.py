"""Measure what the metrics of a worker cost: counting an image, and a read of all metrics by Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from benchmarks.records import spread
from tasks.metrics.counters import WorkerState
from tasks.metrics.prometheus import PrometheusMetrics, create_registry
from tasks.model import Outcome, Status

_READS = 50
_OUTCOME = Outcome(
    "00000000", Status.SUCCESS, bytes=15_000, attempts=1, fetch_seconds=0.02, phases=(900, 0, 12_000, 3_000, 900, 700)
)


def measure(repeat: int, images: int | None, _: Path) -> dict[str, Any]:
    """Return the CPU time of counting an image, in microseconds, and of a read, in milliseconds."""
    registry = create_registry()
    metrics = PrometheusMetrics(registry, WorkerState(lambda: 0, lambda: 0, lambda: False))
    count = images or 100_000

    def count_all() -> None:
        for _ in range(count):
            metrics.count_image(_OUTCOME)
        metrics.update()

    counting = spread([_cpu_seconds(count_all, 1) / count * 1e6 for _ in range(repeat)])
    reading = spread([_cpu_seconds(lambda: generate_latest(registry), _READS) * 1e3 for _ in range(repeat)])
    print(f"counting an image: {counting['median']:.1f} us, a read: {reading['median']:.1f} ms")
    about = {"bound": 10, "at_least": False, "unit": " µs", "digits": 1}
    goal = {"about": "metrics: CPU of counting an image", "found": counting, **about}
    return {"images": count, "repeat": repeat, "counting_us": counting, "reading_ms": reading, "goals": [goal]}


def _cpu_seconds(action: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        action()
    return (time.process_time() - started) / times
