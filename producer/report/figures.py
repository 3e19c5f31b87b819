"""The figures of a run that the report shows, from one pass over its manifests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute

from producer.output.run_file import RunFile, State
from producer.output.shard_files import finished_shards, planned_shards
from producer.output.summary import Summary, summarise
from producer.report.activity import Activity, ActivityCounter
from producer.report.distribution import Distribution
from producer.report.manifest_rows import read_batches
from producer.report.samples import Samples
from producer.report.tallies import HostTallies, ImageTallies, longest_sides
from tasks.storage.manifest import PHASE_COLUMNS
from tasks.storage.store import Store

#: The annotations of pyarrow lack functions of a column and a number.
pc: Any = pyarrow.compute
#: The clocks of workers may be behind the producer's clock by this many seconds.
_CLOCK_MARGIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a run. Everything that is counted covers the shards that have a manifest."""

    record: RunFile
    summary: Summary
    activity: Activity
    #: The seconds that images spent in each phase, by the phase's column, and in total.
    phases: dict[str, Distribution]
    total_seconds: Distribution
    file_bytes: Distribution
    #: The larger one of width and height, in pixels.
    sides: Distribution
    hosts: HostTallies
    images: ImageTallies
    samples: Samples
    #: Images that a worker found saved after a failure, and images with more than one attempt.
    recovered: int
    retried: int

    @property
    def totals(self) -> dict[str, Any]:
        """The figures of the command that completed the run; empty if the run is not complete."""
        return (self.record.totals or {}) if self.record.state is State.COMPLETE else {}

    @property
    def wall_seconds(self) -> float:
        """The wall-clock time of the command that completed the run; so far, if the run is not complete."""
        return float(self.totals.get("wall_seconds", 0.0)) or self.activity.seconds

    @property
    def images_timed(self) -> int:
        """The number of images finished within `wall_seconds`."""
        return int(self.totals.get("fetched", self.summary.total))


def collect_figures(record: RunFile, store: Store) -> Figures:
    """Read the manifests of a run, and return its figures.

    Raises:
        CommandError: a manifest is damaged.
        StorageError: the folder can't be listed.
    """
    shards = finished_shards(planned_shards(record, store), store)
    collector = _Collector(_last_command_start(record))
    summary = summarise(collector.watch(read_batches(shards, record, store)))
    return collector.figures(record, replace(summary, shards=len(shards)))


def _last_command_start(record: RunFile) -> float:
    """Return when the command that completed the run started, in seconds since the epoch; 0 for the first command."""
    if record.state is not State.COMPLETE or not (record.epoch or record.revision) or record.finished_at is None:
        return 0.0
    return record.finished_at - float((record.totals or {}).get("wall_seconds", 0.0)) - _CLOCK_MARGIN_SECONDS


class _Collector:
    def __init__(self, since: float) -> None:
        self._activity = ActivityCounter(since)
        self._phases = {name: Distribution() for name in PHASE_COLUMNS}
        self._seconds, self._bytes, self._sides = Distribution(), Distribution(), Distribution()
        self._hosts, self._images, self._samples = HostTallies(), ImageTallies(), Samples()
        self._recovered = self._retried = 0

    def watch(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Yield the batches, and count each one."""
        for rows in batches:
            self._add(rows)
            yield rows

    def _add(self, rows: Any) -> None:
        self._activity.add(rows)
        for name, distribution in self._phases.items():
            distribution.add(rows[name])
        self._seconds.add(rows["fetch_seconds"])
        saved = rows.filter(pc.equal(rows["failed"], 0))
        self._bytes.add(saved["bytes"])
        self._sides.add(longest_sides(saved))
        self._hosts.add(rows)
        self._images.add(saved)
        self._samples.add(rows)
        self._recovered += pc.sum(rows["recovered"]).as_py() or 0
        self._retried += pc.sum(pc.greater(rows["attempts"], 1)).as_py() or 0

    def figures(self, record: RunFile, summary: Summary) -> Figures:
        return Figures(
            record=record,
            summary=summary,
            activity=self._activity.result(),
            phases=self._phases,
            total_seconds=self._seconds,
            file_bytes=self._bytes,
            sides=self._sides,
            hosts=self._hosts,
            images=self._images,
            samples=self._samples,
            recovered=self._recovered,
            retried=self._retried,
        )
