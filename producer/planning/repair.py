"""Repair a run's plan: rebuild missing or damaged files from the URL list, if the list is unchanged.

If a run was extended, only the shards of its last list can be rebuilt.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from producer.output.folder import unwritable_error
from producer.output.run_file import PlanState, RunFile
from producer.output.shard_files import load_manifest, load_plan
from producer.planning import current_list
from producer.planning.run_requests import prepare_requests
from producer.sources import url_list
from tasks.errors import CommandError, StorageError
from tasks.model import ImageRequest, shard_name
from tasks.storage import manifest, plan
from tasks.storage.parallel import parallel_map
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import Store

_log = logging.getLogger(__name__)


def repair_plan(record: RunFile, store: Store, shards: int) -> None:
    """Rebuild a plan's missing and damaged files, if the run's URL list is unchanged.

    Log a warning for each rebuilt file.

    The list counts as unchanged if its fingerprint matches, and its rows match two kinds of files. First, the rows must
    match the good plan files that come before the last damaged file, and the next good plan file after it. Second, if a
    shard has a damaged plan file and a manifest, the rows must match the manifest.

    Args:
        record: the run. store: the run's folder.
        shards: the number of planned shards.

    Raises:
        UsageError: a plan file can't be written.
        CommandError: a plan file is missing or damaged, and the list is missing or changed. Nothing was changed.
    """
    errors = parallel_map(lambda shard: _plan_error(shard, record, store), range(shards), store)
    broken = {shard: error for shard, error in enumerate(errors) if error is not None}
    if not broken:
        return
    first = next(iter(broken.values()))
    if min(broken) < record.earlier_shards:
        raise _unrepairable_error(first, "the shard is from an earlier list, before the run was extended")
    if not url_list.is_unchanged(record.source, record.fingerprint):
        raise _unrepairable_error(first, url_list.explain_difference(record.source))
    # Compare everything before writing anything. Memory holds one shard at a time, however many shards are damaged.
    for shard, requests in _first_shards(current_list.read(record), record, min(max(broken) + 2, shards)):
        if not _matches_plan(shard, requests, shard in broken, record, store, shards):
            raise _unrepairable_error(first, url_list.explain_difference(record.source))
    _rebuild(broken, record, store)


def _rebuild(broken: Collection[int], record: RunFile, store: Store) -> None:
    """Write the plan files of these shards again, from the URL list."""
    requests = prepare_requests(current_list.read(record), record.options, store)
    for shard, chosen in _first_shards(requests, record, max(broken) + 1):
        if shard in broken:
            try:
                store.replace(plan.name(shard), plan.encode(chosen, ShardRef(record.id, shard), requests.schema))
            except StorageError as error:
                raise unwritable_error(store, error) from error
            load_plan(shard, store, record.id)
            _log.warning(
                "the plan of shard %s was missing or damaged, so it was rebuilt from the unchanged list %s",
                shard_name(shard),
                url_list.shown(record.source),
            )


def _plan_error(shard: int, record: RunFile, store: Store) -> CommandError | None:
    try:
        load_plan(shard, store, record.id)
    except CommandError as error:
        return error
    return None


def _first_shards(
    requests: Iterable[ImageRequest], record: RunFile, shards: int
) -> Iterator[tuple[int, list[ImageRequest]]]:
    """Yield the first shards of a run's current list, each with its number in the run.

    Stop when the whole run, with the shards of its earlier lists, has ``shards`` shards. Shards after the end of the
    list are empty.
    """
    rest = iter(requests)
    for shard in range(record.earlier_shards, shards):
        yield shard, list(islice(rest, record.options.shard_size))


def _matches_plan(
    shard: int, requests: list[ImageRequest], broken: bool, record: RunFile, store: Store, shards: int
) -> bool:
    """Return whether the list's rows match a shard's plan.

    If the plan is damaged, the list's rows must match the length and the manifest of the shard.
    """
    urls = [request.url for request in requests]
    if not broken:
        return urls == load_plan(shard, store, record.id)["url"].to_pylist()
    size = record.options.shard_size
    if record.plan is PlanState.COMPLETE:
        whole = len(urls) == min(size, record.end_index(record.planned_rows) - shard * size)
    else:
        whole = len(urls) == size or (shard == shards - 1 and len(urls) > 0)
    if whole and store.exists(manifest.name(shard)):
        return urls == load_manifest(shard, store, record.id, ["url"])["url"].to_pylist()
    return whole


def _unrepairable_error(error: CommandError, why: str) -> CommandError:
    return CommandError(
        error.what,
        f"{error.why}. It can't be rebuilt: {why}",
        "Restore a good copy; the shard can't be processed without it.",
    )
