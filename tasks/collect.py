"""A shard's Outcomes, collected: proven complete, put on the disk, and only then a manifest.

The order is the promise: files and folder synced, then the stats file, then the manifest under its own name. Stats
whose manifest can't be written, as on a disk that is full, are removed again. Doing it twice changes nothing, and
neither does a late copy from an earlier pass of the run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa

from tasks.errors import StorageError
from tasks.model import Outcome, Reason, RunOptions, image_key, shard_name
from tasks.storage import manifest, plan, shard_status
from tasks.storage.manifest import CorruptManifestError
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import PRIVATE_MODE, Store

_log = logging.getLogger(__name__)
#: What an Outcome says that was made while the run had no record: it counts for nothing.
VOID_REASONS = frozenset({Reason.CANCELLED})
#: The same of one that was made before another command went on with the run: what had kept images from being saved may
#: be what had ended it. While a command is at the run, an image that can't be saved has failed as any other.
STALE_VOID_REASONS = VOID_REASONS | {Reason.STORAGE}


class IncompleteShardError(ValueError):
    """The Outcomes are not those of the shard's requests, one for one."""


class PoisonShardError(RuntimeError):
    """Whoever collects the shard dies of it."""


def collect(shard: int, outcomes: Sequence[Outcome], run: RunOptions, store: Store, count: int | None = None) -> None:
    """Write a shard's manifest and stats file, unless its manifest stands, and remove what no Outcome names.

    In the first pass of a run the Outcomes are those of the whole shard. In a later one they take the place of what
    failed before, and the manifest is replaced; the attempts of all passes add up.

    Args:
        shard: its number.
        outcomes: in any order.
        run: the run's options.
        store: the run's output folder; the shard's plan stands there.
        count: how many Outcomes a later pass has.

    Raises:
        IncompleteShardError: Outcomes are missing, foreign or doubled. Nothing was written.
        StorageError, CorruptPlanError, CorruptManifestError: what is there can't be read, or the manifest can't be
            written.
    """
    ref = ShardRef(run.run_id, shard, run.revision)
    done = shard_status.manifest_revision(shard, store)
    if done is None or done < run.revision:
        table = plan.decode(store.read(plan.name(shard)), ref)
        indexes = plan.indexes(table)
        if done is None:
            ordered = sort_outcomes(shard, indexes, outcomes, run.shard_size)
        else:
            before = manifest.decode(store.read(manifest.name(shard)), expected=ref)
            ordered = _merged(shard, list(manifest.outcomes(before)), outcomes, count)
        _write(table, ordered, ref, store, first=done is None)
    elif done > run.revision:
        # What a later pass has saved is named by its manifest alone, which may not stand yet.
        return
    remove_unlisted(shard, store)


def sort_outcomes(shard: int, indexes: Sequence[int], outcomes: Sequence[Outcome], shard_size: int) -> list[Outcome]:
    """Return the Outcomes in the order of the plan's indexes.

    Raises:
        IncompleteShardError: they are not those of the plan, one for one.
    """
    by_key = {outcome.key: outcome for outcome in outcomes}
    expected = [image_key(index, shard_size) for index in indexes]
    missing = [key for key in expected if key not in by_key]
    if missing or len(outcomes) != len(expected):
        raise IncompleteShardError(
            f"shard {shard_name(shard)} has {len(expected)} requests and {len(outcomes)} Outcomes"
            + (f"; the first that is missing is {missing[0]}" if missing else "")
        )
    return [by_key[key] for key in expected]


def remove_unlisted(shard: int, store: Store) -> None:
    """Remove the files of a finished shard that its manifest does not name."""
    existing = store.list_files(shard_name(shard))
    listed = shard_status.listed_paths(shard, store)
    for name in existing:
        if name not in listed:
            try:
                store.remove(name)
            except StorageError as error:
                # The manifest stands, and the shard is done; a file too many is not worth a run.
                _log.warning("a file that no Outcome names stays: %s", error)


def _merged(shard: int, before: list[Outcome], outcomes: Sequence[Outcome], count: int | None) -> list[Outcome]:
    """Return the Outcomes of a shard once those of a later pass have taken the place of what failed."""
    again: Mapping[str, Outcome] = {outcome.key: outcome for outcome in outcomes}
    failed = {outcome.key for outcome in before if not outcome.ok}
    if len(again) != len(outcomes) or len(again) != count or not failed >= again.keys():
        raise IncompleteShardError(
            f"shard {shard_name(shard)} has {count} images to try again and {len(outcomes)} Outcomes"
        )
    return [
        replace(again[outcome.key], attempts=outcome.attempts + again[outcome.key].attempts)
        if outcome.key in again
        else outcome
        for outcome in before
    ]


def _write(table: pa.Table, ordered: Sequence[Outcome], ref: ShardRef, store: Store, first: bool) -> None:
    store.sync(shard_name(ref.shard), [outcome.path for outcome in ordered if outcome.path])
    stats = json.dumps(manifest.stats(ordered), indent=2) + "\n"
    store.replace(manifest.stats_name(ref.shard), stats.encode(), PRIVATE_MODE)
    body = manifest.encode(table, ordered, ref)
    try:
        if first:
            store.create_durably(manifest.name(ref.shard), body)
        else:
            store.replace(manifest.name(ref.shard), body)
    except StorageError:
        _remove_unused_stats(ref, store)
        raise


def _remove_unused_stats(ref: ShardRef, store: Store) -> None:
    """Remove the stats of a pass whose manifest does not stand: they would count what nobody has recorded."""
    with suppress(StorageError, CorruptManifestError):
        # Another copy may have written both meanwhile.
        if not shard_status.is_done(ref.shard, ref.revision, store):
            store.remove(manifest.stats_name(ref.shard))
