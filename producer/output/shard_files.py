"""Read a shard's plan and manifest from the output folder. The error for a damaged file says how to recover."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pyarrow as pa

from producer.output.run_file import PlanState, RunFile, resume_command, unreadable_error
from tasks.errors import CommandError, StorageError
from tasks.model import ImageRequest, shard_name
from tasks.storage import manifest, plan
from tasks.storage.shard_parquet import CorruptShardFileError, ShardRef
from tasks.storage.store import Store


def planned_shards(record: RunFile, store: Store) -> int:
    """Return the number of planned shards.

    While the plan is incomplete, the number includes all shards of earlier lists, and later shards up to the first gap.

    Raises:
        StorageError: the folder of the plan can't be listed.
    """
    if record.plan is PlanState.COMPLETE:
        return record.planned_shards
    plans = set(store.list_files(plan.FOLDER))
    return next(shard for shard in count(record.earlier_shards) if plan.name(shard) not in plans)


def finished_shards(shards: int, store: Store) -> list[int]:
    """Return which of the first shards have a manifest. One listing takes the place of a request for each manifest.

    Raises:
        StorageError: the folder can't be listed.
    """
    entries = set(store.list_entries())
    return [shard for shard in range(shards) if manifest.name(shard) in entries]


def load_requests(shard: int, store: Store, run_id: str) -> list[ImageRequest]:
    """Return a shard's requests, from the plan.

    Raises:
        CommandError: the plan can't be read, or belongs to another run or shard.
    """
    return plan.requests(load_plan(shard, store, run_id))


def load_plan(shard: int, store: Store, run_id: str) -> pa.Table:
    """Return a shard's plan as a table. Reading a table is six times as fast as `load_requests`.

    Raises:
        CommandError: the plan can't be read, or belongs to another run or shard.
    """
    try:
        return plan.decode(store.read(plan.name(shard)), ShardRef(run_id, shard))
    except (CorruptShardFileError, StorageError) as error:
        raise CommandError(
            f"{store.describe(plan.name(shard))} is unusable",
            f"it is not a valid plan of shard {shard_name(shard)}: {error}",
            "Restore a good copy. Or, if the URL list is unchanged, run "
            f"`{resume_command(store)}` to rebuild it from the list.",
        ) from error


def load_manifest(shard: int, store: Store, run_id: str, columns: Sequence[str] | None) -> pa.Table:
    """Return these columns of a shard's manifest; None stands for all columns.

    Raises:
        CommandError: the manifest is missing or damaged, or can't be read.
    """
    name = manifest.name(shard)
    try:
        return manifest.decode(store.read(name), columns, ShardRef(run_id, shard))
    except (CorruptShardFileError, StorageError) as error:
        exists = isinstance(error, CorruptShardFileError)
        if isinstance(error, StorageError) and _may_exist(name, store):
            raise unreadable_error(store, name, error) from error
        what = "is unusable" if exists else "is missing"
        raise CommandError(
            f"{store.describe(name)} {what}",
            f"it is not a valid manifest of shard {shard_name(shard)}: {error}; nothing was changed",
            f"Restore a good copy. Or {'remove the file and ' if exists else ''}run `{resume_command(store)}` to "
            "repeat that shard. Images saved as files are not downloaded again.",
        ) from error


def _may_exist(name: str, store: Store) -> bool:
    """Return whether a file exists. If the store can't be asked, return True."""
    try:
        return store.exists(name)
    except StorageError:
        return True
