"""A shard's Parquet file holds its images, and any Parquet reader can read it. The file's row groups are bounded."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.outputs import parquet
from tasks.outputs.samples import SampleImage

_KEYS = [f"00000{number:04d}" for number in range(5)]
_ROWS = pa.table(
    {
        "url": [f"http://a.example/{key}" for key in _KEYS],
        "caption": ["a cat 🐈", None, "", "x", "y"],
        "nested": [[1], None, [], [2, 3], [4]],
        "key": _KEYS,
        "bytes": [3, 3, 3, 3, 3],
    }
)
_IMAGES = [SampleImage(key, "jpg", key[-3:].encode()) for key in _KEYS]


def test_columns() -> None:
    """The file has the columns of the rows with their types, and a column with the images."""
    read = pq.read_table(io.BytesIO(b"".join(parquet.encode(_ROWS, _IMAGES))))
    assert read.drop_columns(["image"]).equals(_ROWS)
    assert read["image"].to_pylist() == [b"000", b"001", b"002", b"003", b"004"]


def test_list_with_an_image_column() -> None:
    """If the list has a column ``image``, that column is renamed."""
    rows = _ROWS.rename_columns(["image", "caption", "nested", "key", "bytes"])
    read = pq.read_table(io.BytesIO(b"".join(parquet.encode(rows, _IMAGES))))
    assert (read["source_image"].to_pylist(), read["image"][0].as_py()) == (_ROWS["url"].to_pylist(), b"000")


def test_row_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group ends once it has enough bytes. The row group is written before the next image is read."""
    monkeypatch.setattr(parquet, "_ROW_GROUP_BYTES", 5)
    taken: list[str] = []

    def lazily() -> Iterator[SampleImage]:
        for image in _IMAGES:
            taken.append(image.key)
            yield image

    chunks = parquet.encode(_ROWS, lazily())
    first = next(chunks)
    assert taken == _KEYS[:2]
    body = first + b"".join(chunks)
    file = pq.ParquetFile(io.BytesIO(body))
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [2, 2, 1]
    assert pq.read_table(io.BytesIO(body)).drop_columns(["image"]).equals(_ROWS)
    assert [image.body for image in parquet.images(io.BytesIO(body))] == [image.body for image in _IMAGES]
    assert parquet.sizes(io.BytesIO(body)) == dict.fromkeys(_KEYS, 3)


def test_small_writes_are_joined() -> None:
    """A small row group is one chunk, although Arrow writes each of its columns in several pieces."""
    assert len(list(parquet.encode(_ROWS, _IMAGES))) == 2


@pytest.mark.parametrize("kept", [0, 100, -1, -8])
def test_truncated_file_is_refused(kept: int) -> None:
    """A file without its end is not read."""
    body = b"".join(parquet.encode(_ROWS, _IMAGES))
    with pytest.raises(ValueError, match="not a complete Parquet file"):
        parquet.sizes(io.BytesIO(body[:kept]))
    with pytest.raises(ValueError, match="not a complete Parquet file"):
        list(parquet.images(io.BytesIO(body[:kept])))
