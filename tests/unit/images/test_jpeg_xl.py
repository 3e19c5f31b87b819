"""The header of a JPEG XL image is read without the decoder. The decoder runs with limits."""

from __future__ import annotations

import base64
import io
import sys
import time
from collections.abc import Iterable

import brotli
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.deadline import Deadline
from tasks.errors import FetchTimeoutError, InternalError, NotAnImageError, TooManyPixelsError, UndecodableError
from tasks.image_options import DEFAULT_FORMATS, EncodeFormat, FilterOptions, ImageFormat, ResizeMode, ResizeOptions
from tasks.images import identify, jpeg_xl
from tasks.images.decode import decode_all_frames
from tasks.images.exif_tags import read_exif_tags
from tasks.images.jpeg_xl import read_header
from tasks.images.metadata.limits import MAX_PIECES
from tasks.images.prepare import existing_image, is_whole, prepare_image
from tasks.images.resize import resize_image
from tasks.model import FetchOptions
from tests.conftest import required_module
from tests.encoding import encoded
from tests.waiting import PATIENCE

required_module("pillow_jxl")
import pillow_jxl  # noqa: E402, F401  # after the check; registers the encoder

_LIMIT = 10_000_000
_PICTURE = Image.linear_gradient("L").resize((90, 70)).convert("RGB")
_FORMATS = (*DEFAULT_FORMATS, ImageFormat.JXL)
_CODESTREAM = encoded(_PICTURE, "JXL", quality=90)
#: A JPEG of 24 x 16 pixels in a JPEG XL file, written by libjxl. Its orientation is 6.
_TURNED = base64.b64decode(
    b"AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAAAUanhscAAAAAD/CgMtEBS3BAAAAQdqYnJkwXADCELLgACQCAAIASFX"
    b"lQAAgJCjsgVDcf5PEBkjlHFOKWg/QoYwSx1kmIHSHWqwPmQ4+ZgBhxxUWOSgYQe2jxr690eWOey4Aw1F978Y44xJLtnkk1FOeWaa"
    b"a7b5ZpxzFnpooos2+mikk5Z6aqqrtvpqrLMWe2yyyzb7bLTTlntuuuu2+2688xZ8cMILN/xwxBOPXPLJKa/c8ssxzzx00UcnvXTT"
    b"T0c99dhln5322m2/Hffcgxd+eOKLN/545JOPXvrpqa/e+uuxzx788MUfn/zyzT8f/fThj1/++emv3/778c//H+AHAAAACwiA4AAQ"
    b"SkZJRgABAQAAAQABAAADAAAAJ2Jyb2JFeGlmGx0AAARxYzuCmC3R1C1ZLIo04N9hJKsogA0AAAABAGp4bHCAAAAB4FsAEAC0Awx1"
    b"DHUMdf7/DgAAGAAIAAEAAAAAAICAJYlURDtP9SEGWE2txWsguC+BQCEnBQUFBXIbY/DSGGMbY2OMscgp0LBtjI1BjY0okhpjkN2I"
    b"xsYQQGNNYSK/AgA4JBsL6mV3QMpvBJwAYtb6Alys31Rvg5swxAYaNN6gCZoCJ4zeqoL1i3RKQMwcxmxccI2aLzIsDlYabg5WwBNc"
    b"b4KqcJhBkqmsCtUOYv0OzToRBYign3ALxp5C81/4seAYU5AQDl4nmcnIabWaJSkI8Dsk3EmEIQGAEhACAAAAAAAAJYl0DUS5e2D0"
    b"wOiB0QOjB0YPDA=="
)
_FILE_START = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "


def soon() -> Deadline:
    """Return a deadline that no test reaches."""
    return Deadline(PATIENCE, PATIENCE)


def box(kind: bytes, content: bytes) -> bytes:
    """Return a box of a container."""
    return (8 + len(content)).to_bytes(4) + kind + content


