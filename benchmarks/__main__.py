"""The one command: ``python -m benchmarks`` runs every measurement that has a goal; ``--workload`` runs some.

Each is kept as soon as it is done; one that fails does not keep the next ones from being run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import latency, records, submission, turns
from benchmarks.workloads import SIZES, TASK_EVENTS, WORKLOADS, Workload

#: Takes how often to repeat, the number of images if it is not the usual one, and a folder for what is saved meanwhile.
Measurement = Callable[[int, int | None, Path], dict[str, Any]]


def _of(workload: Workload) -> Measurement:
    def measured(repeat: int, images: int | None, folder: Path) -> dict[str, Any]:
        result = turns.measured(workload.scaled(images) if images else workload, repeat, folder)
        turns.show(result["ways"])
        return result

    return measured


_USUAL: dict[str, Measurement] = {
    **{workload.name: _of(workload) for workload in WORKLOADS},
    "latency": latency.measured,
    "submission": submission.measured,
}
_ALL = {**_USUAL, SIZES.name: _of(SIZES), TASK_EVENTS.name: _of(TASK_EVENTS)}


def main() -> int:
    """Measure, print tables, and keep the results; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--workload", action="append", choices=_ALL, help="may be given again; without, all with goals")
    parser.add_argument("--images", type=int, help="other than the usual number; lists of ways scale with it")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--results", type=Path, default=records.FOLDER, help="where the JSON is kept")
    arguments = parser.parse_args()
    failed = []
    with turns.scratch() as folder:
        for name in arguments.workload or _USUAL:
            try:
                result = _ALL[name](arguments.repeat, arguments.images, folder)
            except RuntimeError as error:
                print(f"{name} failed: {error}", file=sys.stderr)
                failed.append(name)
            else:
                print(f"written to {records.keep(name, result, arguments.results)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
