"""Collect a shard's Outcomes: check that they are complete, sync the shard to disk, and then write its manifest.

The order of the steps guarantees that the images of a manifest are on disk. First, the files and their folder are
synced, or the files are packed into one synced file. Then the stats file is written, and the manifest is written last.
If the manifest can't be written, for example on a full disk, the stats file is removed again. Collecting is idempotent,
so a repeated collect task changes nothing. A late collect task of an earlier revision changes nothing either.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pyarrow as pa

from tasks.errors import StorageError
from tasks.images.identify import FILE_EXTENSIONS
from tasks.model import SHA256_FIELD, Outcome, OutputFormat, OutputOptions, Reason, RunOptions, image_key, shard_name
from tasks.outputs import agreed_outcomes
from tasks.outputs.packing import pack, packed_name
from tasks.outputs.sidecars import sidecar_names, write_sidecars
from tasks.storage import manifest, plan, shard_parquet, shard_status
from tasks.storage.file_names import check_name
from tasks.storage.manifest import CorruptManifestError
from tasks.storage.parallel import parallel_map
from tasks.storage.shard_parquet import PATH_COLUMN, ShardRef
from tasks.storage.store import PRIVATE_MODE, Store

_log = logging.getLogger(__name__)
#: An Outcome with one of these reasons is void, because it was created while the run had no record in Redis.
VOID_REASONS = frozenset({Reason.CANCELLED})
#: An Outcome from an earlier producer epoch is also void if it has one of these reasons. The earlier command may have
#: ended because images could not be saved, for example on a full disk. So unsaved images from an earlier epoch are
#: retried. An unsaved image from the current epoch has failed.
STALE_VOID_REASONS = VOID_REASONS | {Reason.STORAGE}


class IncompleteShardError(ValueError):
    """The Outcomes do not match the shard's requests one to one."""


class PoisonShardError(RuntimeError):
    """One worker after another died while collecting the shard."""


def collect(shard: int, outcomes: Sequence[Outcome], run: RunOptions, store: Store, count: int | None = None) -> None:
    """Write a shard's manifest and stats file, unless the manifest exists. Then remove unlisted files.

    In the first revision of a run, the Outcomes cover the whole shard. In a later revision, the Outcomes replace the
    failures in the existing manifest. An image's attempts are added up over all revisions.

    Args:
        shard: its number.
        outcomes: in any order.
        run: the run's options.
        store: the run's output folder, with the shard's plan.
        count: the expected number of Outcomes in a later revision.

    Raises:
        IncompleteShardError: Outcomes are missing, foreign or duplicated. Nothing was written.
        StorageError, CorruptPlanError, CorruptManifestError: the existing files can't be read, or the manifest can't
            be written.
    """
    ref = ShardRef(run.run_id, shard, run.revision)
    done = shard_status.manifest_revision(shard, store)
    leftovers: Sequence[str] = ()
    if done is None or done < run.revision:
        table = plan.decode(store.read(plan.name(shard)), ref)
        indexes = plan.indexes(table)
        ordered: Sequence[Outcome]
        if done is None:
            ordered = sort_outcomes(shard, indexes, outcomes, run.shard_size)
        else:
            before = manifest.decode(store.read(manifest.name(shard)), expected=ref)
            ordered = _merged(shard, list(manifest.outcomes(before)), outcomes, count)
        # As soon as the manifest exists, a `retry` may save images under the names of failed images.
        leftovers = _find_named_leftovers(table, ordered, run.output, store)
        try:
            if packed_name(shard, run.output) is not None:
                ordered = agreed_outcomes.agree(shard, ordered, run, store)
            _write(table, ordered, ref, run.output, store, first=done is None)
        except StorageError:
            if packed_name(shard, run.output) is None or not shard_status.is_done(shard, run.revision, store):
                raise
            # Another collect task of this shard was faster, and removes the packed images.
            _remove_extra(agreed_outcomes.name(shard, run), store)
            store.remove_folder(shard_name(shard))
            return
    elif done > run.revision:
        # Files saved by a later revision are listed only in that revision's manifest, which may not exist yet.
        return
    remove_unlisted(shard, store, run.output)
    _remove_named_leftovers(shard, leftovers, store)


def sort_outcomes(shard: int, indexes: Sequence[int], outcomes: Sequence[Outcome], shard_size: int) -> list[Outcome]:
    """Return the Outcomes in the order of the plan's indexes.

    Raises:
        IncompleteShardError: the Outcomes do not match the plan one to one.
    """
    by_key = {outcome.key: outcome for outcome in outcomes}
    expected = [image_key(index, shard_size) for index in indexes]
    missing = [key for key in expected if key not in by_key]
    if missing or len(outcomes) != len(expected):
        raise IncompleteShardError(
            f"shard {shard_name(shard)} has {len(expected)} requests and {len(outcomes)} Outcomes"
            + (f"; the first missing one is {missing[0]}" if missing else "")
        )
    return [by_key[key] for key in expected]


