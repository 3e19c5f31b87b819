"""Read a shard's state from its manifest: the revision of the run that completed it, and the paths of its files."""

from __future__ import annotations

from tasks.storage import manifest, shard_parquet
from tasks.storage.manifest import CorruptManifestError
from tasks.storage.shard_parquet import CorruptShardFileError
from tasks.storage.store import Store


def manifest_revision(shard: int, store: Store) -> int | None:
    """Return the revision that wrote a shard's manifest. Return None if there is no manifest.

    Raises:
        StorageError, CorruptManifestError: the manifest can't be read.
    """
    if not store.exists(manifest.name(shard)):
        return None
    try:
        return shard_parquet.revision(store.read(manifest.name(shard)))
    except CorruptShardFileError as error:
        raise CorruptManifestError(f"{manifest.name(shard)}: {error}") from error


def is_done(shard: int, revision: int, store: Store) -> bool:
    """Return whether a shard has a manifest from a given revision of the run (0 is the first) or from a later one.

    Raises:
        StorageError, CorruptManifestError: as in `manifest_revision`.
    """
    if not revision:
        # A manifest of any revision is enough, so the manifest is not read.
        return store.exists(manifest.name(shard))
    found = manifest_revision(shard, store)
    return found is not None and found >= revision


def listed_paths(shard: int, store: Store) -> frozenset[str]:
    """Return the paths of the files in the manifest of a completed shard.

    Raises:
        StorageError, CorruptManifestError: the manifest can't be read.
    """
    table = manifest.decode(store.read(manifest.name(shard)), ["path"])
    return frozenset(map(str, table["path"].drop_null().to_pylist()))
