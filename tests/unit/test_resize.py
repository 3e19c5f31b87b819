"""A resized image has the size that was asked for, its colours and its upright side, and costs no more than it must."""

from __future__ import annotations

import io
import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageFile, ImageStat, JpegImagePlugin
from PIL.Image import Resampling, Transpose

from producer.demo import picture
from tasks import images, resize
from tasks import room as rooms
from tasks.connection import Deadline
from tasks.errors import NotAnImage, TimedOut, TooManyPixels, Undecodable
from tasks.images import ImageInfo, Picture
from tasks.model import ResizeMode, ResizeOptions
from tasks.resize import resized, scaled
from tasks.room import Room
from tests.conditions import PATIENCE, wait_for
from tests.encoding import encoded
from tests.unit import colour_profiles
from tests.unit.conftest import image

_LIMIT = 10_000_000
_KINDS = ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"]
#: What Pillow's `save` needs to be told, so that an image's colours and size stay.
_EXACT: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 100},
    "ICO": {"sizes": [(48, 32), (100, 64)]},
}
_RED, _GREEN, _BLUE, _YELLOW = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 0)
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def to(size: int) -> ResizeOptions:
    """The options for a smaller side of so many pixels."""
    return ResizeOptions(ResizeMode.KEEP_RATIO, size)


def made(body: bytes, size: int = 64, max_pixels: int = _LIMIT) -> Picture:
    """What comes of an image."""
    return resized(body, to(size), max_pixels, Deadline(PATIENCE, PATIENCE))


def shown(body: bytes, size: int = 64) -> Image.Image:
    """What comes of an image, as a reader that knows nothing of profiles and EXIF sees it."""
    return Image.open(io.BytesIO(made(body, size).body))


