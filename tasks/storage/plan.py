"""Encode and decode a shard's plan. With the plans, a run no longer needs its URL list. No I/O.

Each shard has one Parquet file, with one row for each request, in index order. The first columns are ``index`` (int64,
the row's position in the whole list, from 0), ``url`` (string), and the list's other columns, unchanged. The last
columns hold a request's other facts: the image that the previous run has for the URL (``PREVIOUS_IMAGE_COLUMN``, a
struct), the refusal (``REFUSED_COLUMN``, a struct), the file name (``PATH_COLUMN``) and the expected hash
(``HASH_COLUMN``). If one of these columns is null in all rows, it is left out. Manifests do not have these columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from tasks.model import PREVIOUS_IMAGE_FIELDS, ImageRequest, PreviousImage, Refusal, shard_name
from tasks.storage import shard_parquet
from tasks.storage.shard_parquet import (
    HASH_COLUMN,
    PATH_COLUMN,
    PREVIOUS_IMAGE_COLUMN,
    REFUSED_COLUMN,
    CorruptShardFileError,
    ShardRef,
)

FOLDER = ".plan"
_NUMBERS = frozenset({"width", "height", "bytes", "original_width", "original_height"})
_PREVIOUS_IMAGE = pa.struct([(name, pa.int64() if name in _NUMBERS else pa.string()) for name in PREVIOUS_IMAGE_FIELDS])
#: Some facts of a request have their own column. The entry for such a fact has the column's type, the request's
#: attribute, and a function that returns the attribute in a form that JSON can encode.
_FACTS: dict[str, tuple[pa.DataType, str, Callable[[Any], object]]] = {
    PREVIOUS_IMAGE_COLUMN: (_PREVIOUS_IMAGE, "previous", PreviousImage.to_json),
    REFUSED_COLUMN: (pa.struct([("reason", pa.string()), ("message", pa.string())]), "refused", asdict),
    PATH_COLUMN: (pa.string(), "path", str),
    HASH_COLUMN: (pa.string(), "expected_hash", str),
}
_REQUEST_COLUMNS = frozenset({"index", "url", *_FACTS})


class CorruptPlanError(CorruptShardFileError):
    """A file of the plan is damaged, or belongs to another run or shard."""


def name(shard: int) -> str:
    """Return the name of a shard's plan, relative to the run's folder."""
    return f"{FOLDER}/{shard_name(shard)}.parquet"


def encode(requests: Sequence[ImageRequest], ref: ShardRef, types: pa.Schema | None = None) -> bytes:
    """Return the Parquet file of a shard's requests.

    Args:
        requests: the requests, in index order.
        ref: their run and shard.
        types: the names and types of the requests' other columns, so that every shard has the same columns. If None,
            the columns are those of the first request. Their types are the types of their values, or text for a column
            without values.
    """
    fields: dict[str, Sequence[Any]] = dict(zip(ImageRequest._fields, zip(*requests, strict=True), strict=True))
    columns: dict[str, Sequence[object]] = {"index": fields["index"], "url": fields["url"]}
    others = fields["columns"]
    schema = {"index": pa.int64(), "url": pa.string()}
    for column in requests[0].columns if types is None else types.names:
        name = column
        while name in _FACTS or name in columns:
            name = f"source_{name}"
        columns[name] = [values.get(column) for values in others]
        if types is not None:
            schema[name] = types.field(column).type
        elif columns[name].count(None) == len(others):
            # If the column had no type, tools could not join this shard with a shard that has values in the column.
            schema[name] = pa.string()
    for name, (kind, attribute, encoded) in _FACTS.items():
        facts = fields[attribute]
        # In most shards, most of these columns are empty. This is the fastest way to find out.
        if facts.count(None) < len(facts):
            columns[name] = [None if fact is None else encoded(fact) for fact in facts]
            schema[name] = kind
    table = pa.table({key: pa.array(values, schema.get(key)) for key, values in columns.items()})
    return shard_parquet.encode(table, ref)


def decode(body: bytes, expected: ShardRef | None = None) -> pa.Table:
    """Return a shard's plan as a table of its rows.

    Raises:
        CorruptPlanError: the file is not a plan, is damaged, or belongs to another run or shard.
    """
    try:
        table = shard_parquet.decode(body, expected=expected)
    except CorruptShardFileError as error:
        raise CorruptPlanError(str(error)) from error
    if table.column_names[:2] != ["index", "url"] or table.num_rows == 0:
        raise CorruptPlanError("not a plan: it has no rows, or its first two columns are not index and url")
    return table


def requests(table: pa.Table) -> list[ImageRequest]:
    """Return the requests of a decoded plan without their other columns, which stay in the plan."""
    ours = table.select([name for name in table.column_names if name in _REQUEST_COLUMNS])
    return [
        ImageRequest(
            row["index"],
            row["url"],
            previous=_previous_image(row.get(PREVIOUS_IMAGE_COLUMN)),
            refused=_refusal(row.get(REFUSED_COLUMN)),
            path=row.get(PATH_COLUMN),
            expected_hash=row.get(HASH_COLUMN),
        )
        for row in ours.to_pylist()
    ]


def indexes(table: pa.Table) -> list[int]:
    """Return the indexes of a decoded plan."""
    return [row["index"] for row in table.select(["index"]).to_pylist()]


def _previous_image(value: Mapping[str, Any] | None) -> PreviousImage | None:
    return None if value is None else PreviousImage.from_json(value)


def _refusal(value: Mapping[str, Any] | None) -> Refusal | None:
    return None if value is None else Refusal.from_json(value)
