"""Each mode, format and option of resizing gives the sizes and pixels of img2dataset's rules."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageStat
from PIL.Image import Resampling, Transpose

from producer.demo import draw_image
from tasks.deadline import Deadline
from tasks.errors import TooManyPixelsError, UndecodableError
from tasks.image_options import EncodeFormat, Interpolation, ResizeMode, ResizeOptions
from tasks.images import identify
from tasks.images.geometry import resize_geometry
from tasks.images.identify import EncodedImage
from tasks.images.resize import resize_image
from tests.encoding import encoded
from tests.unit.images import colour_profiles
from tests.waiting import PATIENCE

_LIMIT = 10_000_000
_WHITE = (255, 255, 255)
_PNG = EncodeFormat.PNG
_RESIZING = [mode for mode in ResizeMode if mode is not ResizeMode.NO]


def resized(body: bytes, mode: ResizeMode = ResizeMode.KEEP_RATIO, size: int = 64, **options: Any) -> EncodedImage:
    """Return the resized image."""
    return resize_image(body, ResizeOptions(mode, size, **options), _LIMIT, Deadline(PATIENCE, PATIENCE))


def view(body: bytes, mode: ResizeMode = ResizeMode.KEEP_RATIO, size: int = 64, **options: Any) -> Image.Image:
    """Return the pixels of the resized image, saved without loss unless the options say otherwise."""
    return Image.open(io.BytesIO(resized(body, mode, size, **{"encode_format": _PNG, **options}).body))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two images' levels, out of 255."""
    assert one.size == other.size
    means = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean
    return sum(means) / len(means)


def reference(drawn: Image.Image, mode: ResizeMode, size: int, sampling: Resampling) -> Image.Image:
    """Return an upright RGB image, resized in the plainest way.

    The whole image is resized, then cropped or pasted onto white.
    """
    side = max(drawn.size) if mode in (ResizeMode.BORDER, ResizeMode.KEEP_RATIO_LARGEST) else min(drawn.size)
    scaled = drawn.resize((round(drawn.width * size / side), round(drawn.height * size / side)), sampling)
    left, top = abs(scaled.width - size) // 2, abs(scaled.height - size) // 2
    if mode is ResizeMode.CENTER_CROP:
        return scaled.crop((left, top, left + size, top + size))
    if mode is ResizeMode.BORDER:
        square = Image.new("RGB", (size, size), _WHITE)
        square.paste(scaled, (left, top))
        return square
    return scaled


_BORDER, _RATIO, _LARGEST, _CROP = _RESIZING


@pytest.mark.parametrize(
    ("mode", "size", "expected", "if_bigger"),
    [
        (_RATIO, (1024, 768), (341, 256), (341, 256)),
        (_RATIO, (300, 100), (768, 256), (300, 100)),
        (_RATIO, (100, 256), (256, 655), (100, 256)),
        (_LARGEST, (1024, 768), (256, 192), (256, 192)),
        (_LARGEST, (300, 100), (256, 85), (256, 85)),
        (_LARGEST, (100, 50), (256, 128), (100, 50)),
        (_LARGEST, (256, 50), (256, 50), (256, 50)),
        (_LARGEST, (4000, 3), (256, 1), (256, 1)),
        (_BORDER, (1024, 768), (256, 256), (256, 256)),
        (_BORDER, (300, 100), (256, 256), (256, 256)),
        (_BORDER, (100, 50), (256, 256), (100, 50)),
        (_CROP, (1024, 768), (256, 256), (256, 256)),
        (_CROP, (300, 100), (256, 256), (300, 100)),
        (_CROP, (100, 50), (256, 256), (100, 50)),
        (ResizeMode.NO, (1024, 768), (1024, 768), (1024, 768)),
    ],
)
def test_sizes_golden(
    mode: ResizeMode, size: tuple[int, int], expected: tuple[int, int], if_bigger: tuple[int, int]
) -> None:
    """Each mode gives img2dataset's size.

    With --only-if-bigger, smaller images stay as they are, without border or crop.
    """
    assert resize_geometry(size, ResizeOptions(mode)).result == expected
    assert resize_geometry(size, ResizeOptions(mode, only_if_bigger=True)).result == if_bigger


_sides = st.integers(1, 5000)


@given(_sides, _sides, st.integers(1, 600), st.sampled_from(_RESIZING), st.integers(1, 8))
@example(5000, 1, 1, ResizeMode.BORDER, 6)
@settings(max_examples=200)
def test_geometry_stays_inside(width: int, height: int, size: int, mode: ResizeMode, orientation: int) -> None:
    """The kept part of any image is within the scaled image. Scaled back, the kept part is within the original."""
    geometry = resize_geometry((width, height), ResizeOptions(mode, size), orientation)
    left, top, across, down = geometry.crop
    assert left >= 0
    assert top >= 0
    assert left + across <= geometry.scaled[0]
    assert top + down <= geometry.scaled[1]
    assert min(geometry.result) >= 1
    box = geometry.box((0, 0, width, height))
    assert 0 <= box[0] < box[2] <= width + 1e-6
    assert 0 <= box[1] < box[3] <= height + 1e-6


@pytest.mark.parametrize("mode", _RESIZING)
@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize(
    ("drawn", "size"), [((300, 201), 64), ((201, 300), 65), ((90, 70), 128), ((70, 91), 63), ((640, 480), 100)]
)
def test_pixels_match_the_reference(mode: ResizeMode, kind: str, drawn: tuple[int, int], size: int) -> None:
    """The pixels equal a plain resize of the whole image, whichever part of the image was decoded or cropped first."""
    body = draw_image(3, *drawn, kind)
    original = Image.open(io.BytesIO(body)).convert("RGB")
    # Two good filters differ by a few levels along edges. A shift by a pixel would cause a far larger difference.
    assert difference(view(body, mode, size), reference(original, mode, size, Resampling.LANCZOS)) < 3


_NAMES = {
    Interpolation.NEAREST: Resampling.NEAREST,
    Interpolation.LINEAR: Resampling.BILINEAR,
    Interpolation.CUBIC: Resampling.BICUBIC,
    Interpolation.LANCZOS: Resampling.LANCZOS,
    Interpolation.AREA: Resampling.BOX,
}


@pytest.mark.parametrize(("name", "sampling"), _NAMES.items())
@pytest.mark.parametrize(("size", "option"), [(50, "downscale"), (150, "upscale")])
@pytest.mark.parametrize("mode", _RESIZING)
def test_interpolation_is_pillows(
    mode: ResizeMode, size: int, option: str, name: Interpolation, sampling: Resampling
) -> None:
    """Each of img2dataset's names selects a filter of Pillow, for enlarging and reducing, also in a cropped part."""
    body = draw_image(3, 91, 78, "png")
    expected = reference(Image.open(io.BytesIO(body)).convert("RGB"), mode, size, sampling)
    # A part of an image is computed with positions rounded to a fraction of a pixel.
    assert difference(view(body, mode, size, **{option: name}), expected) < 0.6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", [*_RESIZING, ResizeMode.NO])
@pytest.mark.parametrize("size", [41, 40])
def test_every_mode_is_upright(mode: ResizeMode, orientation: int, size: int) -> None:
    """In each mode, an image with an EXIF orientation gives the same pixels as its upright copy."""
    upright = Image.open(io.BytesIO(draw_image(3, 120, 83, "png"))).convert("RGB")
    undo = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_90,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    result = resized(encoded(stored, "PNG", exif=exif), mode, size, encode_format=_PNG)
    assert result.original == upright.size
    expected = view(encoded(upright), mode, size)
    assert difference(Image.open(io.BytesIO(result.body)), expected) < 0.1


def test_encoding_without_resizing() -> None:
    """--encode-format without --resize keeps the size.

    The option converts and turns the image, and removes transparency.
    """
    result = resized(draw_image(3, 90, 70, "gif"), ResizeMode.NO, encode_format=EncodeFormat.WEBP)
    assert (result.info.format, result.info.extension, result.info.width, result.info.height) == (
        "webp",
        "webp",
        90,
        70,
    )
    assert identify.inspect(result.body, _LIMIT) == result.info


@pytest.mark.parametrize("encode_format", EncodeFormat)
@pytest.mark.parametrize("mode", [*_RESIZING, ResizeMode.NO])
def test_every_format(encode_format: EncodeFormat, mode: ResizeMode) -> None:
    """Each format holds the picture, without metadata, and is recognised as that format."""
    body = encoded(
        Image.open(io.BytesIO(draw_image(3, 90, 70, "png"))),
        "JPEG",
        quality=95,
        comment=b"Secret",
        icc_profile=colour_profiles.rgb(),
    )
    result = resized(body, mode, 48, encode_format=encode_format)
    assert identify.inspect(result.body, _LIMIT) == result.info
    assert result.info.extension == encode_format.value
    opened = Image.open(io.BytesIO(result.body))
    assert not {"icc_profile", "exif", "comment"} & opened.info.keys()
    assert difference(opened, view(body, mode, 48)) < 4


@pytest.mark.parametrize("encode_format", EncodeFormat)
def test_quality_changes_the_size(encode_format: EncodeFormat) -> None:
    """A lower quality gives a smaller file. For PNG, the quality is the compression level."""
    body = draw_image(3, 200, 150, "png")
    low, high = (len(resized(body, size=128, encode_format=encode_format, quality=q).body) for q in (1, 9))
    low, high = (high, low) if encode_format is _PNG else (low, high)
    assert low < high


_HALF = Image.new("RGBA", (90, 70), (255, 0, 0, 255))
_HALF.paste((0, 0, 0, 0), (45, 0, 90, 70))
_TRANSPARENT: dict[str, bytes] = {
    "RGBA": encoded(_HALF),
    "palette": encoded(_HALF.quantize(4)),
    "grey": encoded(_HALF.convert("LA")),
    "GIF": encoded(_HALF, "GIF"),
}


@pytest.mark.parametrize("kind", _TRANSPARENT)
@pytest.mark.parametrize("encode_format", [EncodeFormat.PNG, EncodeFormat.WEBP, EncodeFormat.AVIF])
@pytest.mark.parametrize("mode", [ResizeMode.KEEP_RATIO, ResizeMode.NO])
def test_alpha_is_kept(kind: str, encode_format: EncodeFormat, mode: ResizeMode) -> None:
    """PNG, WebP and AVIF keep transparency."""
    opened = view(_TRANSPARENT[kind], mode, 48, encode_format=encode_format).convert("RGBA")
    alpha = opened.getchannel("A")
    assert alpha.getpixel((opened.width // 4, 20)) == 255
    assert alpha.getpixel((opened.width * 3 // 4, 20)) == 0


@pytest.mark.parametrize("kind", _TRANSPARENT)
@pytest.mark.parametrize("background", [(0, 0, 255), (90, 90, 90)])
def test_background_of_a_jpeg(kind: str, background: tuple[int, int, int]) -> None:
    """In a JPEG, transparent pixels get the background's colour, even if the image is grey."""
    opened = view(_TRANSPARENT[kind], size=48, encode_format=EncodeFormat.JPG, background=background).convert("RGB")
    found = opened.getpixel((opened.width * 3 // 4, 20))
    assert isinstance(found, tuple)
    assert all(abs(one - other) <= 4 for one, other in zip(found, background, strict=True))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("background", [_WHITE, (0, 0, 255)])
def test_border_has_the_background(mode: str, background: tuple[int, int, int]) -> None:
    """For images of any mode, a border is opaque and has the background's colour.

    Grey with a white border stays grey.
    """
    drawn = Image.new("RGB", (90, 40), (70, 70, 70)).convert(mode)
    opened = view(encoded(drawn, "TIFF"), ResizeMode.BORDER, 64, background=background)
    assert opened.size == (64, 64)
    assert opened.convert("RGBA").getpixel((32, 2)) == (*background, 255)
    assert opened.convert("RGBA").getpixel((32, 61)) == (*background, 255)
    middle = opened.convert("RGB").getpixel((32, 32))
    assert isinstance(middle, tuple)
    assert max(abs(level - 70) for level in middle) < 4
    assert opened.mode.startswith("L") == (mode.startswith("L") and background == _WHITE)


def test_alpha_with_a_profile_is_converted() -> None:
    """A profile's colours are converted to sRGB in images with an alpha channel too."""
    drawn = Image.new("RGB", (90, 70), (200, 60, 40))
    wide = view(encoded(drawn, icc_profile=colour_profiles.rgb()), size=48)
    drawn.putalpha(200)
    opened = view(encoded(drawn, icc_profile=colour_profiles.rgb()), size=48)
    assert opened.mode == "RGBA"
    assert difference(opened, wide) < 2
    assert wide.getpixel((20, 20)) != (200, 60, 40)


def test_skip_reencode_keeps_the_bytes() -> None:
    """An image that needs no change keeps its bytes, even with damaged metadata.

    Without --skip-reencode, the image is encoded again.
    """
    body = encoded(Image.open(io.BytesIO(draw_image(3, 90, 64, "png"))), "JPEG", comment=b"kept")
    assert resized(body, skip_reencode=True).body == body
    assert resized(body).body != body
    small = draw_image(3, 40, 30, "png")
    result = resized(small, skip_reencode=True, only_if_bigger=True, encode_format=_PNG)
    assert (result.body, result.info) == (small, identify.inspect(small, _LIMIT))
    odd = small[:33] + b"\0\0\0\x04tEXtnone0000" + small[33:]
    assert resized(odd, skip_reencode=True, only_if_bigger=True, encode_format=_PNG).body == odd


def _turned() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encoded(Image.new("RGB", (64, 64)), "JPEG", exif=exif)


_TO_ENCODE = {
    "another size": draw_image(3, 90, 70, "jpeg"),
    "another format": draw_image(3, 64, 64, "png"),
    "turned": _turned(),
    "CMYK": encoded(Image.new("CMYK", (64, 64)), "JPEG"),
    "a profile": encoded(Image.new("RGB", (64, 64)), "JPEG", icc_profile=colour_profiles.rgb()),
    "several": encoded(Image.new("RGB", (64, 64)), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
}


@pytest.mark.parametrize("body", _TO_ENCODE.values(), ids=_TO_ENCODE)
def test_skip_reencode_encodes_what_needs_it(body: bytes) -> None:
    """An image is encoded if it needs another size, format, orientation or colour space, or has further frames."""
    assert resized(body, skip_reencode=True).body != body


@pytest.mark.parametrize("size", [(512, 512), (384, 512)])
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("mode", _RESIZING)
def test_skip_reencode_resizes_a_large_jpeg(mode: ResizeMode, factor: int, size: tuple[int, int]) -> None:
    """A large JPEG is resized, although Pillow can decode it directly at the size of the result."""
    result = resized(draw_image(3, *size, "jpeg"), mode, 512 // factor, skip_reencode=True)
    expected = resize_geometry(size, ResizeOptions(mode, 512 // factor)).result
    assert Image.open(io.BytesIO(result.body)).size == (result.info.width, result.info.height) == expected


def test_skip_reencode_still_decodes() -> None:
    """A truncated image is refused, although its header needs no change."""
    body = draw_image(3, 64, 64, "jpeg")
    with pytest.raises(UndecodableError):
        resized(body[: len(body) // 2], skip_reencode=True)


@pytest.mark.parametrize(
    ("mode", "size", "encode_format"),
    [
        (ResizeMode.KEEP_RATIO, (20_000, 20), EncodeFormat.JPG),
        (ResizeMode.KEEP_RATIO, (20_000, 60), EncodeFormat.WEBP),
        (ResizeMode.NO, (16_384, 1), EncodeFormat.WEBP),
    ],
)
def test_sides_too_long_for_the_format(mode: ResizeMode, size: tuple[int, int], encode_format: EncodeFormat) -> None:
    """A result is refused before decoding if its format can't hold its sides.

    Other modes and formats accept the same image.
    """
    body = encoded(Image.new("L", size))
    with pytest.raises(TooManyPixelsError, match="side has at most"):
        resized(body, mode, 70, encode_format=encode_format)
    assert resized(body, ResizeMode.CENTER_CROP, 70, encode_format=encode_format).info.width == 70
