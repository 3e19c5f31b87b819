"""A manifest has the documented columns in the documented order. The stats have img2dataset's format."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

from tasks.model import ImageRequest, Outcome, PreviousImage, Reason, Status
from tasks.storage import manifest, plan, shard_parquet
from tasks.storage.manifest import CorruptManifestError
from tasks.storage.shard_parquet import ShardRef
from tests.unit.conftest import success

_MARK = ShardRef("", 0)

_COLUMNS = {
    "key": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "error_message": pa.string(),
    "path": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
    "format": pa.string(),
    "bytes": pa.int64(),
    "sha256": pa.string(),
    "exif": pa.string(),
    "phash": pa.string(),
    "http_status": pa.int16(),
    "final_url": pa.string(),
    "etag": pa.string(),
    "last_modified": pa.string(),
    "attempts": pa.int16(),
    "fetch_seconds": pa.float64(),
    "finished_at": pa.timestamp("ms", "UTC"),
    "worker": pa.string(),
    "recovered": pa.bool_(),
    "tls_unverified": pa.bool_(),
    "queued_seconds": pa.float32(),
    "connect_seconds": pa.float32(),
    "first_byte_seconds": pa.float32(),
    "body_seconds": pa.float32(),
    "verify_seconds": pa.float32(),
    "save_seconds": pa.float32(),
}
_FAILED = Outcome(
    "00000001",
    Status.FAILED_TO_DOWNLOAD,
    Reason.HTTP_4XX,
    error_message="HTTP 404",
    http_status=404,
    attempts=1,
    fetch_seconds=0.5,
    finished_at=103.25,
    worker="host:1",
)


def table(*columns: str) -> pa.Table:
    """Return a manifest with a saved image and a failed image. The URL list has these additional columns."""
    rows = [ImageRequest(index, f"http://a.example/{index}", dict.fromkeys(columns, "its own")) for index in (0, 1)]
    outcomes = [success(0, width=4, height=3, sha256="f00", fetch_seconds=1.0), _FAILED]
    return manifest.decode(manifest.encode(plan.decode(plan.encode(rows, _MARK)), outcomes, _MARK))


def test_columns_in_order() -> None:
    """The URL list's columns come first, then the columns of an Outcome, each with its type."""
    schema = table("caption").schema
    assert schema.names == ["url", "caption", *_COLUMNS]
    assert schema.types[2:] == list(_COLUMNS.values())


def test_rows() -> None:
    """A row describes the result of its request. Unknown values are null."""
    saved, failed = table().to_pylist()
    assert saved["url"] == "http://a.example/0"
    assert (saved["key"], saved["status"], saved["reason"]) == ("00000000", "success", None)
    assert (saved["path"], saved["width"], saved["sha256"]) == ("00000/00000000.png", 4, "f00")
    assert saved["recovered"] is False
    assert (failed["status"], failed["reason"], failed["http_status"]) == ("failed_to_download", "http_4xx", 404)
    assert (failed["path"], failed["width"], failed["bytes"]) == (None, None, None)
    assert failed["finished_at"] == datetime.datetime(1970, 1, 1, 0, 1, 43, 250_000, datetime.UTC)


def test_reads_a_manifest_of_an_earlier_version() -> None:
    """A manifest that lacks a newer column can still be read."""
    before = table("caption").drop_columns(["tls_unverified"])
    assert [outcome.tls_unverified for outcome in manifest.outcomes(before)] == [False] * before.num_rows


def test_renames_a_source_column_named_like_ours() -> None:
    """If a column of the URL list has one of our names, our column keeps the name. The list's column gets a prefix."""
    both = table("width", "caption", "key")
    assert both.column_names == ["url", "source_width", "caption", "source_key", *_COLUMNS]
    assert both["source_width"].to_pylist() == ["its own", "its own"]
    assert both["width"].to_pylist() == [4, None]


def test_previous_run_columns_stay_in_the_plan() -> None:
    """A URL's data from a previous run is not in the manifest.

    A source column with the same name is in the manifest.
    """
    former = PreviousImage("00000/00000000.png", 4, 3, "png", 5, "f00", etag='"e"')
    rows = [ImageRequest(0, "a", {"imagefleet.previous": "its own"}, former)]
    both = manifest.decode(manifest.encode(plan.decode(plan.encode(rows, _MARK)), [success(0)], _MARK))
    assert both.column_names == ["url", "source_imagefleet.previous", *_COLUMNS]
    assert both["source_imagefleet.previous"].to_pylist() == ["its own"]


def test_names_stay_distinct() -> None:
    """If one column of the URL list has one of our names, and another column has the prefixed name, both are kept."""
    names = table("source_width", "width").column_names
    assert len(names) == len(set(names))


def test_reads_only_the_requested_columns() -> None:
    """If some columns are requested, only these columns are read."""
    body = manifest.encode(plan.decode(plan.encode([ImageRequest(0, "a")], _MARK)), [success(0)], _MARK)
    assert manifest.decode(body, ["status", "bytes"]).to_pydict() == {"status": ["success"], "bytes": [3]}


@pytest.mark.parametrize("body", [b"", b"PAR1", b"key,status\n"])
def test_refuses_a_broken_file(body: bytes) -> None:
    """A broken file is refused as a manifest."""
    with pytest.raises(CorruptManifestError, match="not a complete Parquet file"):
        manifest.decode(body)


def test_refuses_a_column_name_with_a_changed_byte() -> None:
    """A changed byte in a column's name is reported like any other damage."""
    with pytest.raises(CorruptManifestError, match="not a complete Parquet file"):
        manifest.decode(shard_parquet.encode(table("other"), _MARK).replace(b"other", b"oth\xb9r"))


def test_file_names_contain_the_shard() -> None:
    """A manifest and its stats file are named after their shard."""
    assert (manifest.name(7), manifest.stats_name(7)) == ("00007.parquet", "00007_stats.json")


def test_stats_are_those_of_img2dataset() -> None:
    """The stats have img2dataset's keys, and count statuses and reasons."""
    outcomes = [
        success(0, finished_at=101.0, fetch_seconds=0.5),
        _FAILED,
        Outcome("00000002", Status.FAILED_TO_RESIZE, Reason.NOT_IMAGE, finished_at=102.0, fetch_seconds=2.0),
    ]
    assert manifest.stats(outcomes) == {
        "count": 3,
        "successes": 1,
        "failed_to_download": 1,
        "failed_to_resize": 1,
        "duration": 3.25,
        "start_time": 100.0,
        "end_time": 103.25,
        "status_dict": {"success": 1, "http_4xx": 1, "not_image": 1},
    }
