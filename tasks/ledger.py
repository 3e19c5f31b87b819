"""A run's ledger as it stands in an output folder: which pass of the run has done a shard, and what it names."""

from __future__ import annotations

from tasks import manifest, shardfile
from tasks.manifest import BadManifest
from tasks.shardfile import BadShardFile
from tasks.storage import Store


def revision(shard: int, store: Store) -> int | None:
    """Return the pass of the run that a shard's manifest is of; None where none stands.

    Raises:
        StorageFailed, BadManifest: it can't be read.
    """
    if not store.exists(manifest.name(shard)):
        return None
    try:
        return shardfile.revision(store.read(manifest.name(shard)))
    except BadShardFile as error:
        raise BadManifest(f"{manifest.name(shard)}: {error}") from error


def is_done(shard: int, of: int, store: Store) -> bool:
    """Tell whether a pass of the run (``of``: 0 is the first), or a later one, has written a shard's manifest.

    Raises:
        StorageFailed, BadManifest: as `revision`.
    """
    if not of:
        # Whichever pass it is of, and it is not read for that.
        return store.exists(manifest.name(shard))
    standing = revision(shard, store)
    return standing is not None and standing >= of


def paths(shard: int, store: Store) -> frozenset[str]:
    """Return the files that the manifest of a finished shard names.

    Raises:
        StorageFailed, BadManifest: it can't be read.
    """
    table = manifest.decode(store.read(manifest.name(shard)), ["path"])
    return frozenset(map(str, table["path"].drop_null().to_pylist()))
