"""A run's plan, made whole again: files of it that are gone or broken, from the list that they were planned from."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice

from producer.output.folder import unwritable_error
from producer.output.run_file import PlanState, RunFile
from producer.output.shard_files import load_manifest, load_plan
from producer.planning.previous_run import join_previous_images
from producer.sources import text as url_list
from tasks.errors import CommandError, StorageError
from tasks.model import ImageRequest, shard_name
from tasks.storage import manifest, plan
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import Store

_log = logging.getLogger(__name__)


def repair_plan(record: RunFile, store: Store, shards: int) -> None:
    """Make the files of a plan anew that can't be trusted, if the run's list is as it was; each is told.

    A list is as it was if its fingerprint is, if each file of the plan that is whole, up to the one after the last that
    is not, has its rows, and if a manifest that stands has them.

    Args:
        record: the run.
        store: its folder.
        shards: how many shards are planned.

    Raises:
        UsageError: it can't be written.
        CommandError: a file of the plan can't be trusted, and the list is gone, or another one. Nothing was changed.
    """
    broken = {shard: fault for shard in range(shards) if (fault := _plan_error(shard, record, store))}
    if not broken:
        return
    first = next(iter(broken.values()))
    if not url_list.is_same(record.source, record.fingerprint):
        raise _unrepairable_error(first, record)
    # All is compared before anything is written; and no more than a shard is held, however many are broken.
    for shard, requests in _first_shards(url_list.read(record.source), record, min(max(broken) + 2, shards)):
        if not _matches_plan(shard, requests, shard in broken, record, store, shards):
            raise _unrepairable_error(first, record)
    for shard, requests in _first_shards(
        join_previous_images(url_list.read(record.source), record.options, store), record, max(broken) + 1
    ):
        if shard in broken:
            try:
                store.replace(plan.name(shard), plan.encode(requests, ShardRef(record.id, shard)))
            except StorageError as error:
                raise unwritable_error(store, error) from error
            load_plan(shard, store, record.id)
            _log.warning(
                "the plan of shard %s could not be trusted; it was made anew from %s, which is as it was",
                shard_name(shard),
                record.source,
            )


def _plan_error(shard: int, record: RunFile, store: Store) -> CommandError | None:
    try:
        load_plan(shard, store, record.id)
    except CommandError as fault:
        return fault
    return None


def _first_shards(
    requests: Iterator[ImageRequest], record: RunFile, shards: int
) -> Iterator[tuple[int, list[ImageRequest]]]:
    """Yield the first shards of a run's list, with their numbers; what it has no more rows for is empty."""
    for shard in range(shards):
        yield shard, list(islice(requests, record.options.shard_size))


def _matches_plan(
    shard: int, requests: list[ImageRequest], broken: bool, record: RunFile, store: Store, shards: int
) -> bool:
    """Tell whether what a list has for a shard is what was planned of it, as far as that can be known."""
    urls = [request.url for request in requests]
    if not broken:
        return urls == load_plan(shard, store, record.id)["url"].to_pylist()
    size = record.options.shard_size
    if record.plan is PlanState.COMPLETE:
        whole = len(urls) == min(size, record.planned_rows - shard * size)
    else:
        whole = len(urls) == size or (shard == shards - 1 and len(urls) > 0)
    if whole and store.exists(manifest.name(shard)):
        return urls == load_manifest(shard, store, record.id, ["url"])["url"].to_pylist()
    return whole


def _unrepairable_error(error: CommandError, record: RunFile) -> CommandError:
    return CommandError(
        error.what,
        f"{error.why}. It can't be made anew: {url_list.why_not(record.source)}",
        "Put a copy of it back that is whole; nothing of that shard can be done without it.",
    )
