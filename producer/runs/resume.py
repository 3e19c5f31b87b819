"""Read the state of an existing run: its manifests, its plan, and the unplanned rows of its URL list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa

from producer.output.run_file import PlanState, RunFile, State, resume_command
from producer.output.shard_files import finished_shards, load_manifest, load_plan, load_requests, planned_shards
from producer.output.summary import COLUMNS
from producer.planning import current_list
from producer.planning.planner import PlanProgress
from producer.planning.run_requests import prepare_requests
from producer.sources import url_list
from producer.sources.request_stream import RequestStream, closing_source
from tasks.collect import remove_unlisted
from tasks.errors import CommandError, StorageError, UsageError
from tasks.model import ImageRequest, OutputFormat, shard_name
from tasks.storage import manifest, shard_status
from tasks.storage.parallel import parallel_map
from tasks.storage.store import Store


def all_manifests_exist(store: Store, shards: int) -> bool:
    """Return whether all manifests exist.

    A manifest may be missing, because a user may remove a damaged manifest to have it rebuilt.
    """
    return {manifest.name(shard) for shard in range(shards)} <= set(store.list_entries())


def check_manifests(record: RunFile, store: Store, shards: int) -> None:
    """Check each existing manifest completely now, instead of after all other shards are done. A check takes 0.1 ms.

    Raises:
        CommandError: a manifest is damaged.
    """
    existing = finished_shards(shards, store)
    for _ in parallel_map(lambda shard: load_manifest(shard, store, record.id, COLUMNS), existing, store):
        pass


def count_failures(record: RunFile, store: Store, shards: int, reasons: Collection[str]) -> Counter[str]:
    """Return the number of failed images by reason, and check the plan of each shard with one of the given reasons.

    Raises:
        CommandError: a manifest or plan file is missing or damaged.
    """

    def count_shard(shard: int) -> Counter[str]:
        column = load_manifest(shard, store, record.id, ["reason"])["reason"].drop_null()
        failed = Counter(map(str, column.to_pylist()))
        if failed.keys() & set(reasons):
            load_plan(shard, store, record.id)
        return failed

    found: Counter[str] = Counter()
    for failed in parallel_map(count_shard, range(shards), store):
        found.update(failed)
    return found


def load_complete(store: Store, command: str) -> RunFile:
    """Return the record of a complete run. ``command`` is a word for the error's text, such as "retried".

    Raises:
        UsageError: the folder holds no run, or an incomplete run.
        CommandError: run.json is damaged.
    """
    record = RunFile.load_usable(store)
    if record.state is not State.COMPLETE:
        raise UsageError(
            f"The run in {store.location} is not complete",
            f"only a complete run can be {command}",
            f"Run `{resume_command(store)}` to complete it.",
        )
    return record


def mark_running(record: RunFile, store: Store, **changes: Any) -> RunFile:
    """Save and return a run's record, now with the state "running", this folder and a new producer epoch.

    Raises:
        CommandError: the record can't be written.
    """
    try:
        return record.save(store, state=State.RUNNING, out=store.location, epoch=record.epoch + 1, **changes)
    except StorageError as error:
        raise CommandError(
            f"The run in {store.location} can't continue",
            str(error),
            "Free disk space in that folder, or get permission to write to it. Then run the command again.",
        ) from error


def plan_progress(record: RunFile, store: Store) -> PlanProgress:
    """Return how much of a run is planned.

    Raises:
        CommandError: the last file of the plan is damaged, or a file is missing.
    """
    if record.plan is PlanState.COMPLETE:
        return PlanProgress(record.planned_rows, record.planned_shards)
    shards = planned_shards(record, store)
    if shards <= record.earlier_shards:
        return PlanProgress(record.earlier_rows, record.earlier_shards)
    whole = (shards - 1 - record.earlier_shards) * record.options.shard_size
    return PlanProgress(record.earlier_rows + whole + len(load_requests(shards - 1, store, record.id)), shards)


def is_plan_complete(record: RunFile, planned: PlanProgress) -> bool:
    """Return whether a plan is known to be complete. If the plan's last shard is not full, the URL list ended there."""
    return record.plan is PlanState.COMPLETE or record.end_index(planned.rows) % record.options.shard_size != 0


def remove_packed_images(record: RunFile, store: Store, shards: int) -> None:
    """Remove image files whose images are also in the packed file of a finished shard.

    Usually, the collect task removes these files. But the collect task may die after it has written the manifest, and
    its message may be lost too.
    """
    if record.options.output.format is OutputFormat.FILES:
        return
    # An extra file is no reason to fail.
    with suppress(StorageError):
        entries = set(store.list_entries())
        for shard in range(shards):
            # In a retried shard, the new images are still needed.
            if shard_name(shard) in entries and shard_status.is_done(shard, record.revision, store):
                remove_unlisted(shard, store, record.options.output)


def remaining_requests(record: RunFile, store: Store, planned: PlanProgress) -> RequestStream:
    """Return the unplanned requests of a run's current URL list.

    If the list is gone or has changed, the first request raises a `CommandError`. So the run downloads its planned
    images before it reports the error.
    """

    def open_list() -> tuple[pa.Schema | None, Iterator[ImageRequest]]:
        if not url_list.is_unchanged(record.source, record.fingerprint):
            raise _source_changed_error(record, planned)
        listed = current_list.read(record)
        return listed.schema, iter(listed)

    # All rows are checked, because a row may be a duplicate of a planned row.
    skip = partial(_skip_planned, record=record, store=store, planned=planned)
    return prepare_requests(RequestStream(open_list), record.options, store, skip)


def _skip_planned(
    requests: Iterable[ImageRequest], record: RunFile, store: Store, planned: PlanProgress
) -> Iterator[ImageRequest]:
    last = load_requests(planned.shards - 1, store, record.id) if planned.shards > record.earlier_shards else []
    end = record.end_index(planned.rows)
    first = end - len(last)
    with closing_source(requests) as source:
        for request in source:
            if request.index >= end:
                yield request
            elif request.index >= first and request.url != last[request.index - first].url:
                raise _source_changed_error(record, planned)


def _source_changed_error(record: RunFile, planned: PlanProgress) -> CommandError:
    return CommandError(
        f"{url_list.display_name(record.source)} can't be read further",
        f"{url_list.explain_difference(record.source)}. The {planned.rows:,} rows already planned are complete",
        "Start another run for the rest of the list, in another folder.",
    )
