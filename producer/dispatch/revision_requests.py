"""Read a shard's requests for the current revision. In a retry, these are only the repeated requests."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute

from producer.output.shard_files import load_manifest, load_requests
from producer.output.summary import COLUMNS
from tasks.model import ImageRequest, RunOptions, image_key
from tasks.storage import manifest, shard_status
from tasks.storage.store import Store

#: The annotations of pyarrow lack functions of a column.
pc: Any = pyarrow.compute


class RevisionRequests:
    """Reads the requests of a run's current revision."""

    def __init__(self, options: RunOptions, store: Store, retried: Collection[str]) -> None:
        """Take the run's options, its folder, and the failure reasons to retry."""
        self._run_id, self._options, self._store = options.run_id, options, store
        self._retried = frozenset(retried)

    def is_done(self, shard: int) -> bool:
        """Return whether the manifest of a shard belongs to the current revision."""
        return shard_status.is_done(shard, self._options.revision, self._store)

    def load(self, shard: int) -> list[ImageRequest]:
        """Return a shard's requests for the current revision.

        Raises:
            CommandError: the shard's plan or manifest is damaged.
        """
        return self._select(shard, load_requests(shard, self._store, self._run_id))

    def finished_rows(self, shard: int) -> pa.Table:
        """Return the rows of a shard's manifest that the current revision does not repeat, with the columns `COLUMNS`.

        Raises:
            CommandError: the manifest is missing or damaged.
        """
        rows = load_manifest(shard, self._store, self._run_id, COLUMNS)
        if not self._retried or self.is_done(shard):
            return rows
        retried = pa.array(sorted(self._retried), pa.string())
        return rows.filter(pc.invert(pc.is_in(rows["reason"], value_set=retried)))

    def _select(self, shard: int, requests: list[ImageRequest]) -> list[ImageRequest]:
        """Select the requests for the current revision from all requests of a shard.

        The images that were never tried, because their hosts rested, come first.
        """
        if not self._options.revision or not self._store.exists(manifest.name(shard)):
            return requests
        columns = ["key", "reason", "attempts"]
        rows = load_manifest(shard, self._store, self._run_id, columns).to_pylist()
        retried = {row["key"]: row["attempts"] for row in rows if row["reason"] in self._retried}
        keys = [image_key(request.index, self._options.shard_size) for request in requests]
        chosen = [(request, retried[key]) for request, key in zip(requests, keys, strict=True) if key in retried]
        chosen.sort(key=lambda pair: pair[1] > 0)
        return [request for request, _ in chosen]
