"""Match the requests of a run, by URL, to the images of its previous run.

The previous run is only read. If the previous run is incomplete, its existing manifests are used. If the previous run
contains a URL several times, the first image of that URL is used.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from config.locations import Location, parse_location
from producer.output.folder import existing_run
from producer.output.run_file import RunConfig, RunFile, resume_command
from producer.output.shard_files import finished_shards, planned_shards
from producer.planning.url_index import UrlIndex
from producer.sources.request_stream import RequestStream, closing_source, schema_of
from tasks.download.conditional import usable_validators
from tasks.errors import CommandError, StorageError, UsageError
from tasks.image_options import NO_FILTER
from tasks.model import (
    PREVIOUS_IMAGE_FIELDS,
    FetchOptions,
    ImageRequest,
    OutputFormat,
    PreviousImage,
    Verify,
    shard_name,
)
from tasks.storage import manifest
from tasks.storage.shard_parquet import CorruptShardFileError, ShardRef
from tasks.storage.store import Store

_log = logging.getLogger(__name__)
#: The scratch folder for the URL index while the list is planned.
_INDEX = "previous_run"
#: A place in a previous run is a number with the shard in its high bits and the row in its low bits.
_ROW_BITS = 32
_COLUMNS = ["url", "status", "tls_unverified", *PREVIOUS_IMAGE_FIELDS]
#: The columns that decide which rows are indexed.
_INDEX_COLUMNS = ["url", "status", "etag", "last_modified"]
#: Columns with a value for every saved image.
_REQUIRED_COLUMNS = ("path", "format", "bytes", "sha256")


class PreviousRun:
    """A previous run with reusable images."""

    def __init__(self, folder: Location, out: Store, fetch: FetchOptions) -> None:
        """Open the previous run in ``folder``. The new run has the given output folder and options.

        Raises:
            UsageError: the folder holds no run, or its images can't be reused with these options.
            CommandError: the previous run's run.json is damaged.
        """
        try:
            self._store, self._out = existing_run(folder), out
        except UsageError as error:
            hint = "Give the folder that the previous run was started with (--out)."
            raise UsageError(f"{error.what} (--refresh-from)", error.why, hint) from error
        if self._store.location == self._out.location:
            raise UsageError(
                f"{folder} can't be refreshed into the same folder",
                "--out and --refresh-from are the same folder, but a folder can't hold the files of two runs",
                "Choose another --out. On a disk with hard links, unchanged images take no extra space.",
            )
        if self._out.is_within(self._store):
            raise UsageError(
                f"{folder} can't be refreshed inside of itself",
                "--out is inside the --refresh-from folder, and would be deleted together with it",
                "Choose an --out outside of that folder.",
            )
        self._record = RunFile.load_usable(self._store)
        options = self._record.options
        output, path_col = options.output, options.source.path_col
        if output.format is not OutputFormat.FILES or options.has_own_names:
            raise UsageError(
                f"The images of {folder} can't be reused",
                f"they are packed (--output-format {output.format})"
                if output.format is not OutputFormat.FILES
                else f"they have other names ({'--path-template' if path_col is None else '--path-col'})",
                "Omit --refresh-from. Only a run that saves images as files, with the default names, can be refreshed.",
            )
        unlike = _incompatible_options(self._record.options.fetch, fetch)
        if unlike is not None:
            raise UsageError(
                f"The images of {folder} can't be reused",
                f"this run asks for {unlike}",
                "Use the options in that run's run.json, or omit --refresh-from.",
            )

    @property
    def folder(self) -> str:
        """The location of the previous run."""
        return self._store.location

    def join(self, requests: Iterable[ImageRequest], shard_size: int) -> Iterator[ImageRequest]:
        """Yield the requests, each with the previous run's image of the same URL, if there is one.

        The requests are read one shard at a time. So the join does not delay the plan of a shard from a slow source.

        Raises:
            CommandError: a manifest of the previous run is damaged. The error comes before the first request, unless
                the manifest was changed later.
            StorageError: the index can't be written, for example because the disk is full.
        """
        try:
            with (
                closing_source(requests) as source,
                self._out.scratch_folder(_INDEX) as folder,
                UrlIndex(folder) as index,
            ):
                self._add_all(index)
                while shard := list(islice(source, shard_size)):
                    yield from self._join(shard, index)
        except OSError as error:
            raise StorageError(f"could not index {self.folder}: {error.strerror or error}") from error

    def _shards(self) -> list[int]:
        """Return the numbers of the shards with a manifest."""
        return finished_shards(planned_shards(self._record, self._store), self._store)

    def _add_all(self, index: UrlIndex) -> None:
        for shard in self._shards():
            table = self._table(shard, _INDEX_COLUMNS)
            columns = (table[name].to_pylist() for name in _INDEX_COLUMNS)
            for row, (url, status, etag, last_modified) in enumerate(zip(*columns, strict=True)):
                if status == "success" and (etag is not None or last_modified is not None):
                    index.add(url, shard << _ROW_BITS | row)

    def _join(self, requests: Sequence[ImageRequest], index: UrlIndex) -> Iterator[ImageRequest]:
        wanted = {request.url for request in requests if request.refused is None}
        places: dict[int, set[int]] = defaultdict(set)
        for url in wanted:
            for place in index.find(url):
                places[place >> _ROW_BITS].add(place & ((1 << _ROW_BITS) - 1))
        found: dict[str, PreviousImage] = {}
        for shard in sorted(places):
            rows = sorted(places[shard])
            for row in self._table(shard, _COLUMNS).take(pa.array(rows)).to_pylist():
                # Several URLs can have the same hash.
                if row["url"] in wanted and row["url"] not in found and (previous := _reusable_image(row)) is not None:
                    found[row["url"]] = previous
        for request in requests:
            previous = found.get(request.url) if request.refused is None else None
            yield request if previous is None else request._replace(previous=previous)

    def _table(self, shard: int, columns: Sequence[str]) -> pa.Table:
        name = manifest.name(shard)
        try:
            return manifest.decode(self._store.read(name), columns, ShardRef(self._record.id, shard))
        except (CorruptShardFileError, StorageError) as error:
            raise CommandError(
                f"{self._store.describe(name)} is unusable",
                f"it is not a valid manifest of shard {shard_name(shard)} of the previous run: {error}",
                "Restore a good copy, or remove the file to download its images again. "
                f"Then continue with `{resume_command(self._out)}`.",
            ) from error


def join_previous_images(requests: Iterable[ImageRequest], options: RunConfig, out: Store) -> RequestStream:
    """Return the requests of a run. If the run refreshes a previous run, they have the images of that run.

    If the previous run no longer exists, a warning is logged, and the remaining images are downloaded without reuse.

    The errors of `PreviousRun` and of its ``join`` are raised at the first request.
    """
    return RequestStream(lambda: (schema_of(requests), _join(requests, options, out)))


def _join(requests: Iterable[ImageRequest], options: RunConfig, out: Store) -> Iterator[ImageRequest]:
    if options.previous_run is None:
        with closing_source(requests) as source:
            yield from source
        return
    try:
        previous = PreviousRun(parse_location(options.previous_run), out, options.fetch)
    except UsageError as error:
        _log.warning("no further images are reused from %s: %s. %s", options.previous_run, error.what, error.why)
        with closing_source(requests) as source:
            yield from source
        return
    yield from previous.join(requests, options.shard_size)


def _reusable_image(row: Mapping[str, Any]) -> PreviousImage | None:
    """Return the image of a manifest's row, or None if it can't be reused."""
    # A verified server may report "unchanged", but that proves nothing about bytes that came from an unverified server.
    if row["status"] != "success" or row.get("tls_unverified") or any(row[name] is None for name in _REQUIRED_COLUMNS):
        return None
    previous = PreviousImage.from_json(row)
    return None if usable_validators(previous) is None else previous


def _incompatible_options(before: FetchOptions, now: FetchOptions) -> str | None:
    """Return a requirement of this run that the previous run does not guarantee, or None."""
    if before.resize != now.resize:
        return "images of another size or encoding (--resize, --image-size, --encode-format, …)"
    if now.filters not in (NO_FILTER, before.filters):
        return "filtered images (--min-size, --max-area, --max-aspect-ratio)"
    if not set(before.formats) <= set(now.formats):
        return f"images in the formats {', '.join(now.formats)} (--formats)"
    if (now.extract_exif and not before.extract_exif) or (now.phash and not before.phash):
        return "facts about images that the previous run did not record (--extract-exif, --phash)"
    if not now.resize.encodes and now.verify is Verify.DECODE and before.verify is not Verify.DECODE:
        return "images that were decoded before saving (--verify decode)"
    if before.max_bytes > now.max_bytes or before.max_pixels > now.max_pixels:
        return f"images of at most {now.max_bytes:,} bytes and {now.max_pixels:,} pixels (--max-bytes)"
    if before.ignore_opt_out and not now.ignore_opt_out:
        return "images without an opt-out, which the previous run did not check (--ignore-opt-out)"
    return None
