"""How much of the ideal rate a fleet reaches where waiting is all there is to do: 200 ms for each image, 64 slots.

The ideal is slots / latency: 320 images a second. ``python -m benchmarks.latency`` runs it three times and writes
``benchmarks/results/latency.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness
from producer.demo_process import DemoProcess

#: Drawn before the clock runs: the fleet is measured, not the drawing.
_PICTURES = 100


def main() -> None:
    """Measure, print a line, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=32)
    arguments = parser.parse_args()
    slots = arguments.workers * arguments.concurrency
    ideal = slots / arguments.latency
    with (
        tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as scratch,
        DemoProcess(arguments.latency, ready=_PICTURES) as server,
    ):
        rates = [_rate(Path(scratch) / str(turn), server, arguments) for turn in range(arguments.repeat)]
    result: dict[str, Any] = {
        "images": arguments.images,
        "repeat": arguments.repeat,
        "latency_ms": arguments.latency * 1000,
        "slots": slots,
        "ideal_per_second": ideal,
        "images_per_second": harness.spread(rates),
        "of_ideal": harness.spread([rate / ideal for rate in rates]),
    }
    path = harness.keep("latency", result)
    print(f"{result['images_per_second']['median']:.0f} of {ideal:.0f} images/s: {result['of_ideal']['median']:.1%}")
    print(f"written to {path}")


def _rate(place: Path, server: DemoProcess, arguments: argparse.Namespace) -> float:
    place.mkdir()
    source = place / "urls.txt"
    source.write_text(
        "".join(f"{server.url}/images/{index % _PICTURES}.jpg?{index}\n" for index in range(arguments.images))
    )
    size = ["--workers", str(arguments.workers), "--concurrency", str(arguments.concurrency)]
    command = [sys.executable, "-m", "producer", "run", str(source), "--out", str(place / "out"), "--json", *size]
    report = json.loads(harness.measure(command, {"IMAGEFLEET_ALLOW_NETWORKS": server.address}).output)
    if report["success"] != arguments.images:
        raise RuntimeError(f"{report['failed']} images failed: {report['reasons']}")
    rate = arguments.images / report["wall_seconds"]
    print(f"{rate:.0f} images/s", file=sys.stderr)
    return float(rate)


if __name__ == "__main__":
    main()
