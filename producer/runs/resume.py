"""The state of a run that a command resumes: its finished shards, its plan, and the unplanned rest of its URL list."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from producer.output.run_file import PlanState, RunFile, State
from producer.output.shard_files import load_requests
from producer.planning.planner import NOTHING_PLANNED, PlanProgress
from producer.sources import text as url_list
from tasks.errors import CommandError, StorageError
from tasks.model import ImageRequest
from tasks.storage import manifest, plan
from tasks.storage.store import Store


def all_manifests_exist(store: Store, shards: int) -> bool:
    """Tell whether all manifests stand: one that can't be trusted may have been removed, to be made again."""
    return all(store.exists(manifest.name(shard)) for shard in range(shards))


def mark_running(record: RunFile, store: Store, **changes: Any) -> RunFile:
    """Return a record that says that the run goes on, here."""
    try:
        return record.save(store, state=State.RUNNING, out=str(store.root), epoch=record.epoch + 1, **changes)
    except StorageError as error:
        raise CommandError(
            f"The run in {store.root} can't go on",
            str(error),
            "Make space there, or see to it that you may write there; then call the command again.",
        ) from error


def plan_progress(record: RunFile, store: Store) -> PlanProgress:
    """Return how much of a run's plan stands.

    Raises:
        CommandError: the last part of it can't be read, or some of it is gone.
    """
    if record.plan is PlanState.COMPLETE:
        return PlanProgress(record.planned_rows, record.planned_shards)
    shards = planned_shards(record, store)
    if not shards:
        return NOTHING_PLANNED
    size = record.options.shard_size
    return PlanProgress((shards - 1) * size + len(load_requests(shards - 1, store, record.id)), shards)


def planned_shards(record: RunFile, store: Store) -> int:
    """Return how many shards are planned: while the Source is not read to its end, those without a gap between them."""
    if record.plan is PlanState.COMPLETE:
        return record.planned_shards
    return next(shard for shard in count() if not store.exists(plan.name(shard)))


def is_plan_complete(record: RunFile, planned: PlanProgress) -> bool:
    """Tell whether a plan is known to be complete: a shard that is not full is the last one of its Source."""
    return record.plan is PlanState.COMPLETE or planned.rows % record.options.shard_size != 0


def remaining_requests(record: RunFile, store: Store, planned: PlanProgress) -> Iterator[ImageRequest]:
    """Yield the requests of a Source after those that are planned.

    Raises:
        CommandError: the Source is gone, or is another one. What is planned is done before that is told.
    """
    if not url_list.is_same(record.source, record.fingerprint):
        raise _source_changed_error(record, planned)
    requests = url_list.read(record.source)
    last = load_requests(planned.shards - 1, store, record.id) if planned.shards else []
    first = planned.rows - len(last)
    for request in requests:
        if request.index >= planned.rows:
            yield request
        elif request.index >= first and request.url != last[request.index - first].url:
            raise _source_changed_error(record, planned)


def _source_changed_error(record: RunFile, planned: PlanProgress) -> CommandError:
    return CommandError(
        f"{url_list.display_name(record.source)} can't be read on",
        f"{url_list.explain_difference(record.source)}. The {planned.rows:,} rows that were planned from it are done",
        "Run the rest of the list into another folder.",
    )
