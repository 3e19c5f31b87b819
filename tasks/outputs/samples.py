"""Select the parts of a manifest's row for a data set: the URL list's columns, and the facts about the saved image.

The facts about the download stay only in the manifest, because they differ between downloads. If these facts are left
out, the same images with the same columns give the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from tasks.storage.manifest import PHASE_COLUMNS

#: The columns of a manifest that are facts about a download.
_DOWNLOAD_COLUMNS = frozenset(
    {
        *("path", "reason", "http_status", "final_url", "etag", "last_modified", "attempts", "fetch_seconds"),
        *("finished_at", "worker", "recovered", "tls_unverified"),
        *PHASE_COLUMNS,
    }
)
#: The column with an image's caption, if the list has one.
CAPTION_COLUMN = "caption"


@dataclass(frozen=True, slots=True)
class SampleImage:
    """The image of a sample: its key, the extension of its format, and its bytes."""

    key: str
    extension: str
    body: bytes


class ImagePlace(NamedTuple):
    """The place of an image in a packed file. Each format documents the meaning of the two numbers."""

    first: int
    second: int


def sample_rows(manifest: pa.Table) -> pa.Table:
    """Return a manifest's rows with only the columns for data sets."""
    return manifest.drop_columns([name for name in manifest.column_names if name in _DOWNLOAD_COLUMNS])


def metadata(rows: pa.Table) -> Iterator[bytes]:
    """Yield the metadata of each sample as a JSON object."""
    for row in rows.to_pylist():
        yield orjson.dumps(row, _json_value)


def captions(rows: pa.Table) -> Iterator[bytes | None]:
    """Yield the caption of each sample, or "" for a row without a caption; None if the list has no captions."""
    if CAPTION_COLUMN not in rows.column_names:
        yield from [None] * rows.num_rows
        return
    for caption in rows[CAPTION_COLUMN].to_pylist():
        yield ("" if caption is None else str(caption)).encode("utf-8", "replace")


def _json_value(value: Any) -> Any:
    """Convert a value of a type that JSON lacks."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
