"""Make the folder of a finished run with real images, as the producer and the workers would leave it, and serve it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from producer.gallery.gallery import Gallery
from producer.gallery.server import GalleryServer
from producer.output.run_file import PlanState, RunConfig, RunFile, State
from tasks.collect import collect
from tasks.model import ImageRequest, Outcome, OutputOptions, Reason, RunOptions, Status, image_key
from tasks.storage import plan
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import Store
from tests.runs import RUN_ID
from tests.waiting import PATIENCE


@dataclass(frozen=True)
class Picture:
    """A row of a run: the URL, and the saved file with the recorded format, or the reason of the failure."""

    url: str
    body: bytes | None = None
    format: str = "png"
    reason: Reason = Reason.TIMEOUT
    message: str = "no answer in time"
    size: tuple[int | None, int | None] = (4, 3)

    def outcome(self, key: str, path: str) -> Outcome:
        """Return the row's Outcome."""
        if self.body is None:
            return Outcome(key, self.reason.status, self.reason, self.message, finished_at=101.0)
        width, height = self.size
        facts = {"path": path, "width": width, "height": height, "format": self.format, "bytes": len(self.body)}
        return Outcome(key, Status.SUCCESS, finished_at=100.0, worker="w1", **facts)  # type: ignore[arg-type]


def make_gallery_run(
    store: Store, pictures: Sequence[Picture], shard_size: int = 10, output: OutputOptions | None = None
) -> RunFile:
    """Make a run of these rows in shards of the given size. Return the run's record."""
    output = output or OutputOptions()
    shards = -(-len(pictures) // shard_size)
    failed = sum(picture.body is None for picture in pictures)
    record = RunFile(
        RUN_ID,
        "list.txt",
        store.location,
        RunConfig(shard_size=shard_size, output=output),
        plan=PlanState.COMPLETE,
        planned_rows=len(pictures),
        planned_shards=shards,
        state=State.COMPLETE,
        totals={"total": len(pictures), "success": len(pictures) - failed, "failed": failed},
    )
    record.create(store)
    for shard in range(shards):
        add_shard(store, record, shard, pictures[shard * shard_size : (shard + 1) * shard_size])
    return record


def add_shard(store: Store, record: RunFile, shard: int, pictures: Sequence[Picture]) -> None:
    """Save a shard: its plan, its images and its manifest."""
    size = record.options.shard_size
    requests = [ImageRequest(shard * size + place, picture.url) for place, picture in enumerate(pictures)]
    store.create_durably(plan.name(shard), plan.encode(requests, ShardRef(record.id, shard)))
    outcomes = []
    for place, picture in enumerate(pictures):
        key = image_key(shard * size + place, size)
        path = f"{shard:05d}/{key}.{picture.format}"
        if picture.body is not None:
            store.create(path, picture.body)
        outcomes.append(picture.outcome(key, path))
    options = RunOptions(store.location, size, output=record.options.output, run_id=record.id)
    collect(shard, outcomes, options, store)


@contextmanager
def served(store: Store) -> Iterator[GalleryServer]:
    """Serve the gallery of a folder in a thread, until the block ends."""
    server = GalleryServer(Gallery(store), 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
