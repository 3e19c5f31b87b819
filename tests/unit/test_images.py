"""Bytes are what their header says, or are refused with the reason, before any pixel is decoded."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from tasks import images
from tasks.connection import Deadline
from tasks.errors import FetchError, NotAnImage, TooManyPixels, Undecodable
from tasks.images import ImageInfo, digest, inspect
from tasks.verify import decoded
from tests import bombs
from tests.encoding import encoded
from tests.unit.conftest import image

_LIMIT = 1_000_000
_FORMATS = {
    "JPEG": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "AVIF": "avif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "ICO": "ico",
}
_OTHER_FORMATS = ["PPM", "PCX", "TGA", "EPS", "PDF", "JPEG2000", "DDS", "ICNS"]


def png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares these sides."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(("kind", "extension"), _FORMATS.items(), ids=list(_FORMATS))
def test_format_is_that_of_the_bytes(kind: str, extension: str) -> None:
    """Each accepted format is known by its bytes, with its extension and its size."""
    assert inspect(image(kind, (16, 12)), _LIMIT) == ImageInfo(kind.lower(), extension, 16, 12)


def test_mpo_is_a_jpeg() -> None:
    """A camera's file of several JPEGs is saved as the JPEG that every reader takes it for."""
    sink = io.BytesIO()
    pages = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue")]
    pages[0].save(sink, "MPO", save_all=True, append_images=pages[1:])
    assert inspect(sink.getvalue(), _LIMIT) == ImageInfo("jpeg", "jpg", 16, 12)