def quarters(width: int = 96, height: int = 64) -> Image.Image:
    """An image without symmetry: red and green above, blue and yellow below."""
    drawn = Image.new("RGB", (width, height), _RED)
    drawn.paste(_GREEN, (width // 2, 0, width, height // 2))
    drawn.paste(_BLUE, (0, height // 2, width // 2, height))
    drawn.paste(_YELLOW, (width // 2, height // 2, width, height))
    return drawn


def near(colour: Any, expected: Any, by: int = 4) -> bool:
    """Whether two colours are the same to the eye."""
    pairs = zip(colour, expected, strict=True) if isinstance(expected, tuple) else [(colour, expected)]
    return all(abs(one - other) <= by for one, other in pairs)


def centre(picture: Image.Image) -> Any:
    """The colour in an image's middle."""
    return picture.getpixel((picture.width // 2, picture.height // 2))


def psnr(one: Image.Image, other: Image.Image) -> float:
    """How alike two images are, in decibels: above 40 nobody sees a difference."""
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
    """The smaller side gets the size, whether the image is larger or smaller than that."""
    assert scaled(size, smaller_side) == expected


_sides = st.integers(1, 100_000)


@given(_sides, _sides, st.integers(1, 10_000))
@settings(max_examples=200)
def test_size_keeps_the_ratio(width: int, height: int, smaller_side: int) -> None:
    """Neither side is ever 0, the smaller one is exact, and the other is right to half a pixel, as in img2dataset."""
    size = scaled((width, height), smaller_side)
    assert min(size) == smaller_side
    for side, original in zip(size, (width, height), strict=True):
        assert abs(side - original * smaller_side / min(width, height)) <= 0.5 + 1e-6


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 80), st.sampled_from(["JPEG", "PNG", "GIF"]))
@settings(max_examples=60)
@example(1, 200, 3, "JPEG")
@example(200, 1, 1, "JPEG")
@example(8, 9, 1, "JPEG")
def test_every_size_is_as_announced(width: int, height: int, smaller_side: int, kind: str) -> None:
    """Whatever the sides, the file has the size that is told, and the original's size is told as well."""
    came = made(encoded(Image.new("RGB", (width, height), _RED), kind), smaller_side)
    size = scaled((width, height), smaller_side)
    assert came.info == ImageInfo("jpeg", "jpg", *size)
    assert came.original == (width, height)
    with Image.open(io.BytesIO(came.body)) as opened:
        assert opened.size == size
        assert near(centre(opened), _RED)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_format_becomes_a_jpeg(kind: str) -> None:
    """Each accepted format is decoded, and saved as a JPEG of three colours."""
    opened = shown(encoded(quarters(48, 32), kind, **_EXACT.get(kind, {})))
    assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (96, 64))
    assert near(opened.getpixel((20, 12)), _RED, 12)
    assert near(opened.getpixel((76, 12)), _GREEN, 12)
    assert near(opened.getpixel((20, 52)), _BLUE, 12)
    assert near(opened.getpixel((76, 52)), _YELLOW, 12)


def test_same_download_gives_the_same_bytes() -> None:
    """A task that is delivered twice makes the same file of the same download."""
    body = picture(3, 300, 200)
    assert made(body).body == made(body).body


_MODES: dict[str, tuple[bytes, str, Any]] = {
    "RGB": (encoded(Image.new("RGB", (90, 70), _GREEN)), "RGB", _GREEN),
    "palette": (encoded(Image.new("RGB", (90, 70), _GREEN).quantize(4)), "RGB", _GREEN),
    "grey": (encoded(Image.new("L", (90, 70), 77)), "L", 77),
    "grey JPEG": (encoded(Image.new("L", (90, 70), 77), "JPEG"), "L", 77),
    "grey with alpha": (encoded(Image.new("LA", (90, 70), (77, 255))), "L", 77),
    "black and white": (encoded(Image.new("1", (90, 70), 1)), "L", 255),
    "16 bits of grey": (encoded(Image.new("I;16", (90, 70), 77 * 257)), "L", 77),
    "16 bits in a TIFF": (encoded(Image.new("I;16", (90, 70), 77 * 257), "TIFF"), "L", 77),
    "16 bits, the other way": (encoded(Image.new("I;16B", (90, 70), 77 * 257), "TIFF"), "L", 77),
    "CMYK in a TIFF": (encoded(Image.new("CMYK", (90, 70), (0, 255, 255, 0)), "TIFF"), "RGB", _RED),
    "YCbCr in a TIFF": (encoded(Image.new("RGB", (90, 70), _RED).convert("YCbCr"), "TIFF"), "RGB", _RED),
}


@pytest.mark.parametrize(("body", "mode", "colour"), _MODES.values(), ids=_MODES)
@pytest.mark.parametrize("size", [20, 140], ids=["smaller", "larger"])
def test_colours_stay(body: bytes, mode: str, colour: Any, size: int) -> None:
    """Whatever the pixels are, the colour is that of the original, and grey stays one channel, as in img2dataset."""
    opened = shown(body, size)
    assert opened.mode == mode
    assert near(centre(opened), colour)


def test_sixteen_bits_are_scaled() -> None:
    """Grey of 16 bits is scaled to 8: no level is cut off, and none wraps around."""
    ramp = Image.new("I;16", (256, 8))
    ramp.putdata([level * 257 for level in range(256)] * 8)
    row = shown(encoded(ramp), 8).crop((0, 4, 256, 5)).tobytes()
    assert all(near(level, x, 6) for x, level in enumerate(row))


@pytest.mark.parametrize(("mode", "value"), [("I", 7), ("F", 0.5), ("LAB", (50, 0, 0))])
def test_pixels_without_a_white_are_refused(mode: str, value: Any) -> None:
    """Integers of 32 bits, floating-point numbers and Lab are told as what they are, and never guessed at."""
    with pytest.raises(Undecodable, match=f"of mode {mode}"):
        made(encoded(Image.new(mode, (90, 70), value), "TIFF"))


def ycck(colour: tuple[int, int, int]) -> bytes:
    """A JPEG in YCCK, as Adobe's programs write it: cyan, magenta and yellow as if they were RGB, black inverted."""
    red, green, blue = (255 - part for part in colour)
    inks = Image.new("RGB", (1, 1), (red, green, blue)).convert("YCbCr").getpixel((0, 0))
    assert isinstance(inks, tuple)
    # Pillow inverts what it writes, and says that it did not transform it.
    written = encoded(Image.new("CMYK", (90, 70), (*(255 - ink for ink in inks), 0)), "JPEG", quality=95)
    at = written.index(b"Adobe\0") + 11
    assert written[at] == 0
    return written[:at] + b"\2" + written[at + 1 :]


@pytest.mark.parametrize("colour", [_RED, _GREEN, _BLUE, _WHITE, _BLACK])
def test_adobes_inks_are_inverted(colour: tuple[int, int, int]) -> None:
    """A JPEG for print is not shown as its negative, in CMYK as in YCCK."""
    inks = tuple(255 - part for part in colour)
    assert near(centre(shown(encoded(Image.new("CMYK", (90, 70), (*inks, 0)), "JPEG"))), colour)
    assert near(centre(shown(ycck(colour))), colour)


def in_adobe_rgb(colour: tuple[int, ...]) -> tuple[int, ...]:
    """An sRGB colour as Adobe RGB writes it, by the definitions of both."""
    red, green, blue = (
        (part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4) for part in colour
    )
    linear = (0.7152 * red + 0.2848 * green, green, 0.0412 * green + 0.9588 * blue)
    return tuple(round(255 * part ** (1 / colour_profiles.ADOBE_GAMMA)) for part in linear)


@pytest.mark.parametrize("colour", [(200, 60, 40), (90, 160, 90), (40, 60, 200), (128, 128, 128), _WHITE, _BLACK])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_wide_gamut_is_not_washed_out(kind: str, colour: tuple[int, int, int]) -> None:
    """What says that it is in Adobe RGB gets the sRGB numbers of its colours, as readers ignore profiles."""
    wide = Image.new("RGB", (90, 70), in_adobe_rgb(colour))
    body = encoded(wide, kind, icc_profile=colour_profiles.rgb(), **_EXACT.get(kind, {}))
    assert near(centre(shown(body)), colour, 5)
    assert "icc_profile" not in shown(body).info


def test_profile_of_grey() -> None:
    """Grey of another exponent becomes sRGB's grey, and stays one channel."""
    opened = shown(encoded(Image.new("L", (90, 70), 128), icc_profile=colour_profiles.grey(1.0)))
    assert (opened.mode, near(centre(opened), 188)) == ("L", True)


def test_profile_of_a_printer() -> None:
    """The profile says what the inks look like: of a printer whose cyan is clear, cyan is white."""
    body = encoded(Image.new("CMYK", (90, 70), (255, 0, 0, 0)), "JPEG", icc_profile=colour_profiles.cmyk())
    assert near(centre(shown(body)), _WHITE)


_NO_PROFILES = {
    "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "broken": colour_profiles.rgb()[:-40],
    "no profile at all": b"profile",
    "of grey": colour_profiles.grey(1.0),
    "of a printer": colour_profiles.cmyk(),
    "too large": colour_profiles.rgb() + bytes(4 * 1024 * 1024),
}


@pytest.mark.parametrize("profile", _NO_PROFILES.values(), ids=_NO_PROFILES)
def test_profile_that_changes_nothing(profile: bytes) -> None:
    """sRGB's own profile costs nothing, and what can't be meant counts as none, as in browsers."""
    drawn = Image.open(io.BytesIO(picture(3, 200, 100, "png")))
    assert made(encoded(drawn, "JPEG", icc_profile=profile)).body == made(encoded(drawn, "JPEG")).body


def test_threads_share_a_profile() -> None:
    """Many threads with one profile make what one thread makes."""
    drawn = Image.open(io.BytesIO(picture(3, 200, 100, "png")))
    body = encoded(drawn, "JPEG", icc_profile=colour_profiles.rgb())
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: made(body).body, range(64)))) == 1


#: What makes an upright image lie as EXIF's number says: the inverse of what a reader has to do.
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
    """All eight orientations are applied, once, in each format that has them; the sizes are the upright image's."""
    upright = quarters(192, 128)
    stored = upright.transpose(_LAID[orientation]) if orientation in _LAID else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    came = made(encoded(stored, kind, exif=exif, **_EXACT.get(kind, {})))
    assert (came.info.width, came.info.height) == (96, 64)
    assert came.original == (192, 128)
    opened = Image.open(io.BytesIO(came.body))
    assert len(opened.getexif()) == 0
    # Half of the colours' pixels are not kept, which shows at edges as hard as these.
    assert psnr(opened, upright.resize((96, 64), Resampling.BOX)) > 24


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_that_is_none(orientation: int) -> None:
    """A number beyond EXIF's eight turns nothing."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert made(encoded(quarters(), "JPEG", exif=exif)).body == made(encoded(quarters(), "JPEG")).body


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(50)]
)
@pytest.mark.filterwarnings("ignore:(Corrupt EXIF data|Truncated File Read):UserWarning")
def test_broken_exif_says_nothing(exif: bytes) -> None:
    """An image whose EXIF is broken is taken as it lies."""
    assert made(encoded(quarters(), "JPEG", exif=exif)).body == made(encoded(quarters(), "JPEG")).body


def test_nothing_but_pixels_is_kept() -> None:
    """Where a picture was taken, who wrote on it, and its preview stay behind."""
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ada Secret"
    body = encoded(quarters(), "JPEG", exif=exif, comment=b"a Secret comment", xmp=b"<x>Secret</x>", dpi=(300, 300))
    assert body.count(b"Secret") == 3
    came = made(body).body
    assert b"Secret" not in came
    assert Image.open(io.BytesIO(came)).info.keys() == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def _transparent(kind: str) -> bytes:
    """A red image whose right half can be seen through, and is black where it can't be seen."""
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
@pytest.mark.parametrize("size", [32, 64, 100], ids=["smaller", "as it is", "larger"])
def test_transparency_lies_on_white(kind: str, size: int) -> None:
    """What can be seen through is white, and the black that nobody saw does not darken the edge."""
    opened = shown(_transparent(kind), size)
    assert opened.mode == "RGB"
    assert near(opened.getpixel((opened.width // 4, opened.height // 2)), _RED)
    assert near(opened.getpixel((opened.width * 3 // 4, opened.height // 2)), _WHITE)
    assert min(opened.getchannel("R").tobytes()) > 180


def test_half_transparency_is_half_white() -> None:
    """A veil of half black over white is grey, for colours and for grey."""
    assert near(centre(shown(encoded(Image.new("RGBA", (90, 70), (0, 0, 0, 128))))), (127, 127, 127))
    assert near(centre(shown(encoded(Image.new("LA", (90, 70), (0, 128))))), 127)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_first_frame_is_taken(kind: str) -> None:
    """Of an animation, of pages, and of a camera's several pictures in one file, it is the first."""
    frames = [Image.new("RGB", (90, 70), colour) for colour in (_RED, _GREEN, _BLUE)]
    body = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert near(centre(shown(body)), _RED, 8)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_image_is_undecodable(kind: str, share: float) -> None:
    """An image that breaks off is broken, however much of it is there."""
    body = encoded(Image.open(io.BytesIO(picture(3, 100, 80, "png"))), kind)
    with pytest.raises(Undecodable):
        made(body[: int(len(body) * share)])


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=30)
@given(data=st.data())
def test_broken_bytes_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    """However an image's bytes are changed, it is resized or refused by an error of the tree."""
    body = bytearray(image(kind, (40, 30)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        came = made(bytes(body), max_pixels=1_000_000)
    except (NotAnImage, Undecodable, TooManyPixels):
        return
    assert min(came.info.width, came.info.height) == 64


def test_out_of_memory_is_not_the_images_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that this machine has no memory for is not told as broken."""

    def full(*_: Any) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", full)
    with pytest.raises(MemoryError):
        made(image("JPEG"))


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (1_200, 1)])
def test_extreme_ratio_is_too_many_pixels(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that would be a hundred million pixels, or longer than a JPEG may be, is refused before it is decoded."""
    body = image("PNG", size)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(TooManyPixels, match=r"more than 10000000|JPEG ends at 65500"):
        made(body)


def test_pixels_are_counted_on_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original is judged before anything is decoded, as without resizing."""
    body = image("PNG", (200, 100))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(TooManyPixels, match="200x100"):
        made(body, 8, max_pixels=19_999)


def test_what_is_no_image_is_refused() -> None:
    """A page is no image, with resizing as without."""
    with pytest.raises(NotAnImage):
        made(b"<!doctype html><title>Sign in</title>")


def test_scans_are_bounded() -> None:
    """A progressive JPEG that goes over its pixels again and again is refused; one of the usual number is not."""
    body = encoded(quarters(), "JPEG", progressive=True)
    assert made(body).info.width == 96
    last = body.rindex(b"\xff\xda")
    bomb = body[:last] + body[last:-2] * 300 + body[-2:]
    with pytest.raises(Undecodable, match="more than 200 scans"):
        made(bomb)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes at which JPEGs are decoded, one for each time."""
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
    """A JPEG is decoded once, at the smallest of its scales that is not below the size that is wanted."""
    made(encoded(Image.new(mode, size), "JPEG"), smaller_side, 100_000_000)
    assert decoded == [(-(-size[0] // scale), -(-size[1] // scale))]


@pytest.mark.parametrize(
    ("size", "smaller_side"),
    [((1024, 768), 256), ((1025, 771), 256), ((800, 600), 256), ((640, 480), 256), ((1400, 900), 90)],
)
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_reduced_decoding_costs_no_quality(size: tuple[int, int], smaller_side: int, kind: str) -> None:
    """A reader sees what full decoding and the best filter would have given, and nothing is moved by half a pixel."""
    body = picture(3, *size, kind)
    best = Image.open(io.BytesIO(body)).convert("RGB").resize(scaled(size, smaller_side), Resampling.LANCZOS)
    reached = psnr(shown(body, smaller_side), best)
    # Encoding costs most of what is lost, and costs the best as much.
    possible = psnr(Image.open(io.BytesIO(encoded(best, "JPEG", quality=95))), best)
    assert reached > 40
    assert reached > possible - 3.5


def test_enlarging_is_smooth() -> None:
    """An enlarged edge is a slope, and not a step."""
    edge = Image.new("L", (8, 8), 0)
    edge.paste(255, (4, 0, 8, 8))
    row = shown(encoded(edge), 80).crop((35, 40, 46, 41)).tobytes()
    assert max(abs(left - right) for left, right in pairwise(row)) < 70


@contextmanager
def ticking() -> Iterator[Callable[[], int]]:
    """Count in another thread, which gets Python's lock only from who gives it up: nobody is made to."""
    ended, count = threading.Event(), 0

    def tick() -> None:
        nonlocal count
        while not ended.is_set():
            count += 1
            # It gives the lock up itself, or it would keep it.
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


def test_other_threads_run_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """While an image is decoded, resampled, brought to sRGB and encoded, the worker's other threads go on in each."""
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
        made(body, 1900)
    assert len(moved) == 4
    assert min(moved.values()) > 10, moved


def test_encoding_into_memory_would_stop_them() -> None:
    """Why there is a file to encode into. Should this fail, Pillow has learnt to do without, and `_sink` can go."""
    noise = Image.effect_noise((1000, 1000), 90).convert("RGB")
    with ticking() as ticks:
        before = ticks()
        encoded(noise, "JPEG", quality=95)
        held = ticks() - before
        resize._encoded(noise, 95)
        free = ticks() - before - held
    assert held < 5
    assert free > 10


def test_temporary_file_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no files in memory, as on macOS, a temporary one takes the same bytes."""
    body = picture(3, 300, 200)
    same = made(body).body
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert made(body).body == same


def test_half_written_image_is_no_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the system did not take whole is a fault of this machine, and never saved."""

    class Full(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            return (super().read() or b"")[:-1]

    monkeypatch.setattr(resize, "_sink", lambda: Full(tmp_path / "full", "w+"))
    with pytest.raises(OSError, match="not written whole"):
        made(image("PNG"))


def deadline(seconds: float) -> Deadline:
    """A deadline that is over in so many seconds."""
    return Deadline(seconds, seconds)


def test_room_is_bounded() -> None:
    """At no time do threads hold more than there is room for, and each gets its turn, the large ones too."""
    room = Room(10)
    held: list[int] = []
    most = 0
    lock = threading.Lock()

    def hold(pixels: int) -> None:
        nonlocal most
        with room.of(pixels, deadline(PATIENCE)):
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


def test_who_waits_for_room_is_next() -> None:
    """A large image is not passed by small ones that come later, or it would wait for ever."""
    room = Room(10)
    order: list[str] = []

    def hold(name: str, pixels: int) -> None:
        with room.of(pixels, deadline(PATIENCE)):
            order.append(name)

    with room.of(5, deadline(PATIENCE)):
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
def test_wait_for_room_ends_with_the_deadline(queued: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that can't be decoded in time is told as too slow, and not as broken."""
    room = Room(10)
    monkeypatch.setattr(resize, "room", room)
    with room.of(10, deadline(PATIENCE)):
        if queued:
            room._turn.acquire()
        with pytest.raises(TimedOut, match="room to decode"):
            resized(image("PNG"), to(8), _LIMIT, deadline(0.05))
        if queued:
            room._turn.release()
    assert resized(image("PNG"), to(8), _LIMIT, deadline(PATIENCE)).info.height == 8


@pytest.mark.parametrize(("progressive", "held"), [(False, 512 * 384), (True, 1024 * 768)])
def test_progressive_jpeg_counts_in_full(progressive: bool, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG is held at its reduced scale; a progressive one is put together at its full size first."""
    asked: list[int] = []
    of = rooms.room.of

    def asking(pixels: int, ends: Deadline) -> AbstractContextManager[None]:
        asked.append(pixels)
        return of(pixels, ends)

    monkeypatch.setattr(rooms.room, "of", asking)
    made(encoded(quarters(1024, 768), "JPEG", progressive=progressive), 256)
    assert asked == [held + 341 * 256]


def test_images_module_knows_the_result() -> None:
    """What comes out is an image like any other to who looks at it later."""
    came = made(picture(3, 300, 200))
    assert images.inspect(came.body, _LIMIT) == came.info
