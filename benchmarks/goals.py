"""The goals of the benchmarks, and the check whether the results reach these goals.

To add a goal for a result of ``python -m benchmarks``, add a `Goal` here. A result of another command can contain its
own goals, as a list ``"goals"`` in the result's JSON. Each object in this list has the fields of a `Finding`, for
example ::

    {"about": "Redis, peak memory, 10^6 images to 10^5", "found": {"median": 1.04, "least": 1.03, "most": 1.05},
     "bound": 1.1, "at_least": false, "unit": " x", "digits": 2}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import workloads
from benchmarks.records import spread
from benchmarks.workloads import BASE, IMAGEFLEET, PLAIN_CELERY

Result = Mapping[str, Any]
Spread = Mapping[str, float]


@dataclass(frozen=True)
class Finding:
    """A goal, its measured values (median, lowest and highest), and the unit to append to the numbers.

    ``found`` has the measured values, or is None if nothing was measured.
    """

    about: str
    found: Spread | None
    bound: float
    at_least: bool
    unit: str
    digits: int

    @property
    def goal(self) -> str:
        """The goal as text."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:,g}{self.unit}"

    @property
    def text(self) -> str:
        """The numbers as text."""
        if self.found is None:
            return "not measured"
        median, least, most = (f"{self.found[name]:,.{self.digits}f}" for name in ("median", "least", "most"))
        return f"{median}{self.unit} ({least} to {most})"

    @property
    def verdict(self) -> str:
        """A text that says whether the median reaches the goal."""
        if self.found is None:
            return "-"
        median = self.found["median"]
        return "reached" if (median >= self.bound if self.at_least else median <= self.bound) else "**not reached**"


@dataclass(frozen=True)
class Goal:
    """A goal for one result, and a function that reads the measured numbers from the result."""

    about: str
    result: str
    found: Callable[[Result], Spread | None]
    bound: float
    at_least: bool = True
    unit: str = " x"
    digits: int = 2

    def finding(self, result: Result | None) -> Finding:
        """Return the goal with its measured value, which is None if the result or one of its ways is missing."""
        found = None if result is None else self.found(result)
        return Finding(self.about, found, self.bound, self.at_least, self.unit, self.digits)


def rates(result: Result, way: str) -> list[float]:
    """Return a way's images per second in each turn, measured from the start of its process to the exit."""
    return [turn["images"] / turn["seconds"] for turn in result["ways"][way]["turns"]]


def ratio(result: Result, way: str, base: str) -> Spread | None:
    """Return the ratio of two ways' speeds.

    The ratio is computed for each turn, because a disturbance of a turn affects both ways.
    """
    if not {way, base} <= result["ways"].keys():
        return None
    pairs = zip(rates(result, way), rates(result, base), strict=True)
    return spread([one / other for one, other in pairs])


def extra_time(result: Result, way: str, base: str) -> Spread | None:
    """Return how much more time a way takes than another way, in percent. It is computed for each turn, too."""
    found = ratio(result, base, way)
    return None if found is None else {name: 100 * (value - 1) for name, value in found.items()}


def cpu(result: Result, way: str, role: str | None = None) -> Spread:
    """Return the CPU time per image in ms, for one role or for all roles together."""
    turns = [turn["cpu_ms"] for turn in result["ways"][way]["turns"]]
    return spread([sum(turn.values()) if role is None else turn.get(role, 0.0) for turn in turns])


def _percent(found: Spread) -> Spread:
    return {name: 100 * value for name, value in found.items()}


def _ratio_to(base: str) -> Callable[[Result], Spread | None]:
    return partial(ratio, way=IMAGEFLEET, base=base)


def _planned(result: Result) -> dict[str, Mapping[str, float]]:
    """Return what was measured for each format of a list. Formats that failed are left out."""
    measured = {name: ways[IMAGEFLEET] for name, ways in result["formats"].items()}
    return {name: facts for name, facts in measured.items() if "error" not in facts}


def _planning_rate(result: Result, name: str) -> Spread | None:
    facts = _planned(result).get(name)
    return None if facts is None else spread([facts["rows"] / facts["cpu_seconds"]])


def _planning_memory(result: Result) -> Spread | None:
    """Return the highest peak of memory of all formats."""
    peaks = [facts["peak_mib"] for facts in _planned(result).values()]
    return spread([max(peaks)]) if peaks else None


def _planning_goal(name: str, about: str, bound: float) -> Goal:
    found = partial(_planning_rate, name=name)
    return Goal(f"planning a list in {about}, one core", "planning", found, bound, unit=" rows/s", digits=0)


def _extra_time_goal(result: str, way: str, base: str, about: str, bound: float) -> Goal:
    found = partial(extra_time, way=way, base=base)
    return Goal(f"{about}: extra time", result, found, bound, at_least=False, unit=" %", digits=1)


def _packing_goal(way: str, about: str) -> Goal:
    return _extra_time_goal(workloads.OUTPUTS.name, way, workloads.FILES, about, 10)


_SMALL = workloads.HTTP_SMALL
GOALS = (
    Goal(_SMALL.about, _SMALL.name, _ratio_to(BASE), 1.25),
    Goal(workloads.HTTPS_SMALL.about, workloads.HTTPS_SMALL.name, _ratio_to(BASE), 10),
    *(Goal(one.about, one.name, _ratio_to(BASE), 1.5) for one in (workloads.RESIZE, *workloads.RESIZE_MODES)),
    Goal(workloads.HTTP_LARGE.about, workloads.HTTP_LARGE.name, _ratio_to(BASE), 1.25),
    Goal("plain Celery, 15 KB", _SMALL.name, _ratio_to(PLAIN_CELERY), 2.5),
    Goal(
        "200 ms latency, 64 slots: share of the ideal rate",
        "latency",
        lambda result: _percent(result["of_ideal"]),
        95,
        unit=" %",
        digits=1,
    ),
    Goal(
        "submission, one core",
        "submission",
        lambda result: result["tasks_per_second"],
        7000,
        unit=" tasks/s",
        digits=0,
    ),
    Goal(
        "Redis CPU per image",
        _SMALL.name,
        partial(cpu, way=IMAGEFLEET, role="redis"),
        0.20,
        at_least=False,
        unit=" ms",
    ),
    Goal(
        "total CPU per image, 15 KB http",
        _SMALL.name,
        partial(cpu, way=IMAGEFLEET),
        1.0,
        at_least=False,
        unit=" ms",
    ),
    _planning_goal("parquet", "Parquet", 200_000),
    _planning_goal("csv", "CSV", 100_000),
    Goal(
        "planning 5 million rows of any format, peak memory",
        "planning",
        _planning_memory,
        # 300 MB
        286,
        at_least=False,
        unit=" MiB",
        digits=0,
    ),
    _packing_goal("webdataset", "tar shards instead of files"),
    _packing_goal("parquet", "Parquet instead of files"),
    _extra_time_goal(
        workloads.OBSERVATION.name, workloads.OBSERVED, workloads.UNOBSERVED, "report and metrics, 15 KB http", 3
    ),
)


def findings(results: Mapping[str, Result]) -> Iterator[Finding]:
    """Yield each goal with its measured value; ``results`` maps names to results."""
    for goal in GOALS:
        yield goal.finding(results.get(goal.result))
    for result in results.values():
        for own in result.get("goals", ()):
            yield Finding(**own)
