"""The gallery finds the images of a page without reading all manifests, and survives a damaged manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pytest

from producer.gallery.gallery import PAGE_SIZE, Gallery
from producer.gallery.image_files import ImageUnavailableError
from producer.gallery.image_filter import ImageFilter
from producer.output.run_file import State
from tasks.model import Reason
from tasks.storage import manifest, shard_parquet
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.gallery_runs import Picture, add_shard, make_gallery_run
from tests.unit.conftest import image

_ALL = ImageFilter()


def pictures(count: int) -> list[Picture]:
    """Return rows of which every tenth has failed, and every other row is from another host."""
    body = image()
    return [
        Picture(f"http://{'ab'[place % 2]}.example/{place}", None if place % 10 == 3 else body, reason=Reason.DNS)
        for place in range(count)
    ]


class CountingStore(LocalStore):
    """A store that records which files are read."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store.root)
        self.reads: list[str] = []

    def read(self, name: str) -> bytes:
        """Record and read."""
        self.reads.append(name)
        return super().read(name)


def positions(gallery: Gallery, chosen: ImageFilter) -> list[str]:
    """Return the keys of all pages, one after another."""
    found: list[str] = []
    number, more = 1, True
    while more:
        page = gallery.page(chosen, number)
        assert [tile.position for tile in page.tiles] == list(range(len(found), len(found) + len(page.tiles)))
        found += [tile.values["key"] for tile in page.tiles]
        number, more = number + 1, page.has_next
    return found


def test_pages_have_each_image_once(store: LocalStore) -> None:
    """Pages over shards of any size have all chosen images, in the order of the list."""
    make_gallery_run(store, pictures(150), 17)
    gallery = Gallery(store)
    everything = positions(gallery, _ALL)
    assert len(set(everything)) == 150
    assert everything == sorted(everything)
    assert len(positions(gallery, ImageFilter(reason="dns"))) == 15
    assert len(positions(gallery, ImageFilter(host="a.example", status="success"))) == 75
    assert positions(gallery, ImageFilter(host="c.example")) == []


def test_first_page_reads_only_its_shards(store: LocalStore) -> None:
    """The first page of a long run reads the run's record and the first shards, although it knows the total."""
    make_gallery_run(store, pictures(300), PAGE_SIZE)
    counting = CountingStore(store)
    page = Gallery(counting).page(_ALL, 1)
    assert (len(page.tiles), page.progress.total, page.last, page.has_next) == (PAGE_SIZE, 300, 5, True)
    assert {name for name in counting.reads if name.endswith(".parquet")} == {"00000.parquet"}


