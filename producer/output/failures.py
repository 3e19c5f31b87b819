"""The failed images of a run, as rows of its manifests, and as the lines of the file ``failures.jsonl``.

When a command completes a run, it writes this file. A command that continues a complete run removes the file when it
sends its first image. So if the file exists, it matches the manifests.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from producer.output.run_file import FAILURES_NAME, RunFile
from producer.output.shard_files import finished_shards, load_manifest, planned_shards
from tasks.outputs.samples import metadata
from tasks.storage import manifest
from tasks.storage.parallel import parallel_map
from tasks.storage.store import Store

#: The columns of a failed image, in order. The other columns of the URL list follow.
COLUMNS = (
    *("key", "url", "status", "reason", "error_message", "http_status", "final_url"),
    *("attempts", "fetch_seconds", "finished_at", "worker"),
)


@dataclass(frozen=True, slots=True)
class FailedImages:
    """The failed images of the finished shards of a run."""

    run_id: str
    store: Store
    #: The numbers of the finished shards.
    shards: Sequence[int]
    #: The names of the columns, in order.
    columns: Sequence[str]

    @classmethod
    def load(cls, record: RunFile, store: Store, shards: Sequence[int]) -> Self:
        """Return the failed images of these shards of a run.

        Raises:
            CommandError: a manifest is missing or damaged.
        """
        columns = list(COLUMNS)
        if shards:
            # All manifests of a run have the same columns.
            names = load_manifest(shards[0], store, record.id, None).column_names
            columns += [name for name in names if name not in manifest.OUTCOME_COLUMNS and name not in COLUMNS]
        return cls(record.id, store, shards, columns)

    def rows(self, reasons: Collection[str] = ()) -> Iterator[pa.Table]:
        """Yield the rows of each shard, in the order of the URL list. One manifest is in memory at a time.

        Args:
            reasons: the reasons of the failures to select; empty for all failures.

        Raises:
            CommandError: a manifest is missing or damaged.
        """

        def select(shard: int) -> pa.Table:
            table = load_manifest(shard, self.store, self.run_id, self.columns).select(self.columns)
            if reasons:
                return table.filter(pc.is_in(table["reason"], value_set=pa.array(sorted(reasons), pa.string())))
            return table.filter(pc.not_equal(table["status"], pa.scalar("success")))

        return parallel_map(select, self.shards, self.store)


def find_failed(record: RunFile, store: Store) -> FailedImages:
    """Return the failed images of a run. If the run is incomplete, these are the images of its finished shards.

    Raises:
        StorageError: the folder can't be listed.
        CommandError: a manifest is damaged.
    """
    return FailedImages.load(record, store, finished_shards(planned_shards(record, store), store))


def json_lines(rows: pa.Table) -> Iterator[bytes]:
    """Yield each row as a line with a JSON object in UTF-8."""
    for line in metadata(rows):
        yield line + b"\n"


def write(record: RunFile, store: Store, shards: int) -> None:
    """Write ``failures.jsonl``: the failed images of the first ``shards`` shards, a line for each.

    The file is either written completely or not at all.

    Raises:
        StorageError: the file can't be written. An existing file is unchanged.
        CommandError: a manifest is missing or damaged.
    """
    found = FailedImages.load(record, store, range(shards))
    store.replace_from(FAILURES_NAME, (line for rows in found.rows() for line in json_lines(rows)))
