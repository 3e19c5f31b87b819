"""What task events cost: the same list with events off, with and without Flower, and with Flower reading them.

``python -m benchmarks.task_events`` fetches 10,000 pictures five times each way, in turns, and writes
``benchmarks/results/task-events.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import harness, turns


def main() -> None:
    """Measure, print a table, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    ways = {
        "off": turns.Way(turns.fleet),
        "off, Flower open": turns.Way(_with_flower, {"IMAGEFLEET_TASK_EVENTS": "off"}),
        "on, Flower open": turns.Way(_with_flower, {"IMAGEFLEET_TASK_EVENTS": "on"}),
    }
    with turns.scratch() as folder:
        rows = turns.measured(ways, arguments.images, arguments.repeat, folder)
    path = harness.keep("task-events", {"images": arguments.images, "repeat": arguments.repeat, "ways": rows})
    turns.show(rows)
    print(f"written to {path}")


def _with_flower(source: Path, out: Path) -> list[str]:
    return [*turns.fleet(source, out), "--flower"]


if __name__ == "__main__":
    main()
