"""Pack a shard's images into one file. The shard's image tasks save each image as a file of its own.

Until a shard has its manifest, its images are files in the shard's folder. So a crash is handled as in a run that keeps
the files. These files are recovered, and the first writer of a file wins. The collect task packs the files, and removes
them after it has written the manifest. If a later revision saves new images, they are packed together with the images
of the existing packed file.

Packing is idempotent. If a collect task dies, its successor finds the same images, and writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from typing import BinaryIO, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors import StorageError
from tasks.model import OutputFormat, OutputOptions
from tasks.outputs import parquet, webdataset
from tasks.outputs.samples import ImagePlace, SampleImage, sample_rows
from tasks.storage import shard_status
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import Store


class _PackedFormat(Protocol):
    """A module that reads and writes one packed format. ``webdataset.py`` documents the functions."""

    def name(self, shard: int, /) -> str: ...
    def encode(self, rows: pa.Table, images: Iterable[SampleImage], /) -> Iterator[bytes]: ...
    def images(self, file: BinaryIO, /) -> Iterator[SampleImage]: ...
    def sizes(self, file: BinaryIO, /) -> dict[str, int]: ...
    def places(self, file: BinaryIO, /) -> dict[str, ImagePlace]: ...
    def read_image(self, file: BinaryIO, place: ImagePlace, /) -> bytes: ...


#: To add a format, add its module here, and its name to `OutputFormat`.
_FORMATS: dict[OutputFormat, _PackedFormat] = {OutputFormat.WEBDATASET: webdataset, OutputFormat.PARQUET: parquet}


class _SavedImage(NamedTuple):
    """A saved image, as its row in the manifest describes it."""

    key: str
    path: str
    bytes: int


def packed_name(shard: int, output: OutputOptions) -> str | None:
    """Return the name of a shard's packed file; None if the run's images are not packed."""
    packed = _FORMATS.get(output.format)
    return None if packed is None else packed.name(shard)


def pack(table: pa.Table, ref: ShardRef, output: OutputOptions, store: Store) -> pa.Table:
    """Write the packed file of a shard, and return the shard's rows.

    In the returned rows, the path of each saved image is the path of the packed file.

    Args:
        table: the rows of the shard's manifest. The path in a row is the image's own file, or the existing packed file.
        ref: the run, the shard and the revision.
        output: the output options of the run.
        store: the run's folder.

    Raises:
        StorageError: an image can't be read, the file can't be written, or another task has collected the shard
            meanwhile. An existing packed file is unchanged.
    """
    packed_format = _FORMATS[output.format]
    name = packed_format.name(ref.shard)
    saved = table.filter(pc.is_valid(table["path"]))
    files = [_SavedImage(**row) for row in saved.select(["key", "path", "bytes"]).to_pylist()]
    is_packed = any(file.path == name for file in files)
    with closing(store.open_file(name)) if is_packed else nullcontext() as before:
        existing = iter(()) if before is None else packed_format.images(before)
        chunks = packed_format.encode(sample_rows(saved), _images(files, name, existing, store))
        store.replace_from(name, _unless_collected(chunks, ref, store))
    paths = pc.if_else(pc.is_valid(table["path"]), name, None)
    return table.set_column(table.column_names.index("path"), "path", paths)


def count_missing(shard: int, saved: Mapping[str, int], output: OutputOptions, store: Store) -> int:
    """Return the number of saved images that a shard's packed file lacks. The images themselves are not read.

    Args:
        shard: the shard.
        saved: the size of each saved image, by its key.
        output: the output options of the run.
        store: the run's folder.
    """
    packed_format = _FORMATS[output.format]
    try:
        with closing(store.open_file(packed_format.name(shard))) as file:
            sizes = packed_format.sizes(file)
    except (StorageError, ValueError):
        return len(saved)
    return sum(sizes.get(key) != size for key, size in saved.items())


def image_places(file: BinaryIO, output: OutputOptions) -> dict[str, ImagePlace]:
    """Return the place of each image in a packed file, by the image's key. The images are not read.

    Raises:
        ValueError: the packed file is damaged.
    """
    return _FORMATS[output.format].places(file)


def read_image(file: BinaryIO, place: ImagePlace, output: OutputOptions) -> bytes:
    """Return the image at a place of a packed file, without reading the whole file.

    Raises:
        ValueError: the packed file is damaged.
    """
    return _FORMATS[output.format].read_image(file, place)


def _images(
    saved: Iterable[_SavedImage], name: str, existing: Iterator[SampleImage], store: Store
) -> Iterator[SampleImage]:
    """Yield the saved images, from their own files or from the existing packed file.

    Raises:
        StorageError: an image is missing, or differs from its row in the manifest.
    """
    for file in saved:
        if file.path == name:
            image = _find(file.key, name, existing)
        else:
            image = SampleImage(file.key, file.path.rpartition(".")[2], store.read(file.path))
        if len(image.body) != file.bytes:
            raise StorageError(f"image {file.key} has {len(image.body):,} bytes instead of {file.bytes:,}")
        yield image


def _find(key: str, name: str, images: Iterator[SampleImage]) -> SampleImage:
    """Return the image of a key. The images are in the order of their keys, so each image is read at most once."""
    try:
        return next(image for image in images if image.key == key)
    except StopIteration:
        raise StorageError(f"could not read {name}: image {key} is not in it") from None
    except ValueError as error:
        raise StorageError(f"could not read {name}: {error}") from error


def _unless_collected(chunks: Iterable[bytes], ref: ShardRef, store: Store) -> Iterator[bytes]:
    """Yield the chunks, then raise a StorageError if another task has collected the shard meanwhile."""
    yield from chunks
    if shard_status.is_done(ref.shard, ref.revision, store):
        raise StorageError(f"shard {ref.shard} was collected by another task")
