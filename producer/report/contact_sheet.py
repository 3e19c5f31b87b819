"""The contact sheet: saved images spread over the run, each with a thumbnail."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any
from urllib.parse import quote

from producer.output.run_file import RunFile
from producer.output.shard_files import load_manifest
from producer.report.manifest_rows import finished_shards
from producer.report.samples import MOST_IMAGES
from producer.report.thumbnails import MAX_FILE_BYTES, make_thumbnails
from tasks.errors import StorageError
from tasks.outputs.packing import packed_name, read_images
from tasks.storage.parallel import parallel_map
from tasks.storage.store import Store

#: In packed output, an image can't be read without reading the images before it. So the first images of some shards are
#: shown.
_PACKED_SHARDS, _PACKED_IMAGES = 20, 10
_COLUMNS = ["key", "url", "path", "bytes", "width", "height", "format"]


@dataclass(frozen=True, slots=True)
class SheetImage:
    """An image of the contact sheet."""

    #: The image's row in its manifest.
    row: dict[str, Any]
    #: A WebP in base64; empty if there is no thumbnail.
    thumbnail: str
    #: The link to the image's file, relative to the report; None for an image in a packed file.
    link: str | None


def contact_sheet(rows: Sequence[dict[str, Any]], record: RunFile, store: Store) -> list[SheetImage]:
    """Return the contact sheet of a run.

    Args:
        rows: saved images, spread over the run. In packed output, other images are chosen.
        record: the run.
        store: the run's folder.

    Raises:
        StorageError: the folder can't be listed.
        CommandError: a manifest is damaged.
    """
    bodies: Iterator[bytes | None]
    is_packed = packed_name(0, record.options.output) is not None
    if is_packed:
        chosen = list(islice(_packed_images(record, store), MOST_IMAGES))
        rows, bodies = [row for row, _ in chosen], iter([body for _, body in chosen])
    else:
        bodies = parallel_map(lambda row: _read(row, store), rows, store)
    thumbnails = make_thumbnails(bodies)
    return [
        SheetImage(row, base64.b64encode(thumbnail).decode(), None if is_packed else quote(row["path"]))
        for row, thumbnail in zip_longest(rows, thumbnails, fillvalue=b"")
        if isinstance(row, dict) and isinstance(thumbnail, bytes)
    ]


def _read(row: dict[str, Any], store: Store) -> bytes | None:
    """Return an image's file; None if it is too large, or can't be read."""
    if row["bytes"] > MAX_FILE_BYTES:
        return None
    try:
        return store.read(row["path"])
    except StorageError:
        # The file was moved or removed after the run.
        return None


def _packed_images(record: RunFile, store: Store) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the first images of shards that are spread over the run, with their rows."""
    shards = finished_shards(record, store)
    every = -(-len(shards) // _PACKED_SHARDS) or 1
    for shard in shards[::every]:
        table = load_manifest(shard, store, record.id, _COLUMNS)
        rows = {row["key"]: row for row in table.to_pylist()}
        try:
            with closing(read_images(shard, record.options.output, store)) as images:
                for image in islice(images, _PACKED_IMAGES):
                    yield rows[image.key], image.body
        except (StorageError, ValueError, KeyError):
            # The packed file was moved, removed or changed after the run.
            continue
