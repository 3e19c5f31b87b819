"""The samples on the page are few, and every reason is among the failed images."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from producer.report.samples import Samples, spread
from tasks.model import Reason

_NAMES = (
    *("key", "url", "path", "status", "reason", "error_message", "http_status", "attempts", "fetch_seconds", "worker"),
    *("bytes", "width", "height", "format", "failed", "started", "finished", "queued_seconds", "connect_seconds"),
    *("first_byte_seconds", "body_seconds", "verify_seconds", "save_seconds"),
)


def failed(start: int, *reasons: str) -> pa.Table:
    """Return rows of failed images with these reasons. Their keys begin at a number."""
    rows: list[dict[str, Any]] = [
        {**dict.fromkeys(_NAMES), "key": str(start + place), "reason": reason, "failed": 1, "fetch_seconds": 0.1}
        for place, reason in enumerate(reasons)
    ]
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize("number", [1, 4, 5, len(Reason)])
def test_each_reason_has_failed_images(number: int) -> None:
    """If many images failed for many reasons, each reason keeps its share of the 1,000 rows, in the order of the list.

    A reason with few images, such as the last one, keeps all of them.
    """
    frequent, samples = list(Reason)[:number], Samples()
    for batch in range(3):
        samples.add(failed(10_000 + 1000 * batch, *(frequent * 100)[: number * 100]))
    samples.add(failed(100_000, "rare", "rare"))
    counts = Counter(row["reason"] for row in samples.failed)
    assert counts.pop("rare") == 2
    assert set(counts.values()) == {samples.most_of_a_reason} == {min(250, 998 // number)}
    keys = [int(row["key"]) for row in samples.failed]
    assert keys == sorted(keys)


def test_items_are_spread() -> None:
    """All items are chosen, or as many as allowed at equal distances."""
    assert spread([1, 2, 3], 3) == [1, 2, 3]
    assert spread(list(range(10)), 3) == [0, 3, 6]
    assert spread([], 3) == []
