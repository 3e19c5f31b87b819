"""A shard's plan and manifest, read from the output folder of a run; a damaged file ends the command with a way out."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from producer.output.run_file import resume_command
from tasks.errors import CommandError, StorageError
from tasks.model import ImageRequest, shard_name
from tasks.storage import manifest, plan
from tasks.storage.shard_parquet import CorruptShardFileError, ShardRef
from tasks.storage.store import Store


def load_requests(shard: int, store: Store, run_id: str) -> list[ImageRequest]:
    """Return a shard's requests, from the plan.

    Raises:
        CommandError: its plan can't be read, or is another's.
    """
    return plan.requests(load_plan(shard, store, run_id))


def load_plan(shard: int, store: Store, run_id: str) -> pa.Table:
    """Return a shard's plan; that it can be is known in a sixth of the time that its requests take.

    Raises:
        CommandError: it can't be read, or is another's.
    """
    try:
        return plan.decode(store.read(plan.name(shard)), ShardRef(run_id, shard))
    except (CorruptShardFileError, StorageError) as error:
        raise CommandError(
            f"{store.path(plan.name(shard))} can't be trusted",
            f"it should hold what is planned of shard {shard_name(shard)}: {error}",
            "Put a copy of it back that is whole; or, while the run's list is as it was, call "
            f"`{resume_command(store)}`, "
            "which makes it anew from that.",
        ) from error


def load_manifest(shard: int, store: Store, run_id: str, columns: Sequence[str] | None) -> pa.Table:
    """Return columns of a shard's manifest; None for all of them.

    Raises:
        CommandError: it is not what was written.
    """
    try:
        return manifest.decode(store.read(manifest.name(shard)), columns, ShardRef(run_id, shard))
    except (CorruptShardFileError, StorageError) as error:
        stands = store.exists(manifest.name(shard))
        what = "can't be trusted" if stands else "is gone"
        raise CommandError(
            f"{store.path(manifest.name(shard))} {what}",
            f"it should hold the Outcomes of shard {shard_name(shard)}: {error}; nothing was changed",
            f"Put a copy of it back that is whole; or {'remove it, and ' if stands else ''}`{resume_command(store)}` "
            "does "
            "that shard again, without downloading what is saved.",
        ) from error
