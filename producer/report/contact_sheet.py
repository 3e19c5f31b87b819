"""The contact sheet: saved images spread over the run, each with a thumbnail."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Any
from urllib.parse import quote

from producer.gallery.image_files import ImageReader, ImageUnavailableError, check_path
from producer.output.run_file import RunFile
from producer.output.shard_files import finished_shards, load_manifest, planned_shards
from producer.report.samples import MOST_IMAGES, spread
from producer.report.thumbnails import MAX_FILE_BYTES, ThumbnailMaker
from tasks.outputs.packing import packed_name
from tasks.storage.parallel import parallel_map
from tasks.storage.store import Store

#: In packed output, the images of a file must be listed before one of them can be read. So the images are from at most
#: this many shards.
_PACKED_SHARDS = 12
_COLUMNS = ["key", "url", "path", "bytes", "width", "height", "format"]


@dataclass(frozen=True, slots=True)
class SheetImage:
    """An image of the contact sheet."""

    #: The image's row in its manifest.
    row: dict[str, Any]
    #: A WebP in base64; empty if there is no thumbnail.
    thumbnail: str
    #: The link to the image's file, relative to the report; None for an image in a packed file, and for a path
    #: that leaves the output folder.
    link: str | None


def contact_sheet(
    rows: Sequence[dict[str, Any]], record: RunFile, store: Store, maker: ThumbnailMaker
) -> list[SheetImage]:
    """Return the contact sheet of a run.

    Args:
        rows: saved images, spread over the run. In packed output, other images are chosen.
        record: the run.
        store: the run's folder.
        maker: makes the thumbnails.

    Raises:
        StorageError: the folder can't be listed.
        CommandError: a manifest is damaged.
    """
    output = record.options.output
    is_packed = packed_name(0, output) is not None
    if is_packed:
        rows = list(_packed_rows(record, store))
    read = partial(_read, reader=ImageReader(store, output))
    # If the time for thumbnails is over, the last rows have none.
    thumbnails = chain(maker.make_all(parallel_map(read, rows, store)), repeat(b""))
    return [
        SheetImage(row, base64.b64encode(thumbnail).decode(), None if is_packed else _link(row["path"]))
        for row, thumbnail in zip(rows, thumbnails, strict=False)
    ]


def _read(row: dict[str, Any], reader: ImageReader) -> bytes | None:
    """Return an image; None if it is too large or can't be read, for example because its file was moved."""
    if row["bytes"] > MAX_FILE_BYTES:
        return None
    try:
        return reader.read(row["key"], row["path"]).body
    except ImageUnavailableError:
        return None


def _packed_rows(record: RunFile, store: Store) -> Iterator[dict[str, Any]]:
    """Yield the rows of some images of some shards, spread over the run."""
    shards = spread(finished_shards(planned_shards(record, store), store), _PACKED_SHARDS)
    for shard in shards:
        rows = load_manifest(shard, store, record.id, _COLUMNS).to_pylist()
        yield from spread([row for row in rows if row["path"] is not None], MOST_IMAGES // len(shards))


def _link(path: str) -> str | None:
    """Return the link to an image's file; None if the path leaves the output folder."""
    try:
        check_path(path)
    except ImageUnavailableError:
        return None
    return quote(path)
