"""Choose some rows of a URL list: a part of it, and a random sample of that part."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from producer.sources.options import SourceOptions
from producer.sources.reader import Row


def choose_rows(rows: Iterator[Row], options: SourceOptions, total: int) -> Iterator[Row]:
    """Return the chosen rows, in the order of the list.

    Args:
        rows: all rows.
        options: the choice.
        total: the number of rows in the chosen part of the list. This number is needed only for a sample.
    """
    chosen = part(rows, options)
    return chosen if options.sample is None else _sample(chosen, options.sample, total, options.seed)


def part(rows: Iterator[Row], options: SourceOptions) -> Iterator[Row]:
    """Return the part of the rows from which a sample is taken."""
    if options.offset == 0 and options.limit is None:
        return rows
    end = None if options.limit is None else options.offset + options.limit
    return islice(rows, options.offset, end)


def _sample(rows: Iterator[Row], size: int, total: int, seed: int) -> Iterator[Row]:
    """Yield ``size`` rows, chosen from ``total`` rows. Every possible sample is equally likely.

    This is algorithm S of Knuth, The Art of Computer Programming, volume 2, 3.4.2. It needs no memory.
    """
    # The same seed gives the same sample, so that `resume` finds the same rows again.
    generator = random.Random(seed)  # noqa: S311  # no secret
    missing = size
    for left, row in zip(range(total, 0, -1), rows, strict=False):
        if missing == 0:
            return
        if generator.random() * left < missing:
            missing -= 1
            yield row