def remove_unlisted(shard: int, store: Store, output: OutputOptions) -> None:
    """Remove the files of a finished shard, except those in its manifest and their sidecars."""
    existing = store.list_files(shard_name(shard))
    packed = packed_name(shard, output)
    if packed is None:
        images = shard_status.listed_paths(shard, store)
        listed = images | sidecar_names(images, output.sidecars)
    else:
        listed = frozenset([packed])
    extra = [name for name in existing if name not in listed]
    deque(parallel_map(partial(_remove_extra, store=store), extra, store), 0)
    if packed is not None:
        store.remove_folder(shard_name(shard))


def _find_named_leftovers(
    table: pa.Table, ordered: Sequence[Outcome], output: OutputOptions, store: Store
) -> list[str]:
    """Find files of failed images. The list or a template names these files, and earlier deliveries saved them.

    These files are not in the shard's folder, so a listing of the folder does not show them. The folders with these
    files may contain all images of the run, so listing these folders would take too long. Files named by their content
    are not returned, because another image may have the same content.
    """
    if PATH_COLUMN not in table.column_names or output.format is not OutputFormat.FILES:
        return []
    names: list[str] = []
    for request, outcome in zip(plan.requests(table), ordered, strict=True):
        path = request.path
        # Nothing is fetched for a refused row, so a file with this row's name belongs to another row.
        if path is None or request.refused is not None or outcome.ok or SHA256_FIELD in path or not _is_valid(path):
            continue
        found = [f"{path}.{extension}" for extension in FILE_EXTENSIONS]
        names += [*found, *sidecar_names(found[:1], output.sidecars)]
    try:
        return [name for name, exists in zip(names, parallel_map(store.exists, names, store), strict=True) if exists]
    except StorageError as error:
        _log.warning("could not look for files without an entry in the manifest, so such files may remain: %s", error)
        return []


def _remove_named_leftovers(shard: int, leftovers: Sequence[str], store: Store) -> None:
    """Remove leftovers, unless another collect task of the shard has listed them in the manifest."""
    if leftovers:
        saved = {path.rpartition(".")[0] for path in shard_status.listed_paths(shard, store)}
        for name in leftovers:
            if name.rpartition(".")[0] not in saved:
                _remove_extra(name, store)


def _remove_extra(name: str, store: Store) -> None:
    try:
        store.remove(name)
    except StorageError as error:
        # The manifest exists, so the shard is done. An extra file is no reason for the run to fail.
        _log.warning("a file without an entry in the manifest could not be removed: %s", error)


def _is_valid(path: str) -> bool:
    with suppress(ValueError):
        return check_name(path) == path
    return False


def _merged(shard: int, before: list[Outcome], outcomes: Sequence[Outcome], count: int | None) -> list[Outcome]:
    """Return the shard's Outcomes, with the failures replaced by the Outcomes of a later revision."""
    again: Mapping[str, Outcome] = {outcome.key: outcome for outcome in outcomes}
    failed = {outcome.key for outcome in before if not outcome.ok}
    if len(again) != len(outcomes) or len(again) != count or not failed >= again.keys():
        raise IncompleteShardError(
            f"the {len(outcomes)} Outcomes of shard {shard_name(shard)} do not match its {count} images to retry"
        )
    return [
        replace(again[outcome.key], attempts=outcome.attempts + again[outcome.key].attempts)
        if outcome.key in again
        else outcome
        for outcome in before
    ]


def _write(
    table: pa.Table, ordered: Sequence[Outcome], ref: ShardRef, output: OutputOptions, store: Store, first: bool
) -> None:
    rows = manifest.join(table, ordered)
    if packed_name(ref.shard, output) is None:
        images = [outcome.path for outcome in ordered if outcome.path]
        folder = shard_name(ref.shard) if PATH_COLUMN not in table.column_names else ""
        store.sync(folder, [*images, *write_sidecars(rows, output.sidecars, store)])
    else:
        rows = pack(rows, ref, output, store)
    stats = json.dumps(manifest.stats(ordered), indent=2) + "\n"
    store.replace(manifest.stats_name(ref.shard), stats.encode(), PRIVATE_MODE)
    body = shard_parquet.encode(rows, ref)
    try:
        if first:
            store.create_durably(manifest.name(ref.shard), body)
        else:
            store.replace(manifest.name(ref.shard), body)
    except StorageError:
        _remove_unused_stats(ref, store)
        raise


def _remove_unused_stats(ref: ShardRef, store: Store) -> None:
    """Remove the stats file of a revision without a manifest, because the stats would count images without a record."""
    with suppress(StorageError, CorruptManifestError):
        # A duplicate collect task may have written both files in the meantime.
        if not shard_status.is_done(ref.shard, ref.revision, store):
            store.remove(manifest.stats_name(ref.shard))
