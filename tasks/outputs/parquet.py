"""Write a shard's images to a Parquet file, and read such a file.

The file has one row for each saved image: the columns for data sets, and the image's bytes in the column ``image``. The
file is in the shard's folder. So in the output folder, the pattern ``*.parquet`` matches only the manifests.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.model import shard_name
from tasks.outputs.samples import ImagePlace, SampleImage

IMAGE_COLUMN = "image"
#: A row group ends after this many bytes of images, because writers and readers hold a whole row group in memory. With
#: larger row groups, most of the time goes into getting that memory from the system.
_ROW_GROUP_BYTES = 1024**2
#: Arrow writes each column in several pieces. It collects the small pieces in a buffer of this size, because a write to
#: a Python object waits for Python's lock.
_BUFFER_BYTES = 128 * 1024
#: Arrow's errors for an incomplete file.
_ARROW_ERRORS = (pa.ArrowException, OSError)


def name(shard: int) -> str:
    """Return the name of a shard's file, relative to the run's folder."""
    return f"{shard_name(shard)}/images.parquet"


def encode(rows: pa.Table, images: Iterable[SampleImage]) -> Iterator[bytes]:
    """Yield the bytes of the file, one row group at a time.

    Args:
        rows: the samples' rows, as `sample_rows` returns them.
        images: the samples' images, in the same order.
    """
    # Rename a URL list's own column of this name, because it would collide with ours.
    rows = rows.rename_columns([f"source_{name}" if name == IMAGE_COLUMN else name for name in rows.column_names])
    schema = rows.schema.append(pa.field(IMAGE_COLUMN, pa.binary()))
    sink = _Sink()
    file = pa.BufferedOutputStream(pa.PythonFile(sink, "w"), _BUFFER_BYTES)
    others = [name for name in rows.column_names if name != IMAGE_COLUMN]
    # Images are already compressed, and statistics would repeat whole images. Dictionaries only cost time in row groups
    # with so few rows.
    options: dict[str, Any] = {
        "compression": {**dict.fromkeys(others, "zstd"), IMAGE_COLUMN: "none"},
        "use_dictionary": False,
        "write_statistics": others,
        "write_page_checksum": True,
    }
    with file, pq.ParquetWriter(file, schema, **options) as writer:
        place = 0
        for bodies in _row_groups(images):
            column = pa.array(bodies, pa.binary())
            writer.write_table(rows.slice(place, len(bodies)).append_column(schema.field(IMAGE_COLUMN), column))
            place += len(bodies)
            file.flush()
            yield from sink.take()
    yield from sink.take()


def images(file: BinaryIO) -> Iterator[SampleImage]:
    """Yield the images of a file, in the order of its rows.

    The extension of these images is unknown, and therefore empty.

    Raises:
        ValueError: the file is not a complete Parquet file.
    """
    try:
        parquet = _open(file)
        for number in range(parquet.num_row_groups):
            group = parquet.read_row_group(number, ["key", IMAGE_COLUMN], use_threads=False)
            for key, body in zip(group["key"], group[IMAGE_COLUMN], strict=True):
                yield SampleImage(str(key), "", body.as_py() or b"")
    except _ARROW_ERRORS as error:
        raise ValueError(f"not a complete Parquet file: {error}") from error


def sizes(file: BinaryIO) -> dict[str, int]:
    """Return the sizes of the images in a file, by their keys. The images are not read.

    Raises:
        ValueError: the file is not a complete Parquet file.
    """
    try:
        table = _open(file).read(["key", "bytes"], use_threads=False)
    except _ARROW_ERRORS as error:
        raise ValueError(f"not a complete Parquet file: {error}") from error
    return {str(row["key"]): int(row["bytes"]) for row in table.to_pylist()}


def places(file: BinaryIO) -> dict[str, ImagePlace]:
    """Return the place of each image in a file, by the image's key: its row group, and its row in this group.

    The images are not read.

    Raises:
        ValueError: the file is not a complete Parquet file.
    """
    try:
        parquet = _open(file)
        groups = (
            parquet.read_row_group(number, ["key"], use_threads=False) for number in range(parquet.num_row_groups)
        )
        keys = ((number, group["key"].to_pylist()) for number, group in enumerate(groups))
        return {str(key): ImagePlace(number, row) for number, found in keys for row, key in enumerate(found)}
    except _ARROW_ERRORS as error:
        raise ValueError(f"not a complete Parquet file: {error}") from error


def read_image(file: BinaryIO, place: ImagePlace) -> bytes:
    """Return the image at a place of a file. Its row group is read.

    Raises:
        ValueError: the row group is damaged.
    """
    try:
        group = _open(file).read_row_group(place.first, [IMAGE_COLUMN], use_threads=False)
        return group[IMAGE_COLUMN][place.second].as_py() or b""
    except _ARROW_ERRORS as error:
        raise ValueError(f"not a complete Parquet file: {error}") from error


def _open(file: BinaryIO) -> pq.ParquetFile:
    # With pre_buffer, Arrow would start threads, which may abort the process at exit.
    return pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)


def _row_groups(images: Iterable[SampleImage]) -> Iterator[Sequence[bytes]]:
    """For each row group, yield its images."""
    bodies: list[bytes] = []
    size = 0
    for image in images:
        bodies.append(image.body)
        size += len(image.body)
        if size >= _ROW_GROUP_BYTES:
            yield bodies
            bodies, size = [], 0
    if bodies:
        yield bodies


class _Sink(io.RawIOBase):
    """A writable file in memory that keeps the written bytes until `take` is called."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        """Return True. Arrow calls this method to find out whether it can write to the file."""
        return True

    def tell(self) -> int:
        """Return the number of bytes written so far, including the bytes already taken."""
        return self._written

    def write(self, piece: Any) -> int:
        """Keep a piece."""
        self._pieces.append(bytes(piece))
        self._written += len(piece)
        return len(piece)

    def take(self) -> list[bytes]:
        """Return the pieces written since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces
