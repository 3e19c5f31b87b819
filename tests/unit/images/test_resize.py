"""A resized image has the requested size and the original colours, and is upright. Resizing wastes no work."""

from __future__ import annotations

import io
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageFile, ImageStat, JpegImagePlugin
from PIL.Image import Resampling, Transpose

from producer.demo import draw_image
from tasks.deadline import Deadline
from tasks.errors import FetchTimeoutError, NotAnImageError, TooManyPixelsError, UndecodableError
from tasks.image_options import ResizeMode, ResizeOptions
from tasks.images import encode, identify, resize
from tasks.images import pixel_budget as rooms
from tasks.images.geometry import resize_geometry
from tasks.images.identify import EncodedImage, ImageInfo
from tasks.images.pixel_budget import PixelBudget
from tasks.images.resize import resize_image
from tests.encoding import encoded
from tests.unit.conftest import image
from tests.unit.images import colour_profiles
from tests.waiting import PATIENCE, wait_for

_LIMIT = 10_000_000
_KINDS = ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"]
#: The arguments of Pillow's `save` that preserve an image's colours and size.
_EXACT: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 100},
    "ICO": {"sizes": [(48, 32), (100, 64)]},
}
_RED, _GREEN, _BLUE, _YELLOW = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 0)
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def options_for(size: int) -> ResizeOptions:
    """Return the options for a smaller side of this many pixels."""
    return ResizeOptions(ResizeMode.KEEP_RATIO, size)


def scaled_size(size: tuple[int, int], smaller_side: int) -> tuple[int, int]:
    """Return the size of an image after resizing."""
    return resize_geometry(size, options_for(smaller_side)).result


def resize_to(body: bytes, size: int = 64, max_pixels: int = _LIMIT) -> EncodedImage:
    """Return the resized image."""
    return resize_image(body, options_for(size), max_pixels, Deadline(PATIENCE, PATIENCE))


def view(body: bytes, size: int = 64) -> Image.Image:
    """Return the resized image as shown by a reader that ignores profiles and EXIF."""
    return Image.open(io.BytesIO(resize_to(body, size).body))


