"""An image is verified by decoding all of it, with limits for pixels, frames and time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.deadline import Deadline
from tasks.errors import FetchError, FetchTimeoutError, NotAnImageError, TooManyPixelsError, UndecodableError
from tasks.images import decode
from tasks.images.decode import decode_all_frames
from tasks.images.identify import EXTENSIONS, ImageInfo
from tasks.images.pixel_budget import PIXEL_BUDGET
from tests.encoding import encoded
from tests.unit.conftest import image

_LIMIT = 1_000_000
_FORMATS = sorted(set(EXTENSIONS) - {"MPO", "HEIF", "JPEG2000", "JXL", "SVG"})
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO")


def decode_all(body: bytes, seconds: float = 10.0, limit: int = _LIMIT) -> ImageInfo:
    """Return the result of decoding an image."""
    return decode_all_frames(body, limit, Deadline(seconds, seconds))


def frames(kind: str, count: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return an image with several different frames."""
    made = [Image.effect_noise(size, 10 + number).convert("RGB") for number in range(count)]
    return encoded(made[0], kind, save_all=True, append_images=made[1:])


@pytest.mark.parametrize("kind", _FORMATS)
def test_accepts_a_whole_image(kind: str) -> None:
    """The description from decoding an image equals the description from its header."""
    assert decode_all(image(kind, (16, 12))) == ImageInfo(kind.lower(), EXTENSIONS[kind], 16, 12)


@pytest.mark.parametrize("kind", _ANIMATED)
def test_accepts_whole_frames(kind: str) -> None:
    """For an image of several frames, the description from its header is equal too."""
    info = decode_all(frames(kind, 3))
    assert (info.width, info.height, info.extension) == (64, 48, EXTENSIONS[kind])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF"])
def test_refuses_a_truncated_image(kind: str) -> None:
    """Half an image is refused, although its header is valid."""
    body = encoded(Image.effect_noise((64, 48), 50).convert("RGB"), kind)
    with pytest.raises(UndecodableError, match=r"can't be decoded|header is broken|truncated"):
        decode_all(body[: len(body) // 2])


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG"])
def test_refuses_a_truncated_last_frame(kind: str) -> None:
    """The last frame must be complete too."""
    body = frames(kind, 3)
    with pytest.raises(UndecodableError):
        decode_all(body[: len(body) * 7 // 9])


def test_bounds_the_number_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image with as many frames as the limit is accepted. An image with one frame more is refused."""
    monkeypatch.setattr(decode, "_MAX_FRAMES", 3)
    assert decode_all(frames("GIF", 3)).width == 64
    with pytest.raises(TooManyPixelsError, match="more than 3 frames"):
        decode_all(frames("GIF", 4))


def test_checks_each_frame() -> None:
    """A later frame above the size limit is refused before it is decoded."""
    pages = [Image.new("L", (10, 10)), Image.new("L", (1001, 1000))]
    with pytest.raises(TooManyPixelsError, match="1,001x1,000"):
        decode_all(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))


def test_animation_keeps_its_pixel_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """An animation's image stays in memory between its frames.

    All that time, the image counts towards the memory limit.
    """
    went_to, held = decode._seek, []

    def recording(image: Image.Image, number: int) -> bool:
        held.append(PIXEL_BUDGET._reserved)
        return went_to(image, number)

    monkeypatch.setattr(decode, "_seek", recording)
    decode_all(frames("GIF", 3))
    assert held == [64 * 48] * 3
    assert not PIXEL_BUDGET._reserved


def test_checks_the_deadline() -> None:
    """An animation is not decoded past the deadline."""
    with pytest.raises(FetchTimeoutError):
        decode_all(frames("GIF", 3), seconds=0.0)


def test_bounds_the_number_of_scans() -> None:
    """A progressive JPEG with too many scans is refused, as when images are resized."""
    body = encoded(Image.new("RGB", (64, 48)), "JPEG", progressive=True)
    assert decode_all(body).format == "jpeg"
    with pytest.raises(UndecodableError, match="scans"):
        decode_all(body[:-2] + body[body.rindex(b"\xff\xda") : -2] * 201 + body[-2:])


@pytest.mark.parametrize("kind", _FORMATS)
@settings(max_examples=15)
@given(data=st.data())
def test_broken_bytes_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    """Whatever bytes of an image change, it is decoded or refused with one of our errors."""
    body = bytearray(image(kind, (16, 12)))
    for _ in range(3):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_all(bytes(body))
    except FetchError as error:
        assert isinstance(error, NotAnImageError | UndecodableError | TooManyPixelsError)  # noqa: PT017  # either end is right
