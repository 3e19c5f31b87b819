"""Images match their header, or are refused with a reason, before any pixel is decoded."""

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

from tasks.deadline import Deadline
from tasks.errors import FetchError, NotAnImageError, TooManyPixelsError, UndecodableError
from tasks.images import identify
from tasks.images.decode import decode_all_frames
from tasks.images.identify import ImageInfo, digest, inspect
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
    """Return a PNG of a few bytes. The PNG's header declares these sides."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(("kind", "extension"), _FORMATS.items(), ids=list(_FORMATS))
def test_format_follows_the_bytes(kind: str, extension: str) -> None:
    """Each accepted format is recognised by its bytes, and gets the right extension and size."""
    assert inspect(image(kind, (16, 12)), _LIMIT) == ImageInfo(kind.lower(), extension, 16, 12)


def test_mpo_is_a_jpeg() -> None:
    """A camera's file of several JPEGs is saved as a JPEG, because every reader opens it as one."""
    sink = io.BytesIO()
    pages = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue")]
    pages[0].save(sink, "MPO", save_all=True, append_images=pages[1:])
    assert inspect(sink.getvalue(), _LIMIT) == ImageInfo("jpeg", "jpg", 16, 12)


@pytest.mark.parametrize("kind", _OTHER_FORMATS)
def test_other_formats_are_not_opened(kind: str) -> None:
    """Other formats are refused, even if Pillow supports them."""
    with pytest.raises(NotAnImageError, match=r"imagefleet does not save|not an image"):
        inspect(image(kind, (16, 16)), _LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF"])
def test_truncated_header_is_undecodable(kind: str) -> None:
    """An image with a truncated header is reported as broken, and not as an unknown format."""
    with pytest.raises(UndecodableError, match="header is broken"):
        inspect(image(kind)[:12], _LIMIT)


@pytest.mark.parametrize("kind", _FORMATS)
@settings(max_examples=15)
@given(data=st.data())
def test_changed_bytes_raise_no_other_error(kind: str, data: st.DataObject) -> None:
    """A cut or changed image is either described, or refused with one of our errors."""
    body = bytearray(image(kind, (16, 12)))
    at = data.draw(st.integers(0, min(len(body) - 1, 200)))
    body[at] = data.draw(st.integers(0, 255))
    try:
        info = inspect(bytes(body[: data.draw(st.integers(0, len(body)))]), _LIMIT)
    except FetchError as error:
        assert isinstance(error, NotAnImageError | UndecodableError | TooManyPixelsError)  # noqa: PT017  # either end is right
    else:
        assert 0 < (info.width or 0) * (info.height or 0) <= _LIMIT


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_pieces_are_limited(kind: str) -> None:
    """A parser reads thousands of comments, but not millions.

    An image with too many comments is read without its comments.
    """
    assert identify.open_image(bombs.pieces(kind, 10_000), _LIMIT).width == 8
    with pytest.raises(UndecodableError, match="more pieces"):
        identify.open_image(bombs.pieces(kind, 200_000), _LIMIT)
    assert inspect(bombs.pieces(kind, 200_000), _LIMIT).width == 8


def test_limit_of_pieces_grows_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The larger an image is, the more pieces are allowed. Of all formats, a GIF may have the most pieces."""
    monkeypatch.setattr(identify, "_MAX_PIECES", 100)
    body = encoded(Image.effect_noise((900, 900), 60), "GIF")
    assert decode_all_frames(body, _LIMIT, Deadline(10, 10)).width == 900


def test_largest_image_is_accepted() -> None:
    """An image with as many pixels as the limit is accepted. An image with one row more is refused."""
    assert inspect(png(1000, 1000), _LIMIT) == ImageInfo("png", "png", 1000, 1000)
    with pytest.raises(TooManyPixelsError, match="1,000x1,001 pixels, more than 1,000,000"):
        inspect(png(1000, 1001), _LIMIT)


@pytest.mark.parametrize(
    "side", [10_000, 20_000, 50_000], ids=["above our limit", "above Pillow's limit", "far above both"]
)
def test_pixels_are_counted_before_decoding(side: int) -> None:
    """An image that declares too many pixels costs neither memory nor time."""
    body = png(side, side)
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(TooManyPixelsError):
            inspect(body, _LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert time.process_time() - started < 0.5


def icon(embedded: bytes, width: int = 16, height: int = 16) -> bytes:
    """Return an icon that declares these sides for the embedded image."""
    entry = struct.pack("<BBBBHHII", width, height, 0, 0, 1, 32, len(embedded), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + embedded


def dib(width: int, height: int) -> bytes:
    """Return the header of a 32-bit image, as old icons have it. The header's height includes the rows of the mask."""
    return struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("embedded", [png(10_000, 10_000), dib(10_000, 10_000)], ids=["PNG", "DIB"])
def test_icon_is_checked_by_its_embedded_image(embedded: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An icon that declares 16x16 pixels but holds a bomb is refused before Pillow opens it.

    Opening decodes an icon.
    """
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(TooManyPixelsError, match="10,000x10,000"):
        inspect(icon(embedded), 500_000_000)


@pytest.mark.parametrize("embedded", [image("PNG", (48, 32)), dib(48, 32) + bytes(4 * 48 * 32)], ids=["PNG", "DIB"])
def test_icon_has_the_size_of_its_embedded_image(embedded: bytes) -> None:
    """Icons of both kinds are described by their embedded image."""
    assert inspect(icon(embedded, 48, 32), _LIMIT) == ImageInfo("ico", "ico", 48, 32)


def test_pillows_limit_does_not_apply() -> None:
    """An operator may allow more pixels than Pillow's own limit."""
    assert inspect(png(20_000, 20_000), 500_000_000).width == 20_000


def test_pixels_are_not_decoded() -> None:
    """Only the header is read. An image is described even if its pixels are garbage."""
    whole = image("PNG", (16, 12))
    at = whole.index(b"IDAT") + 4
    assert inspect(whole[:at] + b"\xff" * (len(whole) - at), _LIMIT).width == 16


def test_threads_do_not_disturb_each_other() -> None:
    """Many threads inspect different images at once."""
    bodies = [image("PNG", (side, 1)) for side in range(1, 9)] * 4
    with ThreadPoolExecutor(8) as pool:
        widths = list(pool.map(lambda body: inspect(body, _LIMIT).width, bodies))
    assert widths == list(range(1, 9)) * 4


def test_digest_is_sha256() -> None:
    """The digest is the SHA-256 of the saved bytes."""
    assert digest(b"body") == hashlib.sha256(b"body").hexdigest()


def test_pillows_warnings_are_not_shown() -> None:
    """Pillow's warnings and log are not shown, because an image can cause any number of messages."""
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

    def stderr(*bodies: bytes, imports: str) -> str:
        argv = [sys.executable, "-c", script.format(imports), *(body.hex() for body in bodies)]
        root = Path(__file__).parents[3]
        return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=root).stderr

    assert "Invalid APNG" in stderr(warned, imports="")
    assert "samples per pixel" in stderr(logged, imports="")
    assert stderr(warned, logged, imports="from tasks import runtime_tuning\nruntime_tuning.configure_pillow()\n") == ""


def test_compressed_text_is_limited() -> None:
    """A PNG's compressed text is inflated up to a limit. The image is read without the text."""
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
