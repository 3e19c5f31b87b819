"""Explain the difference between threads and the fleet, from the times of this comparison. No I/O."""

from __future__ import annotations

from producer.charts.texts import format_seconds
from producer.comparison.comparison import Comparison
from producer.comparison.downloads import TimeShares, leads_from
from producer.comparison.sweep import Sweep
from producer.comparison.way import FLEET, THREADS, Way
from producer.formatting import pluralized

#: Two ways whose times differ by less than this share are called equally fast.
_EQUAL_SHARE = 0.01


def explain(comparison: Comparison) -> list[str]:
    """Return sentences that say why the fleet took more or less time than the threads.

    The list is empty if the times of the downloads are unknown.
    """
    threads, fleet = comparison.way(THREADS), comparison.way(FLEET)
    ours, theirs = fleet.time_shares, threads.time_shares
    if ours is None or theirs is None:
        return []
    return [
        f"{_describe_difference(fleet, threads)} {_describe_downloads(ours, theirs)}",
        _describe_queue(ours, theirs),
        _describe_lead(fleet, threads) if comparison.sweep is None else _describe_lengths(comparison.sweep),
    ]


def _describe_difference(fleet: Way, threads: Way) -> str:
    difference = fleet.wall_seconds - threads.wall_seconds
    if abs(difference) < _EQUAL_SHARE * threads.wall_seconds:
        return "The fleet and the threads took the same time."
    longer = "longer" if difference > 0 else "less"
    return f"The fleet took {format_seconds(abs(difference))} {longer} than the threads."


def _describe_downloads(fleet: TimeShares, threads: TimeShares) -> str:
    return (
        f"Its downloads took {format_seconds(fleet.downloading)}; those of the threads took "
        f"{format_seconds(threads.downloading)}."
    )


def _describe_queue(fleet: TimeShares, threads: TimeShares) -> str:
    return (
        f"The fleet's queue cost {format_seconds(fleet.before)} before the first download and "
        f"{format_seconds(fleet.after)} after the last. The threads needed {format_seconds(threads.outside)} for both."
    )


def _describe_lead(fleet: Way, threads: Way) -> str:
    leads = leads_from(fleet.downloads, threads.downloads)
    if leads is None:
        return "The threads were ahead at the end of the list. To measure when a fleet is faster, use --sweep."
    if fleet.wall_seconds >= threads.wall_seconds:
        return (
            f"The fleet's downloads were ahead from image {leads:,} on. The list is too short to make up for the queue."
        )
    return f"The fleet was ahead from image {leads:,} on."


def _describe_lengths(sweep: Sweep) -> str:
    leads, longest = sweep.fleet_leads_from, sweep.lengths[-1].images
    if leads is None:
        return f"Up to {pluralized(longest, 'image')}, the threads were at least as fast as the fleet."
    shorter = [point for point in sweep.lengths if point.images < leads]
    if not shorter:
        return f"The fleet was faster at every measured length of the list, from {pluralized(leads, 'image')} on."
    return (
        f"The fleet was faster from {pluralized(leads, 'image')} on. With the first {shorter[-1].images:,} images, it "
        f"took {format_seconds(shorter[-1].fleet_seconds)}; the threads took "
        f"{format_seconds(shorter[-1].threads_seconds)}."
    )
