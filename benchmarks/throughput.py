"""Images a second, CPU for each image and peak memory: the fleet and the threads baseline over nginx, in turns.

``python -m benchmarks.throughput`` fetches 20,000 different pictures of 15 KB five times each way, checks that every
file is right, and writes ``benchmarks/results/throughput.json``.
"""

from __future__ import annotations

import argparse
import os

from benchmarks import harness, turns


def main() -> None:
    """Measure, print a table, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    ways = {"fleet": turns.Way(turns.fleet), "threads": turns.Way(turns.threads)}
    with turns.scratch() as folder:
        rows = turns.measured(ways, arguments.images, arguments.repeat, folder)
    rows["fleet"]["workers"], rows["threads"]["threads"] = os.cpu_count(), turns.THREADS
    path = harness.keep("throughput", {"images": arguments.images, "repeat": arguments.repeat, "ways": rows})
    turns.show(rows)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
