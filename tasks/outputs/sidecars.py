"""Write sidecars: files beside each image. They contain the image's metadata as JSON, or its caption as text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tasks.model import Sidecar
from tasks.outputs.samples import captions, metadata, sample_rows
from tasks.storage.parallel import parallel_map
from tasks.storage.store import PRIVATE_MODE, PUBLIC_MODE, Store


class _SidecarFile(NamedTuple):
    """A sidecar to write: its name, bytes and mode."""

    name: str
    body: bytes
    mode: int


def write_sidecars(table: pa.Table, sidecars: Collection[Sidecar], store: Store) -> list[str]:
    """Write the sidecars of a shard's saved images; return their names. The caller syncs them.

    Args:
        table: the rows of the shard's manifest.
        sidecars: which sidecars to write. If the list has no captions, no captions are written.
        store: the run's folder.

    Raises:
        StorageError: a file can't be written.
    """
    if not sidecars:
        return []
    saved = table.filter(pc.is_valid(table["path"]))
    return list(parallel_map(partial(_save, store=store), _files(saved, sidecars), store))


def _files(saved: pa.Table, sidecars: Collection[Sidecar]) -> Iterator[_SidecarFile]:
    rows = sample_rows(saved)
    for path, facts, caption in zip(map(str, saved["path"]), metadata(rows), captions(rows), strict=True):
        for sidecar in sidecars:
            body = facts if sidecar is Sidecar.JSON else caption
            if body is not None:
                # Metadata contains the URL.
                mode = PRIVATE_MODE if sidecar is Sidecar.JSON else PUBLIC_MODE
                yield _SidecarFile(_sidecar_name(path, sidecar), body, mode)


def sidecar_names(paths: Iterable[str], sidecars: Collection[Sidecar]) -> set[str]:
    """Return the names of these images' sidecars, even of sidecars that do not exist."""
    return {_sidecar_name(path, sidecar) for path in paths for sidecar in sidecars}


def _sidecar_name(path: str, sidecar: Sidecar) -> str:
    return f"{path.rpartition('.')[0]}.{sidecar}"


def _save(file: _SidecarFile, store: Store) -> str:
    """Save a file; return its name. If an earlier collect task saved the file with different bytes, replace it."""
    if not store.create(*file) and store.read(file.name) != file.body:
        store.remove(file.name)
        store.create(*file)
    return file.name
