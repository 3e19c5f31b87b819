"""Answer the gallery's questions about a run: a page of images, one image with its manifest row, and the counts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from producer.gallery.content_types import UNSHOWN_FORMATS, TypedImage
from producer.gallery.facets import Facets
from producer.gallery.image_files import ImageReader, ImageUnavailableError
from producer.gallery.image_filter import ImageFilter
from producer.gallery.run_folder import TILE_COLUMNS, RunFolder
from producer.gallery.search import Search
from producer.output.run_file import PlanState, RunFile
from tasks.storage.store import Store

#: The number of images on a page. It fills rows of 2, 3, 4, 5, 6, 10 and 12 images.
PAGE_SIZE = 60
#: The longest time in seconds that one request searches. The next request continues the search.
SEARCH_SECONDS = 0.4
#: The number of filters whose searches stay in memory.
_CACHED_SEARCHES = 16


@dataclass(frozen=True, slots=True)
class Tile:
    """An image on a page: its position among the chosen images, its place in the manifests, and its row's values."""

    position: int
    shard: int
    row: int
    values: Mapping[str, Any]

    @property
    def is_saved(self) -> bool:
        """Whether the image has a file."""
        return self.values["path"] is not None

    @property
    def is_shown(self) -> bool:
        """Whether browsers show the image's format."""
        return self.is_saved and self.values["format"] not in UNSHOWN_FORMATS


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is."""

    #: The number of images found so far.
    found: int
    searched: int
    shards: int
    #: The number of all chosen images; None while it is unknown.
    total: int | None

    @property
    def is_complete(self) -> bool:
        """Whether all shards were searched."""
        return self.searched == self.shards


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the chosen images. Pages count from 1."""

    number: int
    tiles: tuple[Tile, ...]
    progress: Progress

    @property
    def is_ready(self) -> bool:
        """Whether the page has all its images."""
        return self.progress.is_complete or self.progress.found >= self.number * PAGE_SIZE

    @property
    def last(self) -> int | None:
        """The number of the last page; None while it is unknown."""
        total = self.progress.total
        return None if total is None else max(1, -(-total // PAGE_SIZE))

    @property
    def has_next(self) -> bool:
        """Whether there is a further page, or may be one."""
        return not self.progress.is_complete or self.progress.found > self.number * PAGE_SIZE


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image with all columns of its manifest row."""

    tile: Tile
    #: Why there is no image to show; None if there is one.
    problem: str | None
    #: Whether the image's file can be opened.
    is_readable: bool
    progress: Progress


class Gallery:
    """A run's images, as the gallery shows them. Threads may share it."""

    def __init__(self, store: Store) -> None:
        """Open the run in a folder.

        Raises:
            UsageError: the folder holds no run.
            CommandError, StorageError: the folder or the run's record can't be read.
        """
        self._folder = RunFolder(store)
        self.location = store.location
        self._lock = threading.Lock()
        self._searches: OrderedDict[ImageFilter, Search]
        self._facets: Facets
        self._forget()

    @property
    def record(self) -> RunFile:
        """The run's record."""
        return self._folder.state.record

    @property
    def damage(self) -> Mapping[int, str]:
        """The damaged manifests found so far: the shards' numbers, each with an explanation."""
        return self._folder.damage

    def page(self, chosen: ImageFilter, number: int) -> Page:
        """Return a page of the chosen images. While the search goes on, the page may lack images.

        Raises:
            UsageError, CommandError, StorageError: the run's record can't be read any more.
        """
        self._refresh()
        search = self._search(chosen)
        search.advance(number * PAGE_SIZE, SEARCH_SECONDS)
        start = (number - 1) * PAGE_SIZE
        return Page(number, self._tiles(search, start, start + PAGE_SIZE), self._progress(chosen, search))

    def progress(self, chosen: ImageFilter) -> Progress:
        """Search further, and return how far the search is."""
        search = self._search(chosen)
        search.advance(float("inf"), SEARCH_SECONDS)
        return self._progress(chosen, search)

    def counts(self, seconds: float) -> dict[str, dict[str, int]] | None:
        """Count for some seconds. Return the numbers of images by property and value; None until all are counted."""
        facets = self._facets
        facets.advance(seconds)
        return facets.counts()

    def image_row(self, chosen: ImageFilter, position: int) -> ImageRow | None:
        """Return the chosen image at a position, with its manifest row. Return None if there is none."""
        search = self._search(chosen)
        # One more, to know whether there is a next image.
        search.advance(position + 2, SEARCH_SECONDS)
        for _, shard, rows in search.images(position, position + 1):
            table = self._folder.rows(shard)
            if table is not None and rows[0] < table.num_rows:
                tile = Tile(position, shard, rows[0], table.slice(rows[0], 1).to_pylist()[0])
                return ImageRow(tile, *self._check(tile), self._progress(chosen, search))
        return None

    def image(self, shard: int, row: int) -> TypedImage:
        """Return the image of a manifest row.

        Raises:
            ImageUnavailableError: there is no such image, or it can't be read.
        """
        table = self._folder.recent_rows(shard, TILE_COLUMNS) if shard in self._shards else None
        if table is None or row >= table.num_rows:
            raise ImageUnavailableError("There is no such row.")
        key, path = table["key"][row].as_py(), table["path"][row].as_py()
        if path is None:
            raise ImageUnavailableError("No image was saved for this row.")
        return self._reader.read(key, path)

    def _check(self, tile: Tile) -> tuple[str | None, bool]:
        """Return why there is no image to show, and whether the image's file can be opened."""
        if not tile.is_saved:
            return None, False
        try:
            self._reader.read(tile.values["key"], tile.values["path"])
        except ImageUnavailableError as error:
            return str(error), False
        return None if tile.is_shown else f"Browsers don't show images in the format {tile.values['format']}.", True

    def _tiles(self, search: Search, start: int, stop: int) -> tuple[Tile, ...]:
        found: list[Tile] = []
        # The images of a damaged shard keep their positions, so that each tile links to its own image.
        for first, shard, rows in search.images(start, stop):
            table = self._folder.recent_rows(shard, TILE_COLUMNS)
            if table is not None:
                values = table.take(rows).to_pylist()
                found += [Tile(first + place, shard, row, values[place]) for place, row in enumerate(rows)]
        return tuple(found)

    def _progress(self, chosen: ImageFilter, search: Search) -> Progress:
        shards = len(self._shards)
        total = search.found if search.is_complete else None
        record = self.record
        if total is None and chosen.is_empty and record.plan is PlanState.COMPLETE and shards == record.planned_shards:
            total = record.planned_rows
        return Progress(search.found, search.searched, shards, total)

    def _search(self, chosen: ImageFilter) -> Search:
        with self._lock:
            search = self._searches.setdefault(chosen, Search(self._folder, chosen))
            self._searches.move_to_end(chosen)
            if len(self._searches) > _CACHED_SEARCHES:
                self._searches.popitem(last=False)
            return search

    def _refresh(self) -> None:
        before = self._folder.state
        if not self._folder.refresh():
            return
        with self._lock:
            if not self._folder.state.extends(before):
                self._forget()
                return
            # While shards finish faster than a search, a search that begins again would never end.
            self._shards = frozenset(self._folder.state.shards)
            self._searches = OrderedDict((chosen, search.renewed()) for chosen, search in self._searches.items())
            self._facets.extend()

    def _forget(self) -> None:
        """Start all searches anew."""
        self._shards = frozenset(self._folder.state.shards)
        self._searches = OrderedDict()
        self._facets = Facets(self._folder)
        self._reader = ImageReader(self._folder.store, self._folder.state.record.options.output)
