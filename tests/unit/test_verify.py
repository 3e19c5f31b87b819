"""An image is verified by decoding all of it, within bounds of pixels, frames and time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks import verify
from tasks.connection import Deadline
from tasks.errors import FetchError, NotAnImage, TimedOut, TooManyPixels, Undecodable
from tasks.images import EXTENSIONS, ImageInfo
from tasks.room import room
from tasks.verify import decoded
from tests.encoding import encoded
from tests.unit.conftest import image

_LIMIT = 1_000_000
_FORMATS = sorted(set(EXTENSIONS) - {"MPO"})
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO")


def verified(body: bytes, seconds: float = 10.0, limit: int = _LIMIT) -> ImageInfo:
    """What decoding says of an image."""
    return decoded(body, limit, Deadline(seconds, seconds))


def frames(kind: str, count: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """An image of several frames, each another."""
    made = [Image.effect_noise(size, 10 + number).convert("RGB") for number in range(count)]
    return encoded(made[0], kind, save_all=True, append_images=made[1:])


@pytest.mark.parametrize("kind", _FORMATS)
def test_sound_image(kind: str) -> None:
    """An image that can be decoded is described as its header says."""
    assert verified(image(kind, (16, 12))) == ImageInfo(kind.lower(), EXTENSIONS[kind], 16, 12)


@pytest.mark.parametrize("kind", _ANIMATED)
def test_sound_frames(kind: str) -> None:
    """So is one of several frames."""
    info = verified(frames(kind, 3))
    assert (info.width, info.height, info.extension) == (64, 48, EXTENSIONS[kind])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF"])
def test_image_that_breaks_off(kind: str) -> None:
    """Half an image has a sound header, and is not taken for an image."""
    body = encoded(Image.effect_noise((64, 48), 50).convert("RGB"), kind)
    with pytest.raises(Undecodable, match=r"can't be decoded|header is broken|truncated"):
        verified(body[: len(body) // 2])


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG"])
def test_last_frame_that_breaks_off(kind: str) -> None:
    """Also the last frame has to be whole."""
    body = frames(kind, 3)
    with pytest.raises(Undecodable):
        verified(body[: len(body) * 7 // 9])


def test_frames_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of more frames than the bound is refused, and one of as many is not."""
    monkeypatch.setattr(verify, "_MAX_FRAMES", 3)
    assert verified(frames("GIF", 3)).width == 64
    with pytest.raises(TooManyPixels, match="more than 3 frames"):
        verified(frames("GIF", 4))


def test_each_frame_is_judged() -> None:
    """A later frame that is larger than allowed is refused before it is decoded."""
    pages = [Image.new("L", (10, 10)), Image.new("L", (1001, 1000))]
    with pytest.raises(TooManyPixels, match="1001x1000"):
        verified(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))


def test_animation_keeps_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """An animation's picture stays in memory between its frames, and is counted for as long."""
    went_to, held = verify._went_to, []

    def going(image: Image.Image, number: int) -> bool:
        held.append(room._held)
        return went_to(image, number)

    monkeypatch.setattr(verify, "_went_to", going)
    verified(frames("GIF", 3))
    assert held == [64 * 48] * 3
    assert not room._held


def test_deadline_is_looked_at() -> None:
    """An animation is not decoded past the deadline."""
    with pytest.raises(TimedOut):
        verified(frames("GIF", 3), seconds=0.0)


def test_scans_are_counted() -> None:
    """A progressive JPEG that is all scans is refused, as where images are resized."""
    body = encoded(Image.new("RGB", (64, 48)), "JPEG", progressive=True)
    assert verified(body).format == "jpeg"
    with pytest.raises(Undecodable, match="scans"):
        verified(body[:-2] + body[body.rindex(b"\xff\xda") : -2] * 201 + body[-2:])


@pytest.mark.parametrize("kind", _FORMATS)
@settings(max_examples=15)
@given(data=st.data())
def test_broken_bytes_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    """However an image's bytes are changed, they are decoded or refused by an error of the tree."""
    body = bytearray(image(kind, (16, 12)))
    for _ in range(3):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        verified(bytes(body))
    except FetchError as error:
        assert isinstance(error, NotAnImage | Undecodable | TooManyPixels)  # noqa: PT017  # either end is right
