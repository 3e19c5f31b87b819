"""A previous run, joined by URL with the requests of a run that refreshes it.

The previous run is only read. Its manifests that stand are used, whether it is complete or not; where it has a URL more
than once, its first image counts.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa

from producer.output.folder import existing_run
from producer.output.run_file import PlanState, RunConfig, RunFile, resume_command
from producer.planning.url_index import UrlIndex
from tasks.download.conditional import usable_validators
from tasks.errors import CommandError, StorageError, UsageError
from tasks.model import PREVIOUS_IMAGE_FIELDS, FetchOptions, ImageRequest, PreviousImage, ResizeMode, Verify, shard_name
from tasks.storage import manifest, plan
from tasks.storage.shard_parquet import CorruptShardFileError, ShardRef
from tasks.storage.store import TEMPORARY_FOLDER, Store

_log = logging.getLogger(__name__)
#: Where the index of its URLs is, below the output folder, while the plan is made.
_INDEX = f"{TEMPORARY_FOLDER}/previous_run"
#: A place in a previous run is its shard, and below that its row.
_ROW_BITS = 32
_COLUMNS = ["url", "status", "tls_unverified", *PREVIOUS_IMAGE_FIELDS]
#: Those that tell which rows are worth a place in the index.
_INDEX_COLUMNS = ["url", "status", "etag", "last_modified"]
#: What a saved image's row says in any case.
_REQUIRED_COLUMNS = ("path", "width", "height", "format", "bytes", "sha256")


class PreviousRun:
    """A run whose images may be taken over."""

    def __init__(self, folder: Path, out: Path, fetch: FetchOptions) -> None:
        """Take its folder, and the output folder and the options of the run that refreshes it.

        Raises:
            UsageError: there is no run, or none whose images may be taken over as they are.
            CommandError: its record can't be trusted.
        """
        try:
            self._store, self._out = existing_run(folder), Store(out.resolve())
        except UsageError as error:
            hint = "Give the folder that --out named when the previous run was begun."
            raise UsageError(f"{error.what} (--refresh-from)", error.why, hint) from error
        if self._store.root == self._out.root:
            raise UsageError(
                f"{folder} can't be refreshed in itself",
                "--out and --refresh-from name the same folder, and a run's files are never mixed with another's",
                "Choose another --out. What is unchanged takes no space twice where the disk knows hard links.",
            )
        if self._out.root.is_relative_to(self._store.root):
            raise UsageError(
                f"{folder} can't be refreshed inside of itself",
                "--out is below the folder that --refresh-from names, and would go with it when that is removed",
                "Choose an --out beside it.",
            )
        self._record = RunFile.load(self._store)
        unlike = _incompatible_options(self._record.options.fetch, fetch)
        if unlike is not None:
            raise UsageError(
                f"The images of {folder} can't be taken over",
                f"this run would have {unlike}",
                "Give the options of that run, as its run.json has them, or leave --refresh-from out.",
            )

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self._store.root

    def join(self, requests: Iterable[ImageRequest], shard_size: int) -> Iterator[ImageRequest]:
        """Yield the requests, each with what the previous run has saved of its URL, if it has.

        They are read a shard at a time, so that who feeds them slowly is not waited for longer than without this.

        Raises:
            CommandError: a manifest of the previous run can't be trusted. Nothing was yielded yet, unless it was
                changed since.
            StorageError: there is no room for the index.
        """
        source = iter(requests)
        try:
            with UrlIndex(self._out.path(_INDEX)) as index:
                self._add_all(index)
                while shard := list(islice(source, shard_size)):
                    yield from self._join(shard, index)
        except OSError as error:
            raise StorageError(f"could not index {self.folder}: {error.strerror or error}") from error

    def _shards(self) -> Iterator[int]:
        """Yield the shards whose manifests stand."""
        planned: Iterable[int]
        if self._record.plan is PlanState.COMPLETE:
            planned = range(self._record.planned_shards)
        else:
            planned = takewhile(lambda shard: self._store.exists(plan.name(shard)), count())
        return (shard for shard in planned if self._store.exists(manifest.name(shard)))

    def _add_all(self, index: UrlIndex) -> None:
        for shard in self._shards():
            table = self._table(shard, _INDEX_COLUMNS)
            columns = (table[name].to_pylist() for name in _INDEX_COLUMNS)
            for row, (url, status, etag, last_modified) in enumerate(zip(*columns, strict=True)):
                if status == "success" and (etag is not None or last_modified is not None):
                    index.add(url, shard << _ROW_BITS | row)

    def _join(self, requests: Sequence[ImageRequest], index: UrlIndex) -> Iterator[ImageRequest]:
        wanted = {request.url for request in requests}
        places: dict[int, set[int]] = defaultdict(set)
        for url in wanted:
            for place in index.find(url):
                places[place >> _ROW_BITS].add(place & ((1 << _ROW_BITS) - 1))
        found: dict[str, PreviousImage] = {}
        for shard in sorted(places):
            rows = sorted(places[shard])
            for row in self._table(shard, _COLUMNS).take(pa.array(rows)).to_pylist():
                # Another URL may have the same hash.
                if row["url"] in wanted and row["url"] not in found and (previous := _reusable_image(row)) is not None:
                    found[row["url"]] = previous
        for request in requests:
            previous = found.get(request.url)
            yield request if previous is None else replace(request, previous=previous)

    def _table(self, shard: int, columns: Sequence[str]) -> pa.Table:
        name = manifest.name(shard)
        try:
            return manifest.decode(self._store.read(name), columns, ShardRef(self._record.id, shard))
        except (CorruptShardFileError, StorageError) as error:
            raise CommandError(
                f"{self._store.path(name)} can't be trusted",
                f"it should hold the Outcomes of shard {shard_name(shard)} of the previous run: {error}",
                "Put a copy of it back that is whole; or remove it, and what it named is downloaded. "
                f"Then go on by `{resume_command(self._out)}`.",
            ) from error


def join_previous_images(requests: Iterable[ImageRequest], options: RunConfig, out: Store) -> Iterator[ImageRequest]:
    """Return the requests of a run, with what the previous run that it refreshes has saved, if it refreshes any.

    A previous run that is no longer there is no reason to stop: what is left of the list is downloaded.

    Raises: as `PreviousRun` and its ``joined``, at the first request.
    """
    if options.previous_run is None:
        yield from requests
        return
    try:
        previous = PreviousRun(Path(options.previous_run), out.root, options.fetch)
    except UsageError as error:
        _log.warning("nothing more is taken over from %s: %s. %s", options.previous_run, error.what, error.why)
        yield from requests
        return
    yield from previous.join(requests, options.shard_size)


def _reusable_image(row: Mapping[str, Any]) -> PreviousImage | None:
    """Return what a manifest's row says of an image that may be taken over; None if it may not."""
    # The word of a server that was verified says nothing of bytes that came from one that was not.
    if row["status"] != "success" or row.get("tls_unverified") or any(row[name] is None for name in _REQUIRED_COLUMNS):
        return None
    previous = PreviousImage.from_json(row)
    return None if usable_validators(previous) is None else previous


def _incompatible_options(before: FetchOptions, now: FetchOptions) -> str | None:
    """Return what a run would have of an image that its former one does not have, or would not have at all."""
    if before.resize != now.resize:
        return "them in another size (--resize, --image-size)"
    if now.resize.mode is ResizeMode.NO and now.verify is Verify.DECODE and before.verify is not Verify.DECODE:
        return "each decoded before it is saved (--verify decode)"
    if before.max_bytes > now.max_bytes or before.max_pixels > now.max_pixels:
        return f"none of more than {now.max_bytes:,} bytes or {now.max_pixels:,} pixels (--max-bytes)"
    if before.ignore_opt_out and not now.ignore_opt_out:
        return "none whose server has opted out, which that run did not ask (--ignore-opt-out)"
    return None
