"""Thumbnails are small images, and no image can stop the report."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from producer.output.run_file import RunFile
from producer.report.contact_sheet import contact_sheet
from producer.report.thumbnails import ThumbnailMaker, make_thumbnails
from tasks.model import OutputFormat, OutputOptions, RunOptions
from tasks.outputs.packing import pack
from tests.encoding import encoded
from tests.unit.conftest import image
from tests.unit.report.made_run import make_run, outcome


def test_thumbnail_is_a_small_image() -> None:
    """A large image becomes a WebP of 160 pixels at most; a small one keeps its size."""
    large = encoded(Image.new("RGB", (2000, 500), "red"), "JPEG")
    found = [Image.open(io.BytesIO(body)) for body in make_thumbnails([large, image("GIF")])]
    assert [(each.format, each.size) for each in found] == [("WEBP", (160, 40)), ("WEBP", (4, 3))]


def test_unreadable_images_have_no_thumbnail() -> None:
    """Damaged, missing and empty files have no thumbnail, and the next image has one."""
    found = list(make_thumbnails([b"", b"<svg/>", None, image()[:-20], image()]))
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


@pytest.mark.parametrize("kind", [OutputFormat.WEBDATASET, OutputFormat.PARQUET])
def test_contact_sheet_of_packed_images(tmp_path: Path, kind: OutputFormat) -> None:
    """The first images of each packed file have thumbnails, and no link, because they have no file."""
    from tasks.storage import manifest
    from tasks.storage.shard_parquet import ShardRef

    store = make_run(tmp_path / "out", [outcome(index) for index in range(15)])
    record = RunFile.load(store)
    options = RunOptions(str(store.root), 10, output=OutputOptions(kind), run_id=record.id, revision=1)
    record = record.save(store, options=record.options.__class__(shard_size=10, output=options.output))
    for shard in range(2):
        table = manifest.decode(store.read(manifest.name(shard)))
        pack(table, ShardRef(record.id, shard, 1), options.output, store)
    sheet = contact_sheet([], record, store)
    assert [each.row["key"] for each in sheet] == [outcome(index).key for index in range(15)]
    assert all(each.thumbnail and each.link is None for each in sheet)