def bits(*fields: tuple[int, int]) -> bytes:
    """Return a codestream's start. The fields are values with their numbers of bits."""
    value, length = 0x0AFF, 16
    for field, count in fields:
        value |= field << length
        length += count
    return value.to_bytes((length + 7) // 8, "little") + bytes(8)


_ORDINARY = (1, 1)
_LARGE = [(0, 1), (2, 2), (39_999, 18), (0, 3), (1, 2), (4_999, 13)]
_SMALL = [(1, 1), (4, 5), (0, 3), (9, 5)]


@pytest.mark.parametrize(
    ("fields", "size", "animated"),
    [
        ([*_LARGE, _ORDINARY], (5_000, 40_000), False),
        ([*_SMALL, _ORDINARY], (80, 40), False),
        ([(1, 1), (4, 5), (5, 3), _ORDINARY], (71, 40), False),
        # No extra fields.
        ([*_SMALL, (0, 1), (0, 1), (0b111, 3)], (80, 40), False),
        # Each orientation, without an intrinsic size, a preview or an animation.
        ([*_SMALL, (0, 1), (1, 1), (3, 3), (0, 3)], (80, 40), False),
        ([*_SMALL, (0, 1), (1, 1), (4, 3), (0, 3)], (40, 80), False),
        ([*_SMALL, (0, 1), (1, 1), (7, 3), (0b100, 3)], (40, 80), True),
        # An intrinsic size and a preview come before the field for an animation.
        ([*_SMALL, (0, 1), (1, 1), (0, 3), (1, 1), *_LARGE, (0, 1), (1, 1)], (80, 40), True),
        ([*_SMALL, (0, 1), (1, 1), (0, 4), (1, 1), (1, 1), (3, 2), (5, 9), (0, 5), (1, 1)], (80, 40), True),
        ([*_SMALL, (0, 1), (1, 1), (0, 4), (1, 1), (0, 1), (1, 2), (5, 8), (7, 3), (0, 1)], (80, 40), False),
        ([(0, 1), (3, 2), (2**30 - 1, 30), (1, 3), _ORDINARY], (2**30, 2**30), False),
    ],
)
def test_header(fields: Iterable[tuple[int, int]], size: tuple[int, int], animated: bool) -> None:
    """The parser reads the size in each form, swaps the sides of a turned image, and finds animations."""
    assert read_header(bits(*fields)) == jpeg_xl.Header(size, animated)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("size", [(90, 70), (256, 256), (1, 300), (640, 360)])
def test_header_agrees_with_the_encoder(mode: str, size: tuple[int, int]) -> None:
    """For files of the real encoder, the parser reads the real size."""
    body = encoded(Image.new(mode, size), "JXL", quality=90, effort=1)
    assert read_header(body) == jpeg_xl.Header(size, is_animated=False)


@settings(deadline=None)
@given(body=st.binary(max_size=200), start=st.sampled_from([_CODESTREAM[:6], _FILE_START, _FILE_START + b"\0\0\0\1"]))
@example(body=box(b"jxlp", b"\x80\0\0\0"), start=_FILE_START)
@example(body=b"jxlc" + (2**64 - 1).to_bytes(8), start=_FILE_START + b"\0\0\0\1")
@example(body=box(b"brob", b"Exif" + brotli.compress(b"no TIFF")), start=_FILE_START)
@example(body=box(b"brob", b"Exifno brotli"), start=_FILE_START)
def test_any_bytes_are_read_or_refused(body: bytes, start: bytes) -> None:
    """Whatever bytes follow the signature, the header is read, or the image is refused with one of our errors."""
    try:
        info = identify.inspect(start + body, _LIMIT, _FORMATS)
    except (UndecodableError, TooManyPixelsError):
        return
    assert info.format == "jxl"
    read_exif_tags(start + body, _LIMIT, _FORMATS)


def test_container() -> None:
    """The codestream may be in one box or in several boxes, between other boxes. A box may have no length."""
    parts = (_CODESTREAM[:3], _CODESTREAM[3:40], _CODESTREAM[40:])
    split = b"".join(
        box(b"jxlp", number.to_bytes(4) + part) + box(b"xml ", b"<a/>")
        for number, part in zip((0, 1, 0x80000002), parts, strict=True)
    )
    for boxes in (box(b"jxlc", _CODESTREAM), split, box(b"xml ", b"") + b"\0\0\0\0jxlc" + _CODESTREAM):
        assert decode_all_frames(_FILE_START + boxes, _LIMIT, soon(), _FORMATS).width == 90
    with pytest.raises(UndecodableError, match="more than 20,000 boxes"):
        identify.inspect(_FILE_START + box(b"free", b"") * (MAX_PIECES + 1), _LIMIT, _FORMATS)


@pytest.mark.parametrize("compress", [False, True])
def test_exif(compress: bool) -> None:
    """EXIF data in the container is read, plain or compressed. Its orientation does not turn the image."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera Works"
    body = encoded(_PICTURE, "JXL", quality=90, exif=exif.tobytes(), compress_metadata=compress)
    tags = {"Image Orientation": "6", "Image Make": "Camera Works"}
    assert read_exif_tags(body, _LIMIT, _FORMATS) == tags
    # As in the standard, an offset of four bytes comes before the data.
    data = bytes(4) + exif.tobytes().removeprefix(b"Exif\0\0")
    content = box(b"brob", b"Exif" + brotli.compress(data)) if compress else box(b"Exif", data)
    assert read_exif_tags(_FILE_START + content + box(b"jxlc", _CODESTREAM), _LIMIT, _FORMATS) == tags
    bomb = box(b"brob", b"Exif" + brotli.compress(data + bytes(2**21)))
    assert read_exif_tags(_FILE_START + bomb + box(b"jxlc", _CODESTREAM), _LIMIT, _FORMATS) == {}
    png = ResizeOptions(ResizeMode.NO, encode_format=EncodeFormat.PNG)
    assert resize_image(body, png, _LIMIT, soon(), _FORMATS).info.width == 90


def test_turned_image() -> None:
    """The orientation of a JPEG in a JPEG XL file is applied once. The size in the header is that of the result."""
    assert identify.inspect(_TURNED, _LIMIT, _FORMATS).width == 16
    result = resize_image(_TURNED, ResizeOptions(encode_format=EncodeFormat.PNG), _LIMIT, soon(), _FORMATS)
    upright = Image.open(io.BytesIO(result.body)).convert("L")
    assert upright.size == (16, 24)
    expected = Image.linear_gradient("L").resize((24, 16)).transpose(Image.Transpose.ROTATE_270)
    for place in ((1, 1), (14, 20), (8, 12)):
        assert upright.getpixel(place) == pytest.approx(expected.getpixel(place), abs=12)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_modes(mode: str) -> None:
    """Grey and transparent images have the right pixels after decoding."""
    picture = _PICTURE.convert(mode)
    body = encoded(picture, "JXL", lossless=True)
    with identify.open_image(body, _LIMIT, _FORMATS) as image:
        image.load()
        assert image.mode == mode
        assert image.tobytes() == picture.tobytes()


def test_animation() -> None:
    """An animation is saved as downloaded. It is not decoded, because the decoder would return the last frame."""
    body = bits(*_SMALL, (0, 1), (1, 1), (0, 3), (0b100, 3))
    saved = prepare_image(body, FetchOptions(formats=_FORMATS), soon())
    assert (saved.body, saved.info.width) == (body, 80)
    with pytest.raises(UndecodableError, match="animation in JPEG XL"):
        decode_all_frames(body, _LIMIT, soon(), _FORMATS)


def test_saved_animation_is_kept() -> None:
    """A saved animation is a complete file, so another download does not replace it. A zeroed file is not complete."""
    body = bits(*_SMALL, (0, 1), (1, 1), (0, 3), (0b100, 3))
    options = FetchOptions(formats=_FORMATS)
    downloaded = prepare_image(encoded(Image.new("RGB", (4, 3)), "PNG"), options, soon())
    kept = existing_image(body, downloaded, options, soon())
    assert kept is not None
    assert kept.body == body
    assert existing_image(body + bytes(512), downloaded, options, soon()) is None


def test_limits_come_before_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of pixels and the filters need only the header."""
    monkeypatch.setattr(jpeg_xl, "_run_process", lambda *_, **__: pytest.fail("it was decoded"))
    huge = bits((0, 1), (3, 2), (2**30 - 1, 30), (1, 3), _ORDINARY)
    with pytest.raises(TooManyPixelsError, match="1,073,741,824x1,073,741,824"):
        decode_all_frames(huge, _LIMIT, soon(), _FORMATS)
    resize = ResizeOptions(ResizeMode.BORDER, 16)
    options = FetchOptions(formats=_FORMATS, resize=resize, filters=FilterOptions(min_size=71))
    with pytest.raises(Exception, match="the smaller side has 70 pixels"):
        prepare_image(_CODESTREAM, options, soon())
    assert prepare_image(_CODESTREAM, FetchOptions(formats=_FORMATS), soon()).info.width == 90


def test_decoder_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the decoder needs too much memory or time, only the image fails."""
    with monkeypatch.context() as changed:
        changed.setattr(jpeg_xl, "_BASE_BYTES", 40 * 1024 * 1024)
        changed.setattr(jpeg_xl, "_BYTES_A_PIXEL", 0)
        noise = encoded(Image.effect_noise((2500, 2500), 90), "JXL", quality=90, effort=1)
        with pytest.raises(UndecodableError, match="more memory or time"):
            decode_all_frames(noise, _LIMIT, soon(), _FORMATS)
    with monkeypatch.context() as changed:
        changed.setattr(jpeg_xl, "_MAX_SECONDS", 0.001)
        with pytest.raises(UndecodableError, match=r"within 0\.001 s"):
            decode_all_frames(_CODESTREAM, _LIMIT, soon(), _FORMATS)
    assert decode_all_frames(_CODESTREAM, _LIMIT, soon(), _FORMATS).width == 90


def test_deadline_ends_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder ends at the image's deadline, although its own limit is a minute."""
    program = "import time, sys; sys.stdin.buffer.read(); time.sleep(30)"
    run = jpeg_xl._run_process
    monkeypatch.setattr(jpeg_xl, "_run_process", lambda *_, **options: run((sys.executable, "-c", program), **options))
    for decode in (
        lambda: decode_all_frames(_CODESTREAM, _LIMIT, Deadline(5, 0.3), _FORMATS),
        lambda: resize_image(_CODESTREAM, ResizeOptions(ResizeMode.BORDER, 32), _LIMIT, Deadline(5, 0.3), _FORMATS),
    ):
        started = time.monotonic()
        with pytest.raises(FetchTimeoutError, match="the deadline passed before the image was decoded"):
            decode()
        assert time.monotonic() - started < PATIENCE


def test_decoder_can_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a worker can't start the decoder, the worker is at fault, and not the image."""
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    with pytest.raises(InternalError, match="decoder of JPEG XL could not be started") as caught:
        decode_all_frames(_CODESTREAM, _LIMIT, soon(), _FORMATS)
    assert caught.value.is_worker_fault


def test_damaged_images_are_undecodable() -> None:
    """Truncated and damaged images pass the check of the header, but are not decoded."""
    changed = bytearray(_CODESTREAM)
    changed[20:40] = bytes(20)
    for body in (_CODESTREAM[:-1], _CODESTREAM[: len(_CODESTREAM) // 2], bytes(changed)):
        assert identify.inspect(body, _LIMIT, _FORMATS).width == 90
        assert not is_whole(body, FetchOptions(formats=_FORMATS), soon())
    with pytest.raises(NotAnImageError, match="a JPEG XL image, a format that imagefleet does not save"):
        identify.inspect(_CODESTREAM, _LIMIT)
