"""The activity of workers adds up to the images, in bins that become wider as the run becomes longer."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from producer.report.activity import ActivityCounter


def rows(*images: tuple[str, float, float, bool]) -> pa.Table:
    """Return rows of images: worker, start and end in seconds, and whether the image failed."""
    return pa.table(
        {
            "worker": [image[0] for image in images],
            "started": pa.array([round(image[1] * 1000) for image in images], pa.int64()),
            "finished": pa.array([round(image[2] * 1000) for image in images], pa.int64()),
            "failed": pa.array([int(image[3]) for image in images], pa.int64()),
            "bytes": pa.array([100] * len(images), pa.int64()),
        }
    )


def test_counts_each_worker() -> None:
    """Each worker has its images, failures, bytes and times; the bins of all workers have the same places."""
    counter = ActivityCounter()
    counter.add(rows(("a", 100.0, 100.2, False), ("b", 100.1, 100.4, True)))
    counter.add(rows(("a", 100.2, 100.3, False)))
    activity = counter.result()
    first, second = activity.workers
    assert (first.name, first.images, first.failed, first.bytes) == ("a", 2, 0, 200)
    assert (second.name, second.images, second.failed) == ("b", 1, 1)
    assert (first.first, first.last, second.last) == pytest.approx((0.0, 0.3, 0.4), abs=0.011)
    assert (activity.start, activity.seconds) == pytest.approx((100.0, 0.41), abs=0.011)
    assert sum(activity.total("finished")) == 3
    assert sum(activity.total("bytes")) == 300


def test_number_in_flight_is_that_of_the_images() -> None:
    """While two downloads overlap, two are in flight; at the end, none is."""
    counter = ActivityCounter()
    counter.add(rows(("a", 0.0, 1.0, False), ("b", 0.5, 1.5, False)))
    busy = counter.result().total("busy")
    assert [busy[round(seconds * 100)] for seconds in (0.25, 0.75, 1.25)] == [1, 2, 1]
    assert busy[-1] < 1


def test_long_run_keeps_few_bins() -> None:
    """A run of any length has at most 400 bins, and no image is lost when bins are merged."""
    counter, source = ActivityCounter(), random.Random(1)
    for _ in range(20):
        ends = [source.uniform(1000, 90_000) for _ in range(50)]
        counter.add(rows(*(("a", end - 1, end, False) for end in ends)))
    activity = counter.result()
    assert activity.bins <= 400
    assert sum(activity.total("finished")) == activity.workers[0].images == 1000
    assert activity.seconds == pytest.approx(89_000, rel=0.02)


def test_images_of_earlier_commands_are_only_counted() -> None:
    """Images that were finished before the last command are not in the curves."""
    counter = ActivityCounter(since=1000.0)
    counter.add(rows(("a", 1.0, 2.0, False), ("a", 1000.5, 1001.0, False)))
    activity = counter.result()
    assert (activity.earlier, activity.workers[0].images) == (1, 1)
    assert activity.seconds < 1


def test_no_image_gives_no_bins() -> None:
    """Before the first image has finished, there is nothing to show."""
    assert ActivityCounter().result().bins == 0
