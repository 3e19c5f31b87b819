"""A shard's Outcomes, collected: proven complete, put on the disk, and only then a manifest.

The order is the promise: files and folder synced, then the stats file, then the manifest under its own name. Doing it
twice changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from tasks import manifest, plan
from tasks.errors import StorageFailed
from tasks.model import Outcome, RunOptions, key_of, shard_name
from tasks.storage import PRIVATE, Store

_log = logging.getLogger(__name__)


class Incomplete(ValueError):
    """The Outcomes are not those of the shard's requests, one for one."""


def collect(shard: int, outcomes: Sequence[Outcome], run: RunOptions, store: Store) -> None:
    """Write a shard's manifest and stats file, unless its manifest stands, and remove what no Outcome names.

    Args:
        shard: its number.
        outcomes: in any order.
        run: the run's options.
        store: the run's output folder; the shard's plan stands there.

    Raises:
        Incomplete: Outcomes are missing, foreign or doubled. Nothing was written.
        StorageFailed, BadPlan, BadManifest: what is there can't be read, or the manifest can't be written.
    """
    if not store.exists(manifest.name(shard)):
        table = plan.decode(store.read(plan.name(shard)))
        ordered = in_order(shard, plan.indexes(table), outcomes, run.shard_size)
        store.sync(shard_name(shard), [outcome.path for outcome in ordered if outcome.path])
        stats = json.dumps(manifest.stats(ordered), indent=2) + "\n"
        store.replace(manifest.stats_name(shard), stats.encode(), PRIVATE)
        store.create_durably(manifest.name(shard), manifest.encode(table, ordered))
    remove_strays(shard, store)


def in_order(shard: int, indexes: Sequence[int], outcomes: Sequence[Outcome], shard_size: int) -> list[Outcome]:
    """Return the Outcomes in the order of the plan's indexes.

    Raises:
        Incomplete: they are not those of the plan, one for one.
    """
    by_key = {outcome.key: outcome for outcome in outcomes}
    expected = [key_of(shard, index - shard * shard_size, shard_size) for index in indexes]
    missing = [key for key in expected if key not in by_key]
    if missing or len(outcomes) != len(expected):
        raise Incomplete(
            f"shard {shard_name(shard)} has {len(expected)} requests and {len(outcomes)} Outcomes"
            + (f"; the first that is missing is {missing[0]}" if missing else "")
        )
    return [by_key[key] for key in expected]


def remove_strays(shard: int, store: Store) -> None:
    """Remove the files of a finished shard that its manifest does not name."""
    standing = store.names(shard_name(shard))
    named = set(manifest.decode(store.read(manifest.name(shard)), ["path"])["path"].to_pylist())
    for name in standing:
        if name not in named:
            try:
                store.remove(name)
            except StorageFailed as error:
                # The manifest stands, and the shard is done; a file too many is not worth a run.
                _log.warning("a file that no Outcome names stays: %s", error)
