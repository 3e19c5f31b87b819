"""Thumbnails are small images, and no image can stop the report."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from producer.output.run_file import RunFile
from producer.report.contact_sheet import SheetImage, contact_sheet
from producer.report.thumbnails import ThumbnailMaker
from tasks.model import OutputFormat, OutputOptions
from tasks.outputs.packing import pack
from tasks.storage import manifest, shard_parquet
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.encoding import encoded
from tests.gallery_runs import Picture, make_gallery_run
from tests.unit.conftest import image
from tests.unit.report.made_run import make_run, outcome


def test_thumbnail_is_a_small_image() -> None:
    """A large image becomes a WebP of 160 pixels at most; a small one keeps its size."""
    large = encoded(Image.new("RGB", (2000, 500), "red"), "JPEG")
    with ThumbnailMaker() as maker:
        found = [Image.open(io.BytesIO(body)) for body in maker.make_all([large, image("GIF")])]
    assert [(each.format, each.size) for each in found] == [("WEBP", (160, 40)), ("WEBP", (4, 3))]


def test_unreadable_images_have_no_thumbnail() -> None:
    """Damaged, missing and empty files have no thumbnail, and the next image has one."""
    with ThumbnailMaker() as maker:
        found = list(maker.make_all([b"", b"<svg/>", None, image()[:-20], image()]))
    assert [bool(each) for each in found[:3]] == [False, False, False]
    assert found[4]


def test_image_that_kills_its_process() -> None:
    """If an image kills the process, the next image gets another process. After three deaths there is no other one."""
    with ThumbnailMaker() as maker:
        for _ in range(3):
            assert maker.make(image())
            assert maker._process is not None
            os.kill(maker._process.pid, signal.SIGKILL)
            maker._process.wait()
            assert maker.make(image()) == b""
        assert maker.make(image()) == b""
        assert maker._process is None


def make_sheet(store: LocalStore, rows: Sequence[dict[str, Any]] = ()) -> list[SheetImage]:
    """Return the contact sheet of the run in a folder."""
    with ThumbnailMaker() as maker:
        return contact_sheet(rows, RunFile.load(store), store, maker)


@pytest.mark.parametrize("kind", [OutputFormat.WEBDATASET, OutputFormat.PARQUET])
def test_contact_sheet_of_packed_images(tmp_path: Path, kind: OutputFormat) -> None:
    """Images of each packed file have thumbnails, and no link, because they have no file."""
    store = make_run(tmp_path / "out", [outcome(index) for index in range(15)])
    record = RunFile.load(store)
    record = record.save(store, options=replace(record.options, output=OutputOptions(kind)))
    for shard in range(2):
        ref = ShardRef(record.id, shard, 1)
        table = manifest.decode(store.read(manifest.name(shard)))
        store.replace(manifest.name(shard), shard_parquet.encode(pack(table, ref, record.options.output, store), ref))
    sheet = make_sheet(store)
    assert [each.row["key"] for each in sheet] == [outcome(index).key for index in range(15)]
    assert all(each.thumbnail and each.link is None for each in sheet)


def test_contact_sheet_of_a_large_packed_file(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a run has few packed files, there are more images of each. They are spread over the file."""
    output = OutputOptions(OutputFormat.WEBDATASET)
    pictures = [Picture(f"http://a.example/{place}", image()) for place in range(60)]
    make_gallery_run(store, pictures, 40, output)
    assert len(make_sheet(store)) == 60
    monkeypatch.setattr("producer.report.contact_sheet.MOST_IMAGES", 20)
    keys = [each.row["key"] for each in make_sheet(store)]
    assert keys == [
        *(f"00000{place:02}" for place in range(0, 40, 4)),
        *(f"00001{place:02}" for place in range(0, 20, 2)),
    ]


def test_file_outside_the_folder_has_no_thumbnail(tmp_path: Path) -> None:
    """If a manifest names a file outside of the output folder, the report does not show this file."""
    (tmp_path / "secret.png").write_bytes(image())
    store = make_run(tmp_path / "out", [outcome(0)])
    row = {"key": "000000", "path": "../secret.png", "bytes": 5}
    (found,) = make_sheet(store, [row])
    assert (found.thumbnail, found.link) == ("", None)
