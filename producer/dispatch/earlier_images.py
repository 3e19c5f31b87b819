"""Count the images of a run that earlier commands have finished, so that its progress covers the whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from producer.dispatch.revision_requests import RevisionRequests
from producer.output.shard_files import finished_shards
from producer.output.summary import summarise
from tasks.model import Outcome
from tasks.storage.parallel import parallel_map
from tasks.storage.store import Store


class EarlierImages:
    """The numbers of images, and of saved bytes, that earlier commands of a run have finished; at first, all are 0."""

    def __init__(self, requests: RevisionRequests, store: Store) -> None:
        """Take the requests of the current revision, and the run's folder."""
        self._requests, self._store = requests, store
        self._counted: set[int] = set()
        self.success = self.failed = self.bytes = 0
        #: The number of failed images for each reason.
        self.reasons: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """The number of all these images."""
        return self.success + self.failed

    def count_all(self, shards: int) -> None:
        """Count the images of all manifests among the first shards, unless they are counted already.

        Raises:
            StorageError: the folder can't be listed.
            CommandError: a manifest is damaged.
        """
        self._count(finished_shards(shards, self._store))

    def count_shard(self, shard: int) -> None:
        """Count the images of a shard that has a manifest, unless they are counted already.

        Raises:
            CommandError: the manifest is missing or damaged.
        """
        self._count([shard])

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Add images that are not in a manifest yet."""
        for outcome in outcomes:
            self.success += outcome.ok
            self.failed += not outcome.ok
            self.bytes += outcome.bytes or 0
            if outcome.reason is not None:
                self.reasons[outcome.reason.value] += 1

    def _count(self, shards: Sequence[int]) -> None:
        found = [shard for shard in shards if shard not in self._counted]
        if not found:
            return
        summary = summarise(parallel_map(self._requests.finished_rows, found, self._store))
        self._counted.update(found)
        self.success += summary.success
        self.failed += summary.failed
        self.bytes += summary.bytes
        self.reasons.update(summary.reasons)
