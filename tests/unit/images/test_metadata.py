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

from tasks.deadline import Deadline
from tasks.errors import FetchError, NotAnImageError, TooManyPixelsError, UndecodableError
from tasks.image_options import ResizeMode, ResizeOptions
from tasks.images.decode import decode_all_frames
from tasks.images.identify import inspect
from tasks.images.metadata.exif import orientation
from tasks.images.metadata.removal import without_metadata
from tasks.images.resize import resize_image
from tests.damaged_metadata import IMAGE, chunk, damaged_metadata, exif, jpeg, png, riff_chunk, segment, tiff, webp
from tests.encoding import encoded
from tests.unit.images import colour_profiles
from tests.waiting import PATIENCE

_LIMIT = 1_000_000
#: The largest difference between a JPEG's edges and the encoded image, from 0 to 255.
_NEAR = 20
_WIDE = (90, 160, 90)


def view(body: bytes) -> Image.Image:
    """Return the image, resized to its own size."""
    options = ResizeOptions(ResizeMode.KEEP_RATIO, IMAGE.height, 95)
    return Image.open(io.BytesIO(resize_image(body, options, _LIMIT, Deadline(PATIENCE, PATIENCE)).body))


def decode_all(body: bytes) -> Any:
    """Return the result of decoding an image."""
    return decode_all_frames(body, _LIMIT, Deadline(PATIENCE, PATIENCE))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the difference of two images, from 0 to 255."""
    return max(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other)).rms)


@pytest.mark.parametrize("name", damaged_metadata())
def test_accepts_whole_pixels_with_damaged_metadata(name: str) -> None:
    """The header check, decoding and resizing all accept an image with damage outside its pixels."""
    body = damaged_metadata()[name]
    info = inspect(body, _LIMIT)
    assert (info.width, info.height) == IMAGE.size
    assert decode_all(body) == info
    assert difference(view(body), IMAGE) < _NEAR


def _transposed(kind: str) -> bytes:
    """Return a rotated image that has an EXIF orientation, a wide gamut, and metadata that breaks a parser."""
    rotated = IMAGE.transpose(Transpose.ROTATE_90)
    options: dict[str, Any] = {"exif": exif(6), "icc_profile": colour_profiles.rgb()}
    match kind:
        case "PNG":
            body = encoded(rotated, "PNG", **options)
            return body[:33] + chunk(b"tEXt", b"Comment\0text", crc_error=1) + body[33:]
        case "JPEG":
            body = encoded(rotated, "JPEG", quality=95, subsampling=0, **options)
            return body[:2] + segment(0xED, b"Photoshop 3.0\08BIM\4\4") + body[2:-2]
        case "WEBP":
            body = encoded(rotated, "WEBP", lossless=True, **options)
            return body + riff_chunk(b"XMP ", b"text", length_error=99)
        case _:
            body = encoded(rotated, "TIFF", **options)
            return body[:-4] + struct.pack("<I", 1 << 30) if body.endswith(bytes(4)) else body


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_uses_profile_and_orientation_beside_damage(kind: str) -> None:
    """Intact metadata is still used when other metadata is damaged."""
    body = _transposed(kind)
    expected = encoded(IMAGE, "PNG", icc_profile=colour_profiles.rgb())
    assert difference(view(body), view(expected).convert("RGB")) < _NEAR


def test_uses_a_large_profile() -> None:
    """A colour profile of more than a megabyte is used in a PNG too. Printers have such large profiles."""
    profile = colour_profiles.rgb() + bytes(2 << 20)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    plain = Image.new("RGB", IMAGE.size, _WIDE)
    colours = [
        view(encoded(plain, kind, icc_profile=colour_profile, **options)).convert("RGB").getpixel((9, 9))
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


def test_damaged_orientation_does_not_rotate() -> None:
    """An image with broken EXIF is not rotated."""
    for broken in (b"MM\0*", b"II*\0\xff\xff\xff\xff", bytes(20), exif(6)[6:20]):
        for body in (
            png(chunk(b"eXIf", broken)),
            jpeg(segment(0xE1, b"Exif\0\0" + broken)),
            webp(after=riff_chunk(b"EXIF", broken), flags=8),
            tiff((274, 3, 2, b"\6\0\6\0")),
        ):
            assert view(body).size == IMAGE.size


def test_transparency_survives_damaged_metadata() -> None:
    """Transparency belongs to the pixels, so damaged metadata does not affect it."""
    image = IMAGE.quantize(8)
    body = encoded(image, transparency=image.getpixel((0, 0)))
    damaged = body[:33] + chunk(b"pHYs", bytes(9), crc_error=1) + body[33:]
    assert view(damaged).tobytes() == view(body).tobytes()
    assert min(view(damaged).crop((0, 0, 4, 4)).tobytes()) > 240


_NOISE = Image.effect_noise((90, 70), 60).convert("RGB")


def _without(body: bytes, kind: bytes) -> bytes:
    """Return a PNG with a wrong checksum in the chunk of this kind."""
    start = body.index(kind) - 4
    end = start + 12 + int.from_bytes(body[start : start + 4])
    return body[: end - 4] + bytes(4) + body[end:]


@pytest.mark.parametrize(
    "body",
    [_without(encoded(IMAGE), b"IHDR"), _without(encoded(IMAGE.quantize(8)), b"PLTE")],
    ids=["size", "palette"],
)
def test_refuses_damaged_size_or_palette(body: bytes) -> None:
    """Size and palette belong to the pixels. An image is refused if its size or palette is damaged, as in browsers."""
    with pytest.raises(UndecodableError):
        inspect(body, _LIMIT)


def test_wrong_checksum_of_whole_pixels_is_accepted() -> None:
    """A wrong checksum does not drop an image if all its pixels can be decoded, as in browsers."""
    assert decode_all(_without(encoded(IMAGE), b"IDAT")).format == "png"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_refuses_truncated_pixels(kind: str, share: float) -> None:
    """Tolerance for damaged metadata does not hide missing pixels."""
    body = encoded(_NOISE, kind)
    cut = body[: int(len(body) * share)]
    for read in (decode_all, view):
        with pytest.raises((UndecodableError, NotAnImageError)):
            read(cut)


def test_animation_with_a_damaged_order_is_a_still_image() -> None:
    """If the order of a PNG's frames is unknown, the PNG's first image is used, as in browsers."""
    frames = [IMAGE, IMAGE.transpose(Transpose.FLIP_LEFT_RIGHT)]
    body = encoded(frames[0], save_all=True, append_images=frames[1:])
    last = body.rindex(b"fcTL") + 4
    damaged = body[:last] + b"\0\0\0\7" + body[last + 4 :]
    crc = zlib.crc32(damaged[last - 4 : last + 26]).to_bytes(4)
    damaged = damaged[: last + 26] + crc + damaged[last + 30 :]
    assert decode_all(damaged) == inspect(damaged, _LIMIT)
    assert difference(view(damaged), IMAGE) < _NEAR


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_truncated_animation(kind: str) -> None:
    """A truncated animation is saved if only its header is checked.

    The animation is refused if every frame is decoded.
    """
    frames = [Image.effect_noise(IMAGE.size, 10 + number).convert("RGB") for number in range(3)]
    body = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    cut = body[: len(body) * 7 // 9]
    with pytest.raises(UndecodableError):
        decode_all(cut)
    if kind != "WEBP":
        assert inspect(cut, _LIMIT).width == IMAGE.width
        assert view(cut).size == IMAGE.size


@settings(max_examples=60)
@given(data=st.data())
def test_random_damage_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever bytes of a damaged image change, the result is an image or a reason."""
    small = [name for name, body in damaged_metadata().items() if len(body) < 40_000]
    body = bytearray(damaged_metadata()[data.draw(st.sampled_from(small))])
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(8, len(body) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(body[: data.draw(st.integers(len(body) // 2, len(body)))])
    pixels = without_metadata(damaged)
    assert len(pixels) <= len(damaged) + 200
    try:
        decode_all(damaged)
    except FetchError as error:
        assert isinstance(error, NotAnImageError | UndecodableError | TooManyPixelsError)  # noqa: PT017  # either end is right


def test_reads_the_exif_orientation() -> None:
    """A valid EXIF orientation is read, and any other value means upright."""
    assert [orientation(exif(number)) for number in range(1, 9)] == list(range(1, 9))
    assert orientation(b"") == orientation(b"Exif\0\0nothing") == 1
    assert orientation(exif(6).replace(struct.pack(">HHI", 274, 3, 1), struct.pack(">HHI", 274, 2, 1))) == 1
