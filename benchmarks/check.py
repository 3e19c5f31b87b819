"""Whether imagefleet is as fast as it was: the short form again, against the numbers that are kept of it.

``python -m benchmarks.check``, or ``make bench-check``, takes a few minutes. It compares ratios of the same turns, so
it holds on another machine as far as a ratio does. Exit status 1: one fell by more than a tenth.
"""

from __future__ import annotations

import sys

from benchmarks import goals, records, turns
from benchmarks.workloads import BASE, IMAGEFLEET, SHORT

_REPEAT = 3
_LEAST = 0.9


def main() -> int:
    """Measure, print what is compared, and return the exit status."""
    known = records.load(SHORT.name)
    if known is None:
        print("There is nothing to compare with: `make bench` keeps the short form's numbers.", file=sys.stderr)
        return 1
    with turns.scratch() as folder:
        found = turns.measured(SHORT.scaled(known["images"]), _REPEAT, folder)
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
            f"A ratio is below {_LEAST:.0%} of what benchmarks/results/{SHORT.name}.json holds. Run it again on a "
            "quiet machine; if it stays, find what made it slower, or say why in benchmarks/profile.md and run "
            "`make bench`.",
            file=sys.stderr,
        )
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main())
