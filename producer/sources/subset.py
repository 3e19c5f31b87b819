"""Choose some rows of a URL list: a part of it, and a random sample of that part."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain, islice

from producer.formatting import pluralized
from producer.sources.options import SourceOptions
from producer.sources.reader import Row
from tasks.errors import UsageError


def choose_rows(rows: Iterator[Row], options: SourceOptions, total: int, list_name: str) -> Iterator[Row]:
    """Return the chosen rows, in the order of the list.

    Args:
        rows: all rows.
        options: the choice.
        total: the number of rows in the chosen part of the list. This number is needed only for a sample.
        list_name: the list's name, for messages.

    Raises:
        UsageError: the options skip all rows.
    """
    chosen = part(rows, options, list_name)
    return chosen if options.sample is None else _sample(chosen, options.sample, total, options.seed)


def part(rows: Iterator[Row], options: SourceOptions, list_name: str) -> Iterator[Row]:
    """Return the part of the rows from which a sample is taken.

    Raises:
        UsageError: the options skip all rows.
    """
    skipped = sum(1 for _ in islice(rows, options.offset))
    first = list(islice(rows, 1))
    if skipped and not first:
        raise UsageError(
            f"{list_name} has no rows after the skipped ones",
            f"it has {pluralized(skipped, 'row')}, and --offset is {options.offset:,}",
            "Use a smaller --offset.",
        )
    return islice(chain(first, rows), options.limit)


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