def test_search_goes_on(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that takes too long ends with an incomplete page, and the next requests complete it."""
    make_gallery_run(store, pictures(100), 10)
    monkeypatch.setattr("producer.gallery.gallery.SEARCH_SECONDS", 0.0)
    gallery, chosen = Gallery(store), ImageFilter(reason="dns")
    page = gallery.page(chosen, 1)
    assert (page.tiles, page.is_ready, page.last) == ((), False, None)
    assert gallery.counts(0.0) is None
    monkeypatch.undo()
    assert gallery.progress(chosen).total == 10
    assert len(gallery.page(chosen, 1).tiles) == 10
    counts = gallery.counts(10.0)
    assert counts is not None
    assert counts["host"] == {"a.example": 50, "b.example": 50}
    assert counts["reason"] == {"dns": 10}


def test_image_page_has_the_whole_row(store: LocalStore) -> None:
    """An image's page has all columns of its row, and knows whether its file can be shown."""
    make_gallery_run(store, pictures(20), 10)
    (store.root / "00001" / "000011.png").unlink()
    gallery = Gallery(store)
    saved, failed, missing = (gallery.image_row(_ALL, position) for position in (0, 3, 11))
    assert saved is not None
    assert failed is not None
    assert missing is not None
    assert saved.tile.values["url"] == "http://a.example/0"
    assert set(manifest.decode(store.read("00000.parquet")).column_names) == set(saved.tile.values)
    assert (saved.problem, saved.is_readable) == (None, True)
    assert (failed.problem, failed.is_readable) == (None, False)
    assert missing.problem is not None
    assert "is not in the output folder" in missing.problem
    assert gallery.image_row(_ALL, 20) is None
    assert gallery.image(0, 0).body == image()
    for shard, row in ((0, 3), (0, 10), (7, 0)):
        with pytest.raises(ImageUnavailableError):
            gallery.image(shard, row)


def test_damaged_manifest_is_named(store: LocalStore) -> None:
    """The images of the other shards are shown, and the damage is explained."""
    make_gallery_run(store, pictures(30), 10)
    body = store.read("00001.parquet")
    store.replace("00001.parquet", body[:500] + b"\0" + body[501:])
    gallery = Gallery(store)
    assert len(positions(gallery, _ALL)) == 20
    (text,) = gallery.damage.values()
    assert "00001.parquet is unusable" in text


def test_manifest_without_a_column_is_named(store: LocalStore) -> None:
    """A valid manifest may lack columns. Its images are left out, the page says why, and tiles link to their images."""
    record = make_gallery_run(store, pictures(30), 10)
    rows = manifest.decode(store.read("00001.parquet")).drop_columns(["path", "width"])
    store.replace("00001.parquet", shard_parquet.encode(rows, ShardRef(record.id, 1)))
    gallery, chosen = Gallery(store), ImageFilter(status="success")
    tiles = gallery.page(chosen, 1).tiles
    assert [tile.shard for tile in tiles] == [0] * 9 + [2] * 9
    last = gallery.image_row(chosen, tiles[-1].position)
    assert last is not None
    assert last.tile.values["key"] == tiles[-1].values["key"]
    assert gallery.image_row(chosen, 12) is None
    (text,) = gallery.damage.values()
    assert text.endswith("00001.parquet lacks the columns path, width")


def test_search_goes_on_while_shards_appear(store: LocalStore) -> None:
    """Shards may finish faster than a search. Each shard is searched and counted only once, unless it is damaged."""
    rows = pictures(50)
    record = make_gallery_run(store, rows[:20], 10)
    record = record.save(store, state=State.RUNNING, planned_rows=50, planned_shards=5)
    add_shard(store, record, 3, rows[30:40])
    body = store.read("00001.parquet")
    store.replace("00001.parquet", body[:500] + b"\0" + body[501:])
    counting, chosen = CountingStore(store), ImageFilter(reason="dns")
    gallery = Gallery(counting)
    assert gallery.progress(chosen).found == 2
    assert gallery.counts(10.0) is not None
    store.replace("00001.parquet", body)
    add_shard(store, record, 2, rows[20:30])
    add_shard(store, record, 4, rows[40:])
    counting.reads.clear()
    assert gallery.page(chosen, 2).progress.total == 5
    counts = gallery.counts(10.0)
    assert counts is not None
    assert counts["reason"] == {"dns": 5}
    read = {name for name in counting.reads if name.endswith(".parquet")}
    assert read == {"00001.parquet", "00002.parquet", "00004.parquet"}
    assert positions(gallery, chosen) == ["000003", "000013", "000023", "000033", "000043"]
    assert gallery.damage == {}


def test_tiles_of_replaced_manifests_link_to_their_images(store: LocalStore) -> None:
    """While a retry replaces manifests, each tile still links to its own image."""
    rows = pictures(30)
    record = make_gallery_run(store, rows, 10)
    gallery, chosen = Gallery(store), ImageFilter(reason="dns")
    assert len(gallery.page(chosen, 1).tiles) == 3
    saved = manifest.decode(store.read("00000.parquet"))
    saved = saved.set_column(saved.column_names.index("reason"), "reason", pa.nulls(10, pa.string()))
    store.replace("00000.parquet", shard_parquet.encode(saved, ShardRef(record.id, 0, 1)))
    for tile in gallery.page(chosen, 1).tiles:
        found = gallery.image_row(chosen, tile.position)
        assert found is not None
        assert found.tile.values["key"] == tile.values["key"]


def test_new_shards_appear(store: LocalStore) -> None:
    """While a run goes on, each page looks for new shards. Counts and searches then begin again."""
    rows: Sequence[Picture] = pictures(30)
    record = make_gallery_run(store, rows[:20], 10).save(store, state=State.RUNNING, planned_rows=30, planned_shards=3)
    gallery = Gallery(store)
    page = gallery.page(_ALL, 1)
    assert (page.progress.total, page.progress.is_complete) == (20, True)
    add_shard(store, record, 2, rows[20:])
    record.save(store, state=State.COMPLETE)
    assert gallery.page(_ALL, 1).progress.total == 30
    assert gallery.record == replace(record, state=State.COMPLETE)
