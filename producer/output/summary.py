"""Compute the totals of a run from its manifests. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

#: The manifest columns needed for a Summary.
COLUMNS = ["status", "reason", "bytes", "http_status"]
_UNCHANGED = 304


@dataclass(frozen=True, slots=True)
class Summary:
    """The number of images by status and by reason, and the number of saved bytes."""

    statuses: dict[str, int]
    reasons: dict[str, int]
    bytes: int
    shards: int
    #: The number of images reused from a previous run, because their servers reported them as unchanged.
    unchanged: int = 0

    @property
    def total(self) -> int:
        """The number of all images."""
        return sum(self.statuses.values())

    @property
    def success(self) -> int:
        """The number of saved images."""
        return self.statuses.get("success", 0)

    @property
    def failed(self) -> int:
        """The number of images that were not saved."""
        return self.total - self.success


def summarise(manifests: Iterable[pa.Table]) -> Summary:
    """Return the Summary of a run. Its manifests are read one at a time.

    Each manifest must have at least the columns `COLUMNS`.
    """
    statuses: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    size = shards = unchanged = 0
    for table in manifests:
        shards += 1
        statuses.update(_counts(table["status"]))
        reasons.update(_counts(table["reason"]))
        size += pc.sum(table["bytes"]).as_py() or 0
        # With an expression such as `pc.field("status") == "success"`, Arrow would start threads.
        saved = table.filter(pc.equal(table["status"], pa.scalar("success")))
        unchanged += saved["http_status"].to_pylist().count(_UNCHANGED)
    return Summary(dict(statuses.most_common()), dict(reasons.most_common()), size, shards, unchanged)


def _counts(column: Any) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in column.drop_null().value_counts().to_pylist()}
