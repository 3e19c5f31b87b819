"""Check for a loss of speed: run the short benchmark again, and compare its results with the saved results.

``python -m benchmarks.check``, or ``make bench-check``, takes a few minutes. The check compares only ratios of speeds.
Both speeds of a ratio are measured in the same turns. On another machine, the check is valid only if these ratios are
the same there. The exit status is 1 if a ratio fell by more than 10 %.
"""

from __future__ import annotations

import sys

from benchmarks import goals, records, turns
from benchmarks.workloads import BASE, IMAGEFLEET, SHORT

_REPEAT = 3
_LEAST = 0.9


def main() -> int:
    """Measure, print the compared ratios, and return the exit status."""
    known = records.load(SHORT.name)
    if known is None:
        print("There are no saved numbers of the short form to compare with; run `make bench` first.", file=sys.stderr)
        return 1
    with turns.scratch() as folder:
        found = turns.measure(SHORT.scaled(known["images"]), _REPEAT, folder)
    fell = False
    for other in ("threads", BASE):
        before, now = goals.ratio(known, IMAGEFLEET, other), goals.ratio(found, IMAGEFLEET, other)
        if before is None or now is None:
            continue
        part = now["median"] / before["median"]
        fell = fell or part < _LEAST
        print(
            f"{'FELL' if part < _LEAST else 'holds'}: imagefleet is {now['median']:.2f} x as fast as {other} "
            f"({now['least']:.2f} to {now['most']:.2f}), and was {before['median']:.2f} x: {part:.0%} of it"
        )
    if fell:
        print(
            f"A ratio is below {_LEAST:.0%} of its value in benchmarks/results/{SHORT.name}.json. Run the check again "
            "on an idle machine. If it fails again, find and fix the cause, or explain it in benchmarks/profile.md and "
            "run `make bench`.",
            file=sys.stderr,
        )
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main())
