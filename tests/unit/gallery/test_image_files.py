"""Images are read from every kind of output, and nothing outside the output folder is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from config.locations import StoreUrl
from producer.gallery.content_types import content_type
from producer.gallery.image_files import ImageReader, ImageUnavailableError
from producer.output.run_file import RunFile
from tasks.model import OutputFormat, OutputOptions
from tasks.outputs import packing
from tasks.storage import manifest
from tasks.storage.local_store import LocalStore
from tasks.storage.locations import open_store
from tests.gallery_runs import Picture, make_gallery_run
from tests.object_server import ObjectServer
from tests.unit.conftest import image

_SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize("kind", OutputFormat)
def test_reads_each_output_format(store: LocalStore, kind: OutputFormat) -> None:
    """Separate files, tar shards and Parquet shards give the same images."""
    bodies = [image("PNG", (3 + place, 3)) for place in range(7)]
    pictures = [Picture(f"http://a.example/{place}", body) for place, body in enumerate(bodies)]
    make_gallery_run(store, pictures, 4, OutputOptions(kind))
    reader = ImageReader(store, OutputOptions(kind))
    read = []
    for shard in (0, 1):
        table = manifest.decode(store.read(manifest.name(shard)), ["key", "path"])
        read += [reader.read(row["key"], row["path"]) for row in table.to_pylist()]
    assert [found.body for found in read] == bodies
    assert {found.content_type for found in read} == {"image/png"}
    with pytest.raises(ImageUnavailableError, match=r"99999 is not in|is not in the output folder"):
        reader.read("99999", table["path"][0].as_py() if kind is not OutputFormat.FILES else "00001/99999.png")


def test_reads_from_an_object_store(object_server: ObjectServer) -> None:
    """The images of a run in an object store are read like those of a local folder."""
    store = open_store(StoreUrl.parse("s3://bucket/run"))
    record = make_gallery_run(store, [Picture("http://a.example/1", image())])
    assert ImageReader(store, record.options.output).read("000000", "00000/000000.png").body == image()
    with pytest.raises(ImageUnavailableError, match="can't be read"):
        ImageReader(store, record.options.output).read("0", "00000/missing.png")


@pytest.mark.parametrize(
    "path", ["../secret.png", "a/../../secret.png", "/etc/hostname", "", ".", "a//b", "a\\..\\b", "a\0b", "00000/"]
)
def test_path_outside_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    """A path that a manifest should not have is refused before anything is opened."""
    (tmp_path / "secret.png").write_bytes(image())
    (tmp_path / "out").mkdir()
    with pytest.raises(ImageUnavailableError, match="not in the output folder"):
        ImageReader(LocalStore(tmp_path / "out"), OutputOptions()).read("0", path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link out of the folder is refused, whether it is the file or a folder on the way. So are pipes and folders."""
    (tmp_path / "secret.png").write_bytes(image())
    out = tmp_path / "out"
    (out / "00000").mkdir(parents=True)
    (out / "00000" / "link.png").symlink_to(tmp_path / "secret.png")
    (out / "00001").symlink_to(tmp_path)
    os.mkfifo(out / "00000" / "pipe.png")
    reader = ImageReader(LocalStore(out), OutputOptions())
    for path in ("00000/link.png", "00001/secret.png", "00000/pipe.png", "00000"):
        with pytest.raises(ImageUnavailableError, match=r"can't be read|is not a file"):
            reader.read("0", path)


def test_other_files_of_the_run_are_refused(store: LocalStore) -> None:
    """A manifest can't make the gallery send the run's record, a manifest or an HTML page."""
    record = make_gallery_run(store, [Picture("http://a.example/1", image())])
    store.create("page.png", b"<!doctype html><script>alert(1)</script>")
    for path in ("run.json", "00000.parquet", ".plan/00000.parquet", "page.png"):
        with pytest.raises(ImageUnavailableError, match="is not an image of a known format"):
            ImageReader(store, record.options.output).read("0", path)
    assert RunFile.is_in(store)


def test_damaged_packed_file_is_reported(store: LocalStore) -> None:
    """A truncated tar gives a message, not an error of the tar library."""
    output = OutputOptions(OutputFormat.WEBDATASET)
    make_gallery_run(store, [Picture("http://a.example/1", image())], output=output)
    store.replace("00000.tar", store.read("00000.tar")[:-1024])
    with pytest.raises(ImageUnavailableError, match=r"00000\.tar is damaged: its end is missing"):
        ImageReader(store, output).read("000000", "00000.tar")


@pytest.mark.parametrize("kind", [OutputFormat.WEBDATASET, OutputFormat.PARQUET])
def test_replaced_packed_file_is_listed_again(store: LocalStore, tmp_path: Path, kind: OutputFormat) -> None:
    """A retry adds images to a packed file. Each key still has its own image afterwards."""
    output, path = OutputOptions(kind), packing.packed_name(0, OutputOptions(kind))
    assert path is not None
    bodies = [image("BMP", colour=colour) for colour in ("red", "blue", "lime")]
    assert len(set(map(len, bodies))) == 1
    pictures = [Picture("http://a.example/", body, "bmp") for body in bodies]
    other = LocalStore(tmp_path / "other")
    make_gallery_run(other, pictures, output=output)
    make_gallery_run(store, [Picture("http://a.example/"), *pictures[1:]], output=output)
    reader = ImageReader(store, output)
    assert reader.read("000001", path).body == bodies[1]
    store.replace(path, other.read(path))
    assert [reader.read(f"00000{place}", path).body for place in range(3)] == bodies


def test_content_types() -> None:
    """The type of a file depends only on its first bytes."""
    kinds = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "WEBP": "webp", "AVIF": "avif", "BMP": "bmp", "TIFF": "tiff"}
    assert {kind: content_type(image(kind)) for kind in kinds} == {
        kind: f"image/{name}" for kind, name in kinds.items()
    }
    assert content_type(_SVG) == "image/svg+xml"
    assert content_type(b"") is None
    assert content_type(b"<!doctype html><p>") is None
