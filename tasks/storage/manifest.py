"""Encode and decode a shard's manifest. The manifests are the lasting record of a run. No I/O.

A manifest is a Parquet file with one row for each request, in index order: the URL list's own columns (``url`` first),
then the columns of an Outcome. A column that img2dataset also writes has the same meaning here as in img2dataset.
Unknown values are null.

To add a column, add a field to `Outcome` in ``tasks/model.py``, and its type to `_TYPES` here. Only the field
``phases`` has several columns: one with the seconds of each phase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from tasks.model import OUTCOME_FIELDS, Outcome, shard_name
from tasks.phases import PHASE_NAMES
from tasks.storage import shard_parquet
from tasks.storage.shard_parquet import PLAN_ONLY_COLUMNS, CorruptShardFileError, ShardRef

_TYPES: dict[str, pa.DataType] = {
    "width": pa.int32(),
    "height": pa.int32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
    "bytes": pa.int64(),
    "http_status": pa.int16(),
    "attempts": pa.int16(),
    "fetch_seconds": pa.float64(),
    "finished_at": pa.timestamp("ms", "UTC"),
    "recovered": pa.bool_(),
    "tls_unverified": pa.bool_(),
}
#: The columns of the field ``phases``: the seconds of each phase.
PHASE_COLUMNS = tuple(f"{name}_seconds" for name in PHASE_NAMES)
_PHASES = "phases"
#: The columns of an Outcome, in the order of a manifest.
OUTCOME_COLUMNS = (*(field for field in OUTCOME_FIELDS if field != _PHASES), *PHASE_COLUMNS)


class CorruptManifestError(CorruptShardFileError):
    """A manifest is damaged, or belongs to another run or shard."""


def name(shard: int) -> str:
    """Return the name of a shard's manifest, relative to the run's folder."""
    return f"{shard_name(shard)}.parquet"


def stats_name(shard: int) -> str:
    """Return the name of a shard's stats file, relative to the run's folder."""
    return f"{shard_name(shard)}_stats.json"


def encode(plan: pa.Table, outcomes: Sequence[Outcome], ref: ShardRef) -> bytes:
    """Return the Parquet file of a shard: the plan's columns joined with the Outcomes, row by row."""
    return shard_parquet.encode(join(plan, outcomes), ref)


def join(plan: pa.Table, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return the rows of a manifest: the plan's columns joined with the Outcomes, row by row."""
    table = plan.drop_columns([name for name in plan.column_names if name in PLAN_ONLY_COLUMNS])
    table = table.rename_columns(_distinct(table.column_names))
    for field in OUTCOME_COLUMNS[: -len(PHASE_COLUMNS)]:
        values = [getattr(outcome, field) for outcome in outcomes]
        if field == "finished_at":
            values = [round(value * 1000) for value in values]
        column = pa.array(values, _TYPES.get(field, pa.string()))
        table = table.append_column(field, column)
    for place, name in enumerate(PHASE_COLUMNS):
        seconds = [phases[place] / 1e6 or None if (phases := outcome.phases) else None for outcome in outcomes]
        table = table.append_column(name, pa.array(seconds, pa.float32()))
    return table


def list_columns(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return the names and types of a manifest's columns that come from the URL list."""
    return {field.name: field.type for field in schema if field.name not in OUTCOME_COLUMNS}


def _distinct(names: Sequence[str]) -> list[str]:
    """Rename a URL list's columns if they are named like our columns, because tools look for our columns by name."""
    taken = set(OUTCOME_COLUMNS)
    found = []
    for name in names:
        while name in taken:
            name = f"source_{name}"  # noqa: PLW2901  # until it is free
        taken.add(name)
        found.append(name)
    return found


def decode(body: bytes, columns: Sequence[str] | None = None, expected: ShardRef | None = None) -> pa.Table:
    """Return a manifest as a table, with all columns or only some columns.

    Raises:
        CorruptManifestError: the file is not a manifest, is damaged, or belongs to another run or shard.
    """
    try:
        return shard_parquet.decode(body, columns, expected)
    except CorruptShardFileError as error:
        raise CorruptManifestError(str(error)) from error


def outcomes(table: pa.Table) -> Iterator[Outcome]:
    """Yield the Outcomes of a decoded manifest, in the order of its rows."""
    # A manifest written by an earlier version lacks newer columns.
    for row in table.select([name for name in OUTCOME_COLUMNS if name in table.column_names]).to_pylist():
        row["finished_at"] = row["finished_at"].timestamp()
        seconds = [row.pop(name, None) for name in PHASE_COLUMNS]
        if any(seconds):
            row[_PHASES] = [round((value or 0.0) * 1e6) for value in seconds]
        yield Outcome.from_json(row)


def stats(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return a shard's stats as img2dataset writes them: counts, times in seconds since the epoch, and reasons."""
    statuses = Counter(str(outcome.status) for outcome in outcomes)
    start = min(outcome.finished_at - outcome.fetch_seconds for outcome in outcomes)
    end = max(outcome.finished_at for outcome in outcomes)
    return {
        "count": len(outcomes),
        "successes": statuses["success"],
        "failed_to_download": statuses["failed_to_download"],
        "failed_to_resize": statuses["failed_to_resize"],
        "duration": end - start,
        "start_time": start,
        "end_time": end,
        "status_dict": dict(Counter(str(outcome.reason or outcome.status) for outcome in outcomes)),
    }
