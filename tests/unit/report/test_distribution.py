"""Percentiles of a distribution are exact to 3 %, and its histogram counts each value once."""

from __future__ import annotations

import itertools
import random

import pyarrow as pa
import pytest

from producer.report.distribution import Distribution


def distribution(*columns: list[float | None]) -> Distribution:
    """Return the distribution of columns that are added one after another."""
    found = Distribution()
    for column in columns:
        found.add(pa.chunked_array([pa.array(column, pa.float32())]))
    return found


def test_percentiles_are_nearly_exact() -> None:
    """Percentiles differ by at most 3 % from those of the sorted values."""
    values = [random.Random(number).lognormvariate(0, 1.5) for number in range(5000)]
    found = distribution([*values[:2000]], [*values[2000:]])
    ordered = sorted(values)
    for share in (0.01, 0.5, 0.9, 0.99):
        assert found.percentile(share) == pytest.approx(ordered[int(share * len(ordered))], rel=0.03)
    assert found.mean == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_percentiles_of_equal_values_are_nearly_exact() -> None:
    """Percentiles differ by at most 3 % also if most values are at the start of a bin."""
    found = distribution([*[1.0] * 90, *[1000.0] * 10])
    assert [found.percentile(share) for share in (0.1, 0.5, 0.89)] == pytest.approx([1.0] * 3, rel=0.03)
    assert found.percentile(0.95) == pytest.approx(1000.0, rel=0.03)


def test_values_without_a_logarithm_are_left_out() -> None:
    """Null and zero mean that an image had no such phase."""
    found = distribution([None, 0.0, 2.0, None])
    assert (found.number, found.percentile(0.5), found.greatest) == (1, 2.0, 2.0)
    empty = distribution([None, 0.0])
    assert (empty.number, empty.mean, empty.percentile(0.5), empty.bars()) == (0, 0.0, 0, [])


def test_histogram_counts_each_value_once() -> None:
    """The bars of a histogram are few, adjoin each other, and contain all values."""
    bars = distribution([10.0**exponent for exponent in range(-6, 7)]).bars()
    assert sum(bar.number for bar in bars) == 13
    assert len(bars) <= 40
    assert all(one.greatest == pytest.approx(other.least) for one, other in itertools.pairwise(bars))
