"""Remove a run from its folder, and nothing else.

The run's record is marked first, and removed last. So a removal that was interrupted can be repeated. Meanwhile, no
other command mistakes the remaining files for a run. A run without a record is never removed, because nothing shows
which files belong to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from producer.output.folder import unwritable_error
from producer.output.run_file import FAILURES_NAME, NAME, REPORT_NAME, RunFile, State
from producer.output.shard_files import planned_shards
from tasks.errors import StorageError, UsageError
from tasks.images.identify import EXTENSIONS
from tasks.model import image_key, shard_name
from tasks.outputs.agreed_outcomes import FILE_PATTERN
from tasks.outputs.packing import packed_name
from tasks.outputs.sidecars import sidecar_names
from tasks.storage import manifest, plan
from tasks.storage.file_names import check_name
from tasks.storage.shard_parquet import CorruptShardFileError, ShardRef
from tasks.storage.store import Store

#: Files to remove at the same time, because each removal in an object store is a request.
_PARALLEL_REMOVALS = 16


class RunRemoval:
    """The removal of a run. The caller holds the lock of the folder."""

    def __init__(self, record: RunFile, store: Store) -> None:
        """Take a run and its folder, and check the folder. Nothing is changed.

        Raises:
            UsageError: a shard's folder or the plan's folder has a file that does not belong to the run.
        """
        self._record, self._store, self._output = record, store, record.options.output
        self._shards = record.planned_shards if record.state is State.REMOVING else planned_shards(record, store)
        self._check_foreign_files()

    def remove(self) -> None:
        """Remove the run.

        Raises:
            UsageError: a file can't be removed.
        """
        store = self._store
        try:
            self._record.save(store, state=State.REMOVING, planned_shards=self._shards)
            with ThreadPoolExecutor(_PARALLEL_REMOVALS) as pool:
                for shard in range(self._shards):
                    # The manifest comes last, because it lists images that can be in any folder.
                    list(pool.map(store.remove, self._images(shard)))
                    store.remove_folder(shard_name(shard))
                    store.remove(manifest.stats_name(shard))
                    store.remove(plan.name(shard))
                    store.remove(manifest.name(shard))
            store.remove_folder(plan.FOLDER)
            store.remove(FAILURES_NAME)
            store.remove(REPORT_NAME)
            store.remove_leftovers()
            store.remove(NAME)
        except StorageError as error:
            raise unwritable_error(store, error) from error

    def _images(self, shard: int) -> set[str]:
        """Return the file names of a shard: its images with their sidecars and claims, and its packed file."""
        packed = packed_name(shard, self._output)
        own = self._own_name(shard)
        beside = (name for name in self._store.list_files(shard_name(shard)) if own.fullmatch(name))
        return {*self._images_elsewhere(shard), *beside, *([] if packed is None else [packed])}

    def _images_elsewhere(self, shard: int) -> Iterator[str]:
        """For a manifest's images outside of their shard's folder, yield the names of the images and sidecars."""
        try:
            body = self._store.read(manifest.name(shard))
            paths = manifest.decode(body, ["path"], ShardRef(self._record.id, shard))["path"]
        except (CorruptShardFileError, StorageError):
            # The manifest does not exist, is damaged, or belongs to another run.
            return
        for path in map(str, paths.drop_null().to_pylist()):
            with suppress(ValueError):
                check_name(path.rpartition(".")[0])
                yield path
                yield from sidecar_names([path], self._output.sidecars)

    def _own_name(self, shard: int) -> re.Pattern[str]:
        """Return a pattern for the names of the files that workers write into a shard's folder."""
        first = image_key(shard * self._record.options.shard_size, self._record.options.shard_size)
        offset = len(first) - len(shard_name(shard))
        packed = packed_name(shard, self._output)
        other = "" if packed is None else f"|{re.escape(packed)}"
        extensions = "|".join(sorted({*EXTENSIONS.values(), *self._output.sidecars}))
        file = rf"(?:{shard_name(shard)}[0-9]{{{offset}}}\.(?:{extensions})|{FILE_PATTERN})"
        # A worker that died can leave a file that claims a name.
        return re.compile(rf"{shard_name(shard)}/(?:{file}|\.{file}\.claim){other}")

    def _check_foreign_files(self) -> None:
        foreign = next(self._foreign_files(), None)
        if foreign is not None:
            raise UsageError(
                f"The run in {self._store.location} can't be overwritten",
                f"{foreign} does not belong to that run, and would be mixed with the files of the new run",
                "Move that file to another place, or choose another --out.",
            )

    def _foreign_files(self) -> Iterator[str]:
        """Yield the names of files that are in the run's folders but do not belong to the run."""
        own = {NAME, FAILURES_NAME, REPORT_NAME, plan.FOLDER}
        plans = {plan.name(shard) for shard in range(self._shards)}
        yield from (name for name in self._store.list_files(plan.FOLDER) if name not in plans)
        for shard in range(self._shards):
            packed = packed_name(shard, self._output)
            own |= {shard_name(shard), manifest.name(shard), manifest.stats_name(shard), packed or shard_name(shard)}
            pattern = self._own_name(shard)
            yield from (name for name in self._store.list_files(shard_name(shard)) if not pattern.fullmatch(name))
        other = RunFile.find_run_file(self._store, own)
        if other is not None:
            yield other
