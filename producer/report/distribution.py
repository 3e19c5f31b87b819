"""Count positive values in bins on a logarithmic scale, for percentiles and histograms."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute

from producer.charts.histograms import Bar

#: The annotations of pyarrow lack functions of a column and a number.
pc: Any = pyarrow.compute
#: The number of bins for a factor of ten. A bin ends 2.9 % above its start, so a percentile is off by at most 3 %.
_BINS_PER_DECADE = 80
#: How many bins one bar of a histogram may cover, and the maximum number of bars.
_BINS_PER_BAR, _MOST_BARS = (2, 4, 8, 10, 16, 20, 40, 80), 40


class Distribution:
    """The distribution of positive values. Its memory does not grow with their number."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.number, self.sum = 0, 0.0
        self.least, self.greatest = math.inf, 0.0

    def add(self, values: Any) -> None:
        """Count the values of a column of numbers. Null, zero and negative values are left out."""
        values = pc.cast(values, pa.float64())
        values = pc.filter(values, pc.fill_null(pc.greater(values, 0.0), False))
        if not len(values):
            return
        bins = pc.cast(pc.floor(pc.multiply(pc.log10(values), _BINS_PER_DECADE)), pa.int32())
        self._bins.update({item["values"]: item["counts"] for item in pc.value_counts(bins).to_pylist()})
        self.number += len(values)
        self.sum += pc.sum(values).as_py()
        self.least = min(self.least, pc.min(values).as_py())
        self.greatest = max(self.greatest, pc.max(values).as_py())

    @property
    def mean(self) -> float:
        """The mean of the values; 0 if there are none."""
        return self.sum / self.number if self.number else 0.0

    def percentile(self, share: float) -> float:
        """Return the value that this share of the values (0 to 1) does not exceed; 0 if there are no values."""
        before, wanted = 0, share * self.number
        for bin_, number in sorted(self._bins.items()):
            if before + number >= wanted:
                value = _start(bin_ + (wanted - before) / number)
                return min(max(value, self.least), self.greatest)
            before += number
        return self.greatest

    def bars(self) -> list[Bar]:
        """Return the bars of a histogram without gaps, in the order of their values; empty if there are no values."""
        if not self._bins:
            return []
        least, greatest = min(self._bins), max(self._bins)
        width = next(
            (size for size in _BINS_PER_BAR if greatest // size - least // size < _MOST_BARS), _BINS_PER_BAR[-1]
        )
        numbers: Counter[int] = Counter()
        for bin_, number in self._bins.items():
            numbers[bin_ // width] += number
        places = range(least // width, greatest // width + 1)
        return [Bar(_start(place * width), _start((place + 1) * width), numbers[place]) for place in places]


def _start(bin_: float) -> float:
    return float(10 ** (bin_ / _BINS_PER_DECADE))
