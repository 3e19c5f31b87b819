"""Scales: the places of values in a chart as percentages, and the round values for its ticks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

#: Round numbers of seconds above 10 s.
_ROUND_SECONDS = (10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)


@dataclass(frozen=True, slots=True)
class LinearScale:
    """A scale from ``least`` to ``greatest``, which differ."""

    least: float
    greatest: float

    def percent(self, value: float) -> float:
        """Return the place of a value: 0 for the least, 100 for the greatest."""
        return 100 * (value - self.least) / (self.greatest - self.least)

    def ticks(self, step: float) -> Iterator[float]:
        """Yield the multiples of a step within the scale."""
        number = math.ceil(self.least / step - 1e-9)
        while number * step <= self.greatest * (1 + 1e-9):
            yield number * step
            number += 1


@dataclass(frozen=True, slots=True)
class LogScale:
    """A logarithmic scale from ``least`` to ``greatest``. Both are positive, and they differ."""

    least: float
    greatest: float

    def percent(self, value: float) -> float:
        """Return the place of a positive value: 0 for the least, 100 for the greatest."""
        return 100 * math.log(value / self.least) / math.log(self.greatest / self.least)


def round_step(span: float, ticks: int) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, 50 … (or 0.5, 0.2 …) that cuts a span into at most this many steps."""
    least = span / ticks
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def round_seconds(span: float, ticks: int) -> float:
    """Return a round number of seconds, minutes or hours that cuts a span of seconds into at most this many steps."""
    least = span / ticks
    if least <= _ROUND_SECONDS[0]:
        return round_step(span, ticks)
    days = math.ceil(least / _ROUND_SECONDS[-1]) * _ROUND_SECONDS[-1]
    return next((seconds for seconds in _ROUND_SECONDS if seconds >= least), days)


def scale_to(greatest: float, ticks: int) -> tuple[LinearScale, float]:
    """Return a scale from 0 to the first tick at or above a value, and the step between ticks.

    If the value is 0, the scale ends at 1.
    """
    step = round_step(greatest or 1.0, ticks)
    return LinearScale(0, step * math.ceil((greatest or 1.0) / step - 1e-9)), step
