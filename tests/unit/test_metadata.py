"""Damaged metadata never drops an image, and never hides damaged pixels."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat
from PIL.Image import Transpose

from tasks import metadata
from tasks.connection import Deadline
from tasks.errors import FetchError, NotAnImage, TooManyPixels, Undecodable
from tasks.images import inspect
from tasks.model import ResizeMode, ResizeOptions
from tasks.resize import resized
from tasks.verify import decoded
from tests.conditions import PATIENCE
from tests.damaged_metadata import PICTURE, chunk, damaged_metadata, exif, jpeg, png, riff_chunk, segment, tiff, webp
from tests.encoding import encoded
from tests.unit import colour_profiles

_LIMIT = 1_000_000
#: How much a JPEG's edges may differ from what was encoded, of 255.
_NEAR = 20
_WIDE = (90, 160, 90)


def shown(body: bytes) -> Image.Image:
    """The image after resizing it to its own size."""
    options = ResizeOptions(ResizeMode.KEEP_RATIO, PICTURE.height, 95)
    return Image.open(io.BytesIO(resized(body, options, _LIMIT, Deadline(PATIENCE, PATIENCE)).body))


def verified(body: bytes) -> Any:
    """What decoding says of an image."""
    return decoded(body, _LIMIT, Deadline(PATIENCE, PATIENCE))


def difference(one: Image.Image, other: Image.Image) -> float:
    """How much two images differ, of 255."""
    return max(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other)).rms)


@pytest.mark.parametrize("name", damaged_metadata())
def test_pixels_that_are_whole_are_taken(name: str) -> None:
    """Neither the header, nor decoding, nor resizing drops an image for what carries no pixels."""
    body = damaged_metadata()[name]
    info = inspect(body, _LIMIT)
    assert (info.width, info.height) == PICTURE.size
    assert verified(body) == info
    assert difference(shown(body), PICTURE) < _NEAR


def _transposed(kind: str) -> bytes:
    """A picture that lies on its side and says so, in a wide gamut, with metadata that a parser stumbles over."""
    lying = PICTURE.transpose(Transpose.ROTATE_90)
    options: dict[str, Any] = {"exif": exif(6), "icc_profile": colour_profiles.rgb()}
    match kind:
        case "PNG":
            body = encoded(lying, "PNG", **options)
            return body[:33] + chunk(b"tEXt", b"Comment\0text", crc_error=1) + body[33:]
        case "JPEG":
            body = encoded(lying, "JPEG", quality=95, subsampling=0, **options)
            return body[:2] + segment(0xED, b"Photoshop 3.0\08BIM\4\4") + body[2:-2]
        case "WEBP":
            body = encoded(lying, "WEBP", lossless=True, **options)
            return body + riff_chunk(b"XMP ", b"text", length_error=99)
        case _:
            body = encoded(lying, "TIFF", **options)
            return body[:-4] + struct.pack("<I", 1 << 30) if body.endswith(bytes(4)) else body


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_profile_and_orientation_stay(kind: str) -> None:
    """What is sound of an image's metadata still counts when the rest is damaged."""
    body = _transposed(kind)
    expected = encoded(PICTURE, "PNG", icc_profile=colour_profiles.rgb())
    assert difference(shown(body), shown(expected).convert("RGB")) < _NEAR


def test_large_profile_counts() -> None:
    """A profile of more than a megabyte, as printers have them, is used in a PNG as well."""
    profile = colour_profiles.rgb() + bytes(2 << 20)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    plain = Image.new("RGB", PICTURE.size, _WIDE)
    colours = [
        shown(encoded(plain, kind, icc_profile=colour_profile, **options)).convert("RGB").getpixel((9, 9))
        for kind, options, colour_profile in (
            ("PNG", {}, colour_profiles.rgb()),
            ("PNG", {}, profile),
            ("JPEG", {"quality": 100}, profile),
        )
    ]
    assert all(
        abs(one - other) <= 3
        for colour in colours[1:]
        for one, other in zip(colours[0], colour, strict=True)  # type: ignore[arg-type]
    )
    assert colours[0] != _WIDE


def test_orientation_that_is_damaged_turns_nothing() -> None:
    """An image whose EXIF is broken is taken as it lies."""
    for broken in (b"MM\0*", b"II*\0\xff\xff\xff\xff", bytes(20), exif(6)[6:20]):
        for body in (
            png(chunk(b"eXIf", broken)),
            jpeg(segment(0xE1, b"Exif\0\0" + broken)),
            webp(after=riff_chunk(b"EXIF", broken), flags=8),
            tiff((274, 3, 2, b"\6\0\6\0")),
        ):
            assert shown(body).size == PICTURE.size


def test_transparency_stays() -> None:
    """What can be seen through belongs to the pixels, with damaged metadata too."""
    picture = PICTURE.quantize(8)
    body = encoded(picture, transparency=picture.getpixel((0, 0)))
    damaged = body[:33] + chunk(b"pHYs", bytes(9), crc_error=1) + body[33:]
    assert shown(damaged).tobytes() == shown(body).tobytes()
    assert min(shown(damaged).crop((0, 0, 4, 4)).tobytes()) > 240


_NOISE = Image.effect_noise((90, 70), 60).convert("RGB")


def _without(body: bytes, kind: bytes) -> bytes:
    """A PNG whose chunk of a kind has a wrong checksum."""
    start = body.index(kind) - 4
    end = start + 12 + int.from_bytes(body[start : start + 4])
    return body[: end - 4] + bytes(4) + body[end:]


@pytest.mark.parametrize(
    "body",
    [_without(encoded(PICTURE), b"IHDR"), _without(encoded(PICTURE.quantize(8)), b"PLTE")],
    ids=["size", "palette"],
)
def test_header_of_the_pixels_has_to_be_right(body: bytes) -> None:
    """Size and palette belong to the pixels; browsers show no such image either."""
    with pytest.raises(Undecodable):
        inspect(body, _LIMIT)


def test_pixels_are_judged_by_decoding() -> None:
    """A wrong checksum of pixels that can all be decoded drops no image, as in browsers."""
    assert verified(_without(encoded(PICTURE), b"IDAT")).format == "png"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_pixels_that_break_off_are_refused(kind: str, share: float) -> None:
    """That damaged metadata is passed over hides no pixel that is missing."""
    body = encoded(_NOISE, kind)
    cut = body[: int(len(body) * share)]
    for read in (verified, shown):
        with pytest.raises((Undecodable, NotAnImage)):
            read(cut)


def test_animation_whose_order_is_damaged_is_a_still_image() -> None:
    """A PNG whose frames can't be put in order shows its first picture, as in browsers."""
    frames = [PICTURE, PICTURE.transpose(Transpose.FLIP_LEFT_RIGHT)]
    body = encoded(frames[0], save_all=True, append_images=frames[1:])
    last = body.rindex(b"fcTL") + 4
    damaged = body[:last] + b"\0\0\0\7" + body[last + 4 :]
    crc = zlib.crc32(damaged[last - 4 : last + 26]).to_bytes(4)
    damaged = damaged[: last + 26] + crc + damaged[last + 30 :]
    assert verified(damaged) == inspect(damaged, _LIMIT)
    assert difference(shown(damaged), PICTURE) < _NEAR


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_later_frame_that_is_damaged(kind: str) -> None:
    """An animation that breaks off is saved by its header, and refused where every frame is decoded."""
    frames = [Image.effect_noise(PICTURE.size, 10 + number).convert("RGB") for number in range(3)]
    body = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    cut = body[: len(body) * 7 // 9]
    with pytest.raises(Undecodable):
        verified(cut)
    if kind != "WEBP":
        assert inspect(cut, _LIMIT).width == PICTURE.width
        assert shown(cut).size == PICTURE.size


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_is_damaged_is_read_or_refused(data: st.DataObject) -> None:
    """However the bytes of a damaged image are changed, it ends as an image or as a reason."""
    small = [name for name, body in damaged_metadata().items() if len(body) < 40_000]
    body = bytearray(damaged_metadata()[data.draw(st.sampled_from(small))])
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(8, len(body) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(body[: data.draw(st.integers(len(body) // 2, len(body)))])
    pixels = metadata.pixels_only(damaged)
    assert len(pixels) <= len(damaged) + 200
    try:
        verified(damaged)
    except FetchError as error:
        assert isinstance(error, NotAnImage | Undecodable | TooManyPixels)  # noqa: PT017  # either end is right


def test_orientation_golden() -> None:
    """EXIF's number of an orientation is read, and anything else is upright."""
    assert [metadata.orientation(exif(number)) for number in range(1, 9)] == list(range(1, 9))
    assert metadata.orientation(b"") == metadata.orientation(b"Exif\0\0nothing") == 1
    assert metadata.orientation(exif(6).replace(struct.pack(">HHI", 274, 3, 1), struct.pack(">HHI", 274, 2, 1))) == 1
