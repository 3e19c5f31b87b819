"""Run benchmarks: ``python -m benchmarks`` runs all benchmarks that have a goal.

``--workload`` selects one benchmark by name. Each result is saved as soon as it is complete. If one benchmark
fails, the other benchmarks still run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import latency, metrics, records, submission, turns
from benchmarks.workloads import OBSERVATION, OUTPUTS, RESIZE_MODES, SIZES, TASK_EVENTS, WORKLOADS, Workload

#: A function that measures. The function's arguments are the number of repetitions, the number of images (None: the
#: default), and a folder for temporary files.
Measurement = Callable[[int, int | None, Path], dict[str, Any]]


def _measurement(workload: Workload) -> Measurement:
    def measure(repeat: int, images: int | None, folder: Path) -> dict[str, Any]:
        result = turns.measure(workload.scaled(images) if images else workload, repeat, folder)
        turns.show(result["ways"])
        return result

    return measure


_DEFAULT: dict[str, Measurement] = {
    **{workload.name: _measurement(workload) for workload in (*WORKLOADS, OUTPUTS, OBSERVATION)},
    "latency": latency.measure,
    "submission": submission.measure,
    "metrics": metrics.measure,
}
_ALL = {
    **_DEFAULT,
    **{workload.name: _measurement(workload) for workload in (*RESIZE_MODES, SIZES, TASK_EVENTS)},
}


def main() -> int:
    """Run the benchmarks, print tables and save the results; return 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--workload", action="append", choices=_ALL, help="repeatable; default: all with goals")
    parser.add_argument("--images", type=int, help="number of images; lists of single ways scale with it")
    parser.add_argument("--repeat", type=int, default=5, help="turns per way")
    parser.add_argument("--results", type=Path, default=records.FOLDER, help="folder for the JSON")
    arguments = parser.parse_args()
    failed = []
    with turns.scratch() as folder:
        for name in arguments.workload or _DEFAULT:
            try:
                result = _ALL[name](arguments.repeat, arguments.images, folder)
            except RuntimeError as error:
                print(f"{name} failed: {error}", file=sys.stderr)
                failed.append(name)
            else:
                print(f"written to {records.save(name, result, arguments.results)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