@pytest.mark.parametrize("kind", _OTHER_FORMATS)
def test_other_formats_are_not_opened(kind: str) -> None:
    """Formats beyond the accepted ones are refused, though Pillow knows them."""
    with pytest.raises(NotAnImage, match=r"imagefleet does not save|not an image"):
        inspect(image(kind, (16, 16)), _LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF"])
def test_truncated_header_is_undecodable(kind: str) -> None:
    """Bytes that begin as an image, with a header that breaks off, are a broken image and not a foreign format."""
    with pytest.raises(Undecodable, match="header is broken"):
        inspect(image(kind)[:12], _LIMIT)


@pytest.mark.parametrize("kind", _FORMATS)
@settings(max_examples=15)
@given(data=st.data())
def test_broken_bytes_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    """However an image's bytes are cut and changed, they are described or refused by an error of the tree."""
    body = bytearray(image(kind, (16, 12)))
    at = data.draw(st.integers(0, min(len(body) - 1, 200)))
    body[at] = data.draw(st.integers(0, 255))
    try:
        info = inspect(bytes(body[: data.draw(st.integers(0, len(body)))]), _LIMIT)
    except FetchError as error:
        assert isinstance(error, NotAnImage | Undecodable | TooManyPixels)  # noqa: PT017  # either end is right
    else:
        assert 0 < info.width * info.height <= _LIMIT


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_pieces_are_counted(kind: str) -> None:
    """A parser reads a few thousand comments and no millions; an image that has more is read without them."""
    assert images.opened(bombs.pieces(kind, 10_000), _LIMIT).width == 8
    with pytest.raises(Undecodable, match="more pieces"):
        images.opened(bombs.pieces(kind, 200_000), _LIMIT)
    assert inspect(bombs.pieces(kind, 200_000), _LIMIT).width == 8


def test_large_image_has_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound image may have the more of them the larger it is; of all formats a GIF has most."""
    monkeypatch.setattr(images, "_MAX_PIECES", 100)
    body = encoded(Image.effect_noise((900, 900), 60), "GIF")
    assert decoded(body, _LIMIT, Deadline(10, 10)).width == 900


def test_largest_image_is_accepted() -> None:
    """The bound itself is allowed, and one row more is not."""
    assert inspect(png(1000, 1000), _LIMIT) == ImageInfo("png", "png", 1000, 1000)
    with pytest.raises(TooManyPixels, match="1000x1001 pixels, more than 1000000"):
        inspect(png(1000, 1001), _LIMIT)


@pytest.mark.parametrize("side", [10_000, 20_000, 50_000], ids=["ours", "beyond Pillow's", "beyond all"])
def test_pixels_are_counted_before_decoding(side: int) -> None:
    """An image that declares too many pixels costs neither memory nor time."""
    body = png(side, side)
    begun = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(TooManyPixels):
            inspect(body, _LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert time.process_time() - begun < 0.5


def icon(picture: bytes, width: int = 16, height: int = 16) -> bytes:
    """An icon whose directory says that the picture in it has these sides."""
    entry = struct.pack("<BBBBHHII", width, height, 0, 0, 1, 32, len(picture), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + picture


def dib(width: int, height: int) -> bytes:
    """The header of a picture as old icons hold it, in 32 bits; the rows of its mask count as height."""
    return struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("picture", [png(10_000, 10_000), dib(10_000, 10_000)], ids=["PNG", "DIB"])
def test_icon_is_judged_by_what_is_in_it(picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes an icon as it opens it, so one that says 16x16 and holds a bomb is refused before that."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(TooManyPixels, match="10000x10000"):
        inspect(icon(picture), 500_000_000)


@pytest.mark.parametrize("picture", [image("PNG", (48, 32)), dib(48, 32) + bytes(4 * 48 * 32)], ids=["PNG", "DIB"])
def test_icon_has_the_size_of_its_picture(picture: bytes) -> None:
    """Icons of both kinds are described by the picture in them."""
    assert inspect(icon(picture, 48, 32), _LIMIT) == ImageInfo("ico", "ico", 48, 32)


def test_bound_is_ours_alone() -> None:
    """An operator who allows more pixels than Pillow's own bound gets them."""
    assert inspect(png(20_000, 20_000), 500_000_000).width == 20_000


def test_pixels_are_not_decoded() -> None:
    """Only the header is read: an image whose pixels are garbage is described all the same."""
    whole = image("PNG", (16, 12))
    at = whole.index(b"IDAT") + 4
    assert inspect(whole[:at] + b"\xff" * (len(whole) - at), _LIMIT).width == 16


def test_threads_do_not_disturb_each_other() -> None:
    """Many threads describe and refuse at once, each its own image."""
    bodies = [image("PNG", (side, 1)) for side in range(1, 9)] * 4
    with ThreadPoolExecutor(8) as pool:
        widths = list(pool.map(lambda body: inspect(body, _LIMIT).width, bodies))
    assert widths == list(range(1, 9)) * 4


def test_digest_is_sha256() -> None:
    """A digest is that of the bytes as they are saved."""
    assert digest(b"body") == hashlib.sha256(b"body").hexdigest()


def test_what_pillow_notes_is_not_kept() -> None:
    """Neither its warnings nor its log, of which an image can cause as many as it likes, are shown."""
    whole = image("PNG")
    at = whole.index(b"IDAT") - 4
    chunk = b"acTL" + bytes(8)
    warned = whole[:at] + struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[at:]
    samples = struct.pack("<HHII", 277, 3, 1, 3)
    logged = image("TIFF").replace(samples, samples[:8] + struct.pack("<I", 65535))
    script = (
        "import sys\nfrom PIL import Image\n{}from io import BytesIO\n"
        "for body in map(bytes.fromhex, sys.argv[1:]):\n try: Image.open(BytesIO(body))\n except Exception: pass"
    )

    def said(*bodies: bytes, imports: str) -> str:
        argv = [sys.executable, "-c", script.format(imports), *(body.hex() for body in bodies)]
        root = Path(__file__).parents[2]
        return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=root).stderr

    assert "Invalid APNG" in said(warned, imports="")
    assert "samples per pixel" in said(logged, imports="")
    assert said(warned, logged, imports="import tasks.images\n") == ""


def test_text_that_inflates_is_left_out() -> None:
    """A PNG's compressed text is inflated to a bound, and the image is read without it."""
    text = b"Comment\0\0" + zlib.compress(bytes(64 << 20), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    whole = image("PNG", (16, 12))
    at = whole.index(b"IDAT") - 4
    tracemalloc.start()
    try:
        assert inspect(whole[:at] + chunk + whole[at:], _LIMIT).width == 16
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20
