"""A comparison says from its own times why the fleet took more or less time than the threads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from producer.comparison.comparison import Comparison
from producer.comparison.downloads import Download
from producer.comparison.explanation import explain
from producer.comparison.sweep import LengthPoint, Sweep
from producer.comparison.way import FLEET, ONE_BY_ONE, THREADS, Way
from producer.output.summary import Summary

_DONE = Summary({"success": 2}, {}, 1, 1)
_ONE_BY_ONE = Way(ONE_BY_ONE, 1, 0.6, _DONE, Path("/out"))
_THREADS = Way(
    *(THREADS, 2, 0.35, _DONE, Path("/out")),
    downloads=(Download(0.01, 0.31, "", True), Download(0.01, 0.32, "", True)),
)
_FLEET = Way(
    *(FLEET, 32, 0.4, _DONE, Path("/out")),
    downloads=(Download(0.025, 0.34, "worker-1", True), Download(0.03, 0.345, "worker-2", True)),
)


def test_slower_fleet() -> None:
    """The queue's cost before and after the downloads is that of this comparison."""
    assert explain(Comparison("list.txt", (_ONE_BY_ONE, _THREADS, _FLEET), 1.0)) == [
        "The fleet took 50.0 ms longer than the threads. Its downloads took 320 ms; those of the threads took 310 ms.",
        "The fleet's queue cost 25.0 ms before the first download and 55.0 ms after the last. "
        "The threads needed 40.0 ms for both.",
        "The threads were ahead at the end of the list. To measure when a fleet is faster, use --sweep.",
    ]


def test_faster_fleet() -> None:
    """If the fleet overtakes the threads, the text names the image."""
    fleet = replace(
        _FLEET,
        wall_seconds=0.31,
        downloads=(Download(0.02, 0.315, "worker-1", True), Download(0.02, 0.3, "worker-2", True)),
    )
    first, _, last = explain(Comparison("list.txt", (_ONE_BY_ONE, _THREADS, fleet), 1.0))
    assert first.startswith("The fleet took 40.0 ms less than the threads. ")
    assert last == "The fleet was ahead from image 2 on."
    last = explain(Comparison("list.txt", (_ONE_BY_ONE, _THREADS, replace(fleet, wall_seconds=0.4)), 1.0))[-1]
    assert last.startswith("The fleet's downloads were ahead from image 2 on. The list is too short")


def test_lengths_of_a_sweep() -> None:
    """With a sweep, the last sentence is about the measured lengths of the list."""
    slow, fast = LengthPoint(10, 0.05, 0.07), LengthPoint(30, 0.15, 0.1)
    for lengths, text in (
        (
            (slow, fast),
            "The fleet was faster from 30 images on. With the first 10 images, it took 70.0 ms; the threads ",
        ),
        ((fast,), "The fleet was faster at every measured length of the list, from 30 images on."),
        ((slow,), "Up to 10 images, the threads were at least as fast as the fleet."),
    ):
        sweep = Sweep((), (), lengths)
        assert explain(Comparison("list.txt", (_ONE_BY_ONE, _THREADS, _FLEET), 1.0, sweep))[-1].startswith(text)


def test_equal_ways() -> None:
    """A difference of less than one per cent is not called a difference."""
    fleet = replace(_FLEET, wall_seconds=0.351)
    first = explain(Comparison("list.txt", (_ONE_BY_ONE, _THREADS, fleet), 1.0))[0]
    assert first.startswith("The fleet and the threads took the same time. ")


def test_unknown_times() -> None:
    """Without the times of the downloads, nothing is claimed."""
    assert explain(Comparison("list.txt", (_ONE_BY_ONE, _THREADS, replace(_FLEET, downloads=())), 1.0)) == []