def quarters(width: int = 96, height: int = 64) -> Image.Image:
    """Return an asymmetric image: red and green above, blue and yellow below."""
    drawn = Image.new("RGB", (width, height), _RED)
    drawn.paste(_GREEN, (width // 2, 0, width, height // 2))
    drawn.paste(_BLUE, (0, height // 2, width // 2, height))
    drawn.paste(_YELLOW, (width // 2, height // 2, width, height))
    return drawn


def near(colour: Any, expected: Any, by: int = 4) -> bool:
    """Return whether two colours look the same."""
    pairs = zip(colour, expected, strict=True) if isinstance(expected, tuple) else [(colour, expected)]
    return all(abs(one - other) <= by for one, other in pairs)


def centre(image: Image.Image) -> Any:
    """Return the colour in an image's centre."""
    return image.getpixel((image.width // 2, image.height // 2))


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Return the similarity of two images in decibels. Above 40 dB, differences are invisible."""
    squares = ImageStat.Stat(ImageChops.difference(one, other)).rms
    return 20 * math.log10(255 / math.sqrt(sum(rms**2 for rms in squares) / len(squares)))


@pytest.mark.parametrize(
    ("size", "smaller_side", "expected"),
    [
        ((1024, 768), 256, (341, 256)),
        ((768, 1024), 256, (256, 341)),
        ((500, 500), 256, (256, 256)),
        ((10, 5), 256, (512, 256)),
        ((1, 1), 1, (1, 1)),
        ((1, 1), 10_000, (10_000, 10_000)),
        ((4000, 1), 1, (4000, 1)),
        ((3, 2), 1, (2, 1)),
    ],
)
def test_size_golden(size: tuple[int, int], smaller_side: int, expected: tuple[int, int]) -> None:
    """The smaller side gets the size, whether the image is larger or smaller."""
    assert scaled_size(size, smaller_side) == expected


_sides = st.integers(1, 100_000)


@given(_sides, _sides, st.integers(1, 10_000))
@settings(max_examples=200)
def test_size_keeps_the_ratio(width: int, height: int, smaller_side: int) -> None:
    """The smaller side is exact, and the larger side is right to half a pixel, as in img2dataset. No side is 0."""
    size = scaled_size((width, height), smaller_side)
    assert min(size) == smaller_side
    for side, original in zip(size, (width, height), strict=True):
        assert abs(side - original * smaller_side / min(width, height)) <= 0.5 + 1e-6


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 80), st.sampled_from(["JPEG", "PNG", "GIF"]))
@settings(max_examples=60)
@example(1, 200, 3, "JPEG")
@example(200, 1, 1, "JPEG")
@example(8, 9, 1, "JPEG")
def test_reports_both_sizes(width: int, height: int, smaller_side: int, kind: str) -> None:
    """The file has the reported size, for any size. The original's size is reported too."""
    result = resize_to(encoded(Image.new("RGB", (width, height), _RED), kind), smaller_side)
    size = scaled_size((width, height), smaller_side)
    assert result.info == ImageInfo("jpeg", "jpg", *size)
    assert result.original == (width, height)
    with Image.open(io.BytesIO(result.body)) as opened:
        assert opened.size == size
        assert near(centre(opened), _RED)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_format_becomes_a_jpeg(kind: str) -> None:
    """Each accepted format is decoded, and saved as a JPEG of three colours."""
    opened = view(encoded(quarters(48, 32), kind, **_EXACT.get(kind, {})))
    assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (96, 64))
    assert near(opened.getpixel((20, 12)), _RED, 12)
    assert near(opened.getpixel((76, 12)), _GREEN, 12)
    assert near(opened.getpixel((20, 52)), _BLUE, 12)
    assert near(opened.getpixel((76, 52)), _YELLOW, 12)


def test_same_download_gives_the_same_bytes() -> None:
    """If a task is delivered twice, it makes the same file from the same download."""
    body = draw_image(3, 300, 200)
    assert resize_to(body).body == resize_to(body).body


_MODES: dict[str, tuple[bytes, str, Any]] = {
    "RGB": (encoded(Image.new("RGB", (90, 70), _GREEN)), "RGB", _GREEN),
    "palette": (encoded(Image.new("RGB", (90, 70), _GREEN).quantize(4)), "RGB", _GREEN),
    "grey": (encoded(Image.new("L", (90, 70), 77)), "L", 77),
    "grey JPEG": (encoded(Image.new("L", (90, 70), 77), "JPEG"), "L", 77),
    "grey with alpha": (encoded(Image.new("LA", (90, 70), (77, 255))), "L", 77),
    "black and white": (encoded(Image.new("1", (90, 70), 1)), "L", 255),
    "16 bits of grey": (encoded(Image.new("I;16", (90, 70), 77 * 257)), "L", 77),
    "16 bits in a TIFF": (encoded(Image.new("I;16", (90, 70), 77 * 257), "TIFF"), "L", 77),
    "16 bits, other byte order": (encoded(Image.new("I;16B", (90, 70), 77 * 257), "TIFF"), "L", 77),
    "CMYK in a TIFF": (encoded(Image.new("CMYK", (90, 70), (0, 255, 255, 0)), "TIFF"), "RGB", _RED),
    "YCbCr in a TIFF": (encoded(Image.new("RGB", (90, 70), _RED).convert("YCbCr"), "TIFF"), "RGB", _RED),
}


@pytest.mark.parametrize(("body", "mode", "colour"), _MODES.values(), ids=_MODES)
@pytest.mark.parametrize("size", [20, 140], ids=["smaller", "larger"])
def test_colours_stay(body: bytes, mode: str, colour: Any, size: int) -> None:
    """Images of any pixel format keep their colour. Grey images keep a single channel, as in img2dataset."""
    opened = view(body, size)
    assert opened.mode == mode
    assert near(centre(opened), colour)


def test_sixteen_bits_are_scaled() -> None:
    """16-bit grey is scaled to 8 bits. No level is cut off, and no level wraps around."""
    ramp = Image.new("I;16", (256, 8))
    ramp.putdata([level * 257 for level in range(256)] * 8)
    row = view(encoded(ramp), 8).crop((0, 4, 256, 5)).tobytes()
    assert all(near(level, x, 6) for x, level in enumerate(row))


@pytest.mark.parametrize(("mode", "value"), [("I", 7), ("F", 0.5), ("LAB", (50, 0, 0))])
def test_refuses_modes_without_a_white_level(mode: str, value: Any) -> None:
    """32-bit integers, floating-point numbers and Lab are refused by name, because their white level is unknown."""
    with pytest.raises(UndecodableError, match=f"of mode {mode}"):
        resize_to(encoded(Image.new(mode, (90, 70), value), "TIFF"))


def ycck(colour: tuple[int, int, int]) -> bytes:
    """Return a YCCK JPEG as Adobe's programs write it. C, M and Y are coded as if they were RGB, and K is inverted."""
    red, green, blue = (255 - part for part in colour)
    inks = Image.new("RGB", (1, 1), (red, green, blue)).convert("YCbCr").getpixel((0, 0))
    assert isinstance(inks, tuple)
    # Pillow inverts the inks that it writes, and declares them as not transformed.
    written = encoded(Image.new("CMYK", (90, 70), (*(255 - ink for ink in inks), 0)), "JPEG", quality=95)
    at = written.index(b"Adobe\0") + 11
    assert written[at] == 0
    return written[:at] + b"\2" + written[at + 1 :]


@pytest.mark.parametrize("colour", [_RED, _GREEN, _BLUE, _WHITE, _BLACK])
def test_adobes_inks_are_inverted(colour: tuple[int, int, int]) -> None:
    """A CMYK or YCCK JPEG for print is not shown as a negative."""
    inks = tuple(255 - part for part in colour)
    assert near(centre(view(encoded(Image.new("CMYK", (90, 70), (*inks, 0)), "JPEG"))), colour)
    assert near(centre(view(ycck(colour))), colour)


def in_adobe_rgb(colour: tuple[int, ...]) -> tuple[int, ...]:
    """Return the Adobe RGB value of an sRGB colour. The value follows from the definitions of sRGB and Adobe RGB."""
    red, green, blue = (
        (part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4) for part in colour
    )
    linear = (0.7152 * red + 0.2848 * green, green, 0.0412 * green + 0.9588 * blue)
    return tuple(round(255 * part ** (1 / colour_profiles.ADOBE_GAMMA)) for part in linear)


@pytest.mark.parametrize("colour", [(200, 60, 40), (90, 160, 90), (40, 60, 200), (128, 128, 128), _WHITE, _BLACK])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_wide_gamut_is_not_washed_out(kind: str, colour: tuple[int, int, int]) -> None:
    """Adobe RGB colours are converted to sRGB, because readers ignore profiles."""
    wide = Image.new("RGB", (90, 70), in_adobe_rgb(colour))
    body = encoded(wide, kind, icc_profile=colour_profiles.rgb(), **_EXACT.get(kind, {}))
    assert near(centre(view(body)), colour, 5)
    assert "icc_profile" not in view(body).info


def test_converts_grey_with_a_profile() -> None:
    """Grey with another gamma is converted to the grey of sRGB. The image keeps a single channel."""
    opened = view(encoded(Image.new("L", (90, 70), 128), icc_profile=colour_profiles.grey(1.0)))
    assert (opened.mode, near(centre(opened), 188)) == ("L", True)


def test_converts_cmyk_with_a_profile() -> None:
    """The profile gives the colours of the inks, so cyan becomes white if the printer's cyan ink is clear."""
    body = encoded(Image.new("CMYK", (90, 70), (255, 0, 0, 0)), "JPEG", icc_profile=colour_profiles.cmyk())
    assert near(centre(view(body)), _WHITE)


_NO_PROFILES = {
    "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "broken": colour_profiles.rgb()[:-40],
    "not a profile": b"profile",
    "of grey": colour_profiles.grey(1.0),
    "of a printer": colour_profiles.cmyk(),
    "too large": colour_profiles.rgb() + bytes(4 * 1024 * 1024),
}


@pytest.mark.parametrize("profile", _NO_PROFILES.values(), ids=_NO_PROFILES)
def test_ignores_unusable_profiles(profile: bytes) -> None:
    """sRGB's own profile costs nothing, and an unsuitable profile is ignored, as in browsers."""
    drawn = Image.open(io.BytesIO(draw_image(3, 200, 100, "png")))
    assert resize_to(encoded(drawn, "JPEG", icc_profile=profile)).body == resize_to(encoded(drawn, "JPEG")).body


def test_threads_share_a_profile() -> None:
    """Many threads with one profile get the same result as one thread."""
    drawn = Image.open(io.BytesIO(draw_image(3, 200, 100, "png")))
    body = encoded(drawn, "JPEG", icc_profile=colour_profiles.rgb())
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: resize_to(body).body, range(64)))) == 1


#: For each EXIF orientation, the transposition that stores an upright image. This transposition is the inverse of the
#: reader's transposition.
_LAID = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_upright(kind: str, orientation: int) -> None:
    """Each of the eight orientations is applied once, in each format with orientations.

    The reported sizes are the upright image's sizes.
    """
    upright = quarters(192, 128)
    stored = upright.transpose(_LAID[orientation]) if orientation in _LAID else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    result = resize_to(encoded(stored, kind, exif=exif, **_EXACT.get(kind, {})))
    assert (result.info.width, result.info.height) == (96, 64)
    assert result.original == (192, 128)
    opened = Image.open(io.BytesIO(result.body))
    assert len(opened.getexif()) == 0
    # JPEG drops half of the colour samples, which is visible at edges as hard as these.
    assert psnr(opened, upright.resize((96, 64), Resampling.BOX)) > 24


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_ignores_an_unknown_orientation(orientation: int) -> None:
    """A number beyond EXIF's eight does not rotate."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert resize_to(encoded(quarters(), "JPEG", exif=exif)).body == resize_to(encoded(quarters(), "JPEG")).body


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(50)]
)
@pytest.mark.filterwarnings("ignore:(Corrupt EXIF data|Truncated File Read):UserWarning")
def test_ignores_broken_exif(exif: bytes) -> None:
    """An image with broken EXIF is not rotated."""
    assert resize_to(encoded(quarters(), "JPEG", exif=exif)).body == resize_to(encoded(quarters(), "JPEG")).body


def test_removes_metadata() -> None:
    """A photo's location, author and preview are not saved."""
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ada Secret"
    body = encoded(quarters(), "JPEG", exif=exif, comment=b"a Secret comment", xmp=b"<x>Secret</x>", dpi=(300, 300))
    assert body.count(b"Secret") == 3
    result = resize_to(body).body
    assert b"Secret" not in result
    assert Image.open(io.BytesIO(result)).info.keys() == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def _transparent(kind: str) -> bytes:
    """Return a red image whose right half is transparent. The transparent pixels are black."""
    drawn = Image.new("RGBA", (100, 64), (*_RED, 255))
    drawn.paste((0, 0, 0, 0), (50, 0, 100, 64))
    if kind.startswith("palette"):
        indexed = Image.new("P", drawn.size, 0)
        indexed.putpalette([*_RED, *_BLACK])
        indexed.paste(1, (50, 0, 100, 64))
        return encoded(indexed, "PNG", transparency=1 if kind == "palette" else b"\xff\0")
    if kind == "one colour":
        flat = Image.new("RGB", drawn.size, _RED)
        flat.paste(_BLACK, (50, 0, 100, 64))
        return encoded(flat, "PNG", transparency=_BLACK)
    return encoded(drawn, kind, **_EXACT.get(kind, {}))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "ICO", "palette", "palette with levels", "one colour"])
@pytest.mark.parametrize("size", [32, 64, 100], ids=["smaller", "same size", "larger"])
def test_flattens_transparency_onto_white(kind: str, size: int) -> None:
    """Transparent pixels become white, and their hidden black does not darken the edge."""
    opened = view(_transparent(kind), size)
    assert opened.mode == "RGB"
    assert near(opened.getpixel((opened.width // 4, opened.height // 2)), _RED)
    assert near(opened.getpixel((opened.width * 3 // 4, opened.height // 2)), _WHITE)
    assert min(opened.getchannel("R").tobytes()) > 180


def test_half_transparency_is_half_white() -> None:
    """Half-transparent black over white becomes grey, in colour images and in grey images."""
    assert near(centre(view(encoded(Image.new("RGBA", (90, 70), (0, 0, 0, 128))))), (127, 127, 127))
    assert near(centre(view(encoded(Image.new("LA", (90, 70), (0, 128))))), 127)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_first_frame_is_taken(kind: str) -> None:
    """The first frame or page is used. If a camera's file has several images, the first image is used."""
    frames = [Image.new("RGB", (90, 70), colour) for colour in (_RED, _GREEN, _BLUE)]
    body = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert near(centre(view(body)), _RED, 8)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_image_is_undecodable(kind: str, share: float) -> None:
    """A truncated image is reported as broken, wherever it ends."""
    body = encoded(Image.open(io.BytesIO(draw_image(3, 100, 80, "png"))), kind)
    with pytest.raises(UndecodableError):
        resize_to(body[: int(len(body) * share)])


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=30)
@given(data=st.data())
def test_broken_bytes_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    """Whatever bytes of an image change, it is resized or refused with one of our errors."""
    body = bytearray(image(kind, (40, 30)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = resize_to(bytes(body), max_pixels=1_000_000)
    except (NotAnImageError, UndecodableError, TooManyPixelsError):
        return
    assert min(result.info.width or 0, result.info.height or 0) == 64


def test_out_of_memory_is_not_a_broken_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that exceeds this machine's memory is not reported as broken."""

    def full(*_: Any) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", full)
    with pytest.raises(MemoryError):
        resize_to(image("JPEG"))


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (1_200, 1)])
def test_extreme_ratio_is_too_many_pixels(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A result is refused before decoding if it has over a hundred million pixels, or a side too long for a JPEG."""
    body = image("PNG", size)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(TooManyPixelsError, match=r"more than 10,000,000|side has at most 65,500"):
        resize_to(body)


def test_checks_the_header_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original's size is checked before decoding, as without resizing."""
    body = image("PNG", (200, 100))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(TooManyPixelsError, match="200x100"):
        resize_to(body, 8, max_pixels=19_999)


def test_refuses_a_page() -> None:
    """HTML is refused, with and without resizing."""
    with pytest.raises(NotAnImageError):
        resize_to(b"<!doctype html><title>Sign in</title>")


def test_scans_are_bounded() -> None:
    """A progressive JPEG with too many scans is refused. A JPEG with the usual number of scans is accepted."""
    body = encoded(quarters(), "JPEG", progressive=True)
    assert resize_to(body).info.width == 96
    last = body.rindex(b"\xff\xda")
    bomb = body[:last] + body[last:-2] * 300 + body[-2:]
    with pytest.raises(UndecodableError, match="more than 200 scans"):
        resize_to(bomb)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list. Each decoding of a JPEG adds its size to the list."""
    sizes: list[tuple[int, int]] = []
    prepare = ImageFile.ImageFile.load_prepare

    def counted(self: ImageFile.ImageFile) -> None:
        if isinstance(self, JpegImagePlugin.JpegImageFile):
            sizes.append(self.size)
        prepare(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", counted)
    return sizes


@pytest.mark.parametrize(
    ("size", "smaller_side", "scale"),
    [
        ((1024, 768), 256, 2),
        ((2048, 1536), 256, 4),
        ((1030, 1033), 128, 8),
        ((4096, 4096), 64, 8),
        ((500, 400), 256, 1),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_decoded_once_and_small(
    decoded: list[tuple[int, int]], mode: str, size: tuple[int, int], smaller_side: int, scale: int
) -> None:
    """A JPEG is decoded once, at its smallest scale that is not below the requested size."""
    resize_to(encoded(Image.new(mode, size), "JPEG"), smaller_side, 100_000_000)
    assert decoded == [(-(-size[0] // scale), -(-size[1] // scale))]


@pytest.mark.parametrize(
    ("size", "smaller_side"),
    [((1024, 768), 256), ((1025, 771), 256), ((800, 600), 256), ((640, 480), 256), ((1400, 900), 90)],
)
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_reduced_decoding_costs_no_quality(size: tuple[int, int], smaller_side: int, kind: str) -> None:
    """The result looks like full decoding with the best filter. No part of the image moves by half a pixel."""
    body = draw_image(3, *size, kind)
    best = Image.open(io.BytesIO(body)).convert("RGB").resize(scaled_size(size, smaller_side), Resampling.LANCZOS)
    reached = psnr(view(body, smaller_side), best)
    # Most of the loss comes from encoding, because encoding the best result loses as much.
    possible = psnr(Image.open(io.BytesIO(encoded(best, "JPEG", quality=95))), best)
    assert reached > 40
    assert reached > possible - 3.5


def test_enlarging_is_smooth() -> None:
    """An enlarged edge is smooth, and not a step."""
    edge = Image.new("L", (8, 8), 0)
    edge.paste(255, (4, 0, 8, 8))
    row = view(encoded(edge), 80).crop((35, 40, 46, 41)).tobytes()
    assert max(abs(left - right) for left, right in pairwise(row)) < 70


@contextmanager
def ticking() -> Iterator[Callable[[], int]]:
    """Count in another thread.

    This second thread gets Python's lock (the GIL) only if the working thread releases it.
    """
    ended, count = threading.Event(), 0

    def tick() -> None:
        nonlocal count
        while not ended.is_set():
            count += 1
            # `time.sleep` releases the lock. Without the call, this function would keep the lock.
            time.sleep(0)

    before = sys.getswitchinterval()
    thread = threading.Thread(target=tick)
    sys.setswitchinterval(1000.0)
    thread.start()
    try:
        yield lambda: count
    finally:
        ended.set()
        sys.setswitchinterval(before)
        thread.join(PATIENCE)


def test_other_threads_run_during_resizing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding, resampling, conversion to sRGB and encoding each let the worker's other threads run."""
    noise = Image.effect_noise((2000, 2000), 90).convert("RGB")
    body = encoded(noise, "JPEG", quality=95, icc_profile=colour_profiles.rgb())
    moved: Counter[str] = Counter()
    with ticking() as ticks:

        def watch(kind: type, method: str, name: str) -> None:
            function = getattr(kind, method)

            def watched(*arguments: Any, **options: Any) -> Any:
                before, inside = ticks(), moved.total()
                result = function(*arguments, **options)
                moved[name] += ticks() - before - (moved.total() - inside)
                return result

            monkeypatch.setattr(kind, method, watched)

        watch(ImageFile.ImageFile, "load", "decode")
        watch(Image.Image, "resize", "resample")
        watch(ImageCms.ImageCmsTransform, "apply", "colours")
        watch(Image.Image, "save", "encode")
        resize_to(body, 1900)
    assert len(moved) == 4
    assert min(moved.values()) > 10, moved


def test_encoding_into_memory_blocks_threads() -> None:
    """Encoding into memory blocks other threads, which is why we encode into a file.

    If this test fails, Pillow no longer needs the file, and `_open_sink` can be removed.
    """
    noise = Image.effect_noise((1000, 1000), 90).convert("RGB")
    with ticking() as ticks:
        before = ticks()
        encoded(noise, "JPEG", quality=95)
        held = ticks() - before
        encode.encode(noise, ResizeOptions())
        free = ticks() - before - held
    assert held < 5 < free


def deadline(seconds: float) -> Deadline:
    """Return a deadline in this many seconds."""
    return Deadline(seconds, seconds)


def test_pixel_budget_is_bounded() -> None:
    """All threads together never hold more pixels than the budget. Each image gets its turn, even a large image."""
    room = PixelBudget(10)
    held: list[int] = []
    most = 0
    lock = threading.Lock()

    def hold(pixels: int) -> None:
        nonlocal most
        with room.reserve(pixels, deadline(PATIENCE)):
            with lock:
                held.append(pixels)
                most = max(most, sum(held))
                assert sum(held) <= 10 or held == [pixels]
            time.sleep(0.001)
            with lock:
                held.remove(pixels)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(hold, [1, 3, 10, 25, 2, 4] * 20))
    assert most == 25
    assert not held


def test_pixel_budget_serves_in_order() -> None:
    """Small images do not overtake an earlier large image. Otherwise, the large image might wait for ever."""
    room = PixelBudget(10)
    order: list[str] = []

    def hold(name: str, pixels: int) -> None:
        with room.reserve(pixels, deadline(PATIENCE)):
            order.append(name)

    with room.reserve(5, deadline(PATIENCE)):
        large = threading.Thread(target=hold, args=("large", 20))
        large.start()
        wait_for(room._turn.locked)
        small = threading.Thread(target=hold, args=("small", 1))
        small.start()
        assert order == []
    large.join(PATIENCE)
    small.join(PATIENCE)
    assert order == ["large", "small"]


@pytest.mark.parametrize("queued", [False, True], ids=["waits for room", "waits for its turn"])
def test_wait_for_pixel_budget_ends_at_the_deadline(queued: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that can't be decoded in time is reported as too slow, and not as broken."""
    room = PixelBudget(10)
    monkeypatch.setattr(resize, "PIXEL_BUDGET", room)
    with room.reserve(10, deadline(PATIENCE)):
        if queued:
            room._turn.acquire()
        with pytest.raises(FetchTimeoutError, match="memory was free to decode"):
            resize_image(image("PNG"), options_for(8), _LIMIT, deadline(0.05))
        if queued:
            room._turn.release()
    assert resize_image(image("PNG"), options_for(8), _LIMIT, deadline(PATIENCE)).info.height == 8


@pytest.mark.parametrize(("progressive", "held"), [(False, 512 * 384), (True, 1024 * 768)])
def test_progressive_jpeg_counts_full_size(progressive: bool, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG counts at its reduced scale.

    A progressive JPEG counts in full, because it is assembled at full size first.
    """
    asked: list[int] = []
    of = rooms.PIXEL_BUDGET.reserve

    def asking(pixels: int, ends: Deadline) -> AbstractContextManager[None]:
        asked.append(pixels)
        return of(pixels, ends)

    monkeypatch.setattr(rooms.PIXEL_BUDGET, "reserve", asking)
    resize_to(encoded(quarters(1024, 768), "JPEG", progressive=progressive), 256)
    assert asked == [held + 341 * 256]


def test_result_passes_the_image_check() -> None:
    """The header check accepts the result as an ordinary image."""
    result = resize_to(draw_image(3, 300, 200))
    assert identify.inspect(result.body, _LIMIT) == result.info
