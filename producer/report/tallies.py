"""Count images by host, format and size in pixels. The number of different values that are kept is limited."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute

#: The annotations of pyarrow lack functions of a column and a number.
pc: Any = pyarrow.compute
#: The maximum number of different hosts and sizes that are counted separately.
_MOST_VALUES = 100_000


@dataclass(slots=True)
class HostTally:
    """What came of the images of a host."""

    name: str
    images: int = 0
    bytes: int = 0
    #: Seconds of all downloads together.
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """The number of failed images."""
        return self.reasons.total()


class HostTallies:
    """The images of each host. If there are too many hosts, the later ones are counted together."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostTally] = {}
        #: The images of all hosts that are not in `hosts`.
        self.others = HostTally("(other hosts)")

    def add(self, rows: pa.Table) -> None:
        """Count a batch of rows, as `read_batches` yields them."""
        sums: Any = [("failed", "count"), ("bytes", "sum"), ("fetch_seconds", "sum")]
        groups = rows.group_by(["host", "reason"], use_threads=False).aggregate(sums)
        for name, reason, number, size, seconds in zip(
            *(groups[column].to_pylist() for column in ("host", "reason", "failed_count", "bytes_sum")),
            groups["fetch_seconds_sum"].to_pylist(),
            strict=True,
        ):
            tally = self._tally(name)
            tally.images += number
            tally.bytes += size
            tally.seconds += seconds or 0.0
            if reason is not None:
                tally.reasons[reason] += number

    def most(self, number: int) -> list[HostTally]:
        """Return the hosts with most images and those with most failures, at most this many of each.

        The hosts with most images come first.
        """
        every = self.hosts.values()
        by_images = sorted(every, key=lambda host: (-host.images, host.name))[:number]
        by_failures = sorted((host for host in every if host.failed), key=lambda host: (-host.failed, host.name))
        names = {host.name: host for host in (*by_images, *by_failures[:number])}
        return sorted(names.values(), key=lambda host: (-host.images, host.name))

    def _tally(self, name: str) -> HostTally:
        found = self.hosts.get(name)
        if found is None:
            if len(self.hosts) >= _MOST_VALUES:
                return self.others
            found = self.hosts[name] = HostTally(name)
        return found


class ImageTallies:
    """Saved images by format, and by width and height."""

    def __init__(self) -> None:
        self.formats: Counter[str] = Counter()
        self.format_bytes: Counter[str] = Counter()
        #: By width and height in pixels. If there are too many different sizes, later ones are left out.
        self.sizes: Counter[tuple[int, int]] = Counter()

    def add(self, saved: pa.Table) -> None:
        """Count the saved images of a batch."""
        for row in _groups(saved, ["format"], [("failed", "count"), ("bytes", "sum")]):
            name = row["format"] or "unknown"
            self.formats[name] += row["failed_count"]
            self.format_bytes[name] += row["bytes_sum"]
        for row in _groups(saved, ["width", "height"], [("failed", "count")]):
            size = (row["width"], row["height"])
            if None not in size and (size in self.sizes or len(self.sizes) < _MOST_VALUES):
                self.sizes[size] += row["failed_count"]


def longest_sides(saved: pa.Table) -> Any:
    """Return the larger one of width and height of each saved image, in pixels."""
    return pc.max_element_wise(saved["width"], saved["height"])


def _groups(rows: pa.Table, keys: list[str], sums: Any) -> list[dict[str, Any]]:
    return rows.group_by(keys, use_threads=False).aggregate(sums).to_pylist()
