"""A JPEG without its end marker is accepted only if all its pixels are present."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from tasks.deadline import Deadline
from tasks.errors import TooManyPixelsError, UndecodableError
from tasks.images.completeness import complete_jpeg
from tests import bombs
from tests.encoding import encoded
from tests.waiting import PATIENCE

_END = b"\xff\xd9"
_OPTIONS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 3},
    "with restarts in rows": {"restart_marker_rows": 1},
    "subsampled": {"subsampling": 2},
}


def with_end_marker(body: bytes, limit: int = 1_000_000) -> bytes:
    """Return the image with an end marker."""
    return complete_jpeg(body, limit, Deadline(PATIENCE, PATIENCE))


@pytest.fixture(params=_OPTIONS)
def whole(request: pytest.FixtureRequest) -> bytes:
    """Return a small JPEG in which no two blocks are alike."""
    return encoded(Image.effect_noise((40, 25), 60).convert("RGB"), "JPEG", **_OPTIONS[request.param])


def test_end_marker_is_added(whole: bytes) -> None:
    """A JPEG that has all its pixels gets an end marker, whether its marker is missing or cut in half."""
    assert with_end_marker(whole[:-2]) == whole
    assert with_end_marker(whole[:-1]) == whole


def test_missing_pixels_are_an_error(whole: bytes) -> None:
    """Wherever an image is cut, even at a restart marker or between scans, missing pixels are an error."""
    for cut in range(whole.index(b"\xff\xda") + 20, len(whole) - 3):
        with pytest.raises(UndecodableError):
            with_end_marker(whole[:cut])


def test_missing_components_are_an_error() -> None:
    """An image that has one component per scan is complete only if all three components are present."""
    body = bombs.jpeg((64, 64), 3)
    assert with_end_marker(body[:-2]) == body
    with pytest.raises(UndecodableError):
        with_end_marker(bombs.jpeg((64, 64), 2)[:-2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_other_images_are_returned_unchanged(kind: str) -> None:
    """An image that has an end marker, or needs none, is returned unchanged."""
    body = encoded(Image.new("RGB", (8, 8)), kind)
    assert with_end_marker(body) is body


def test_too_many_pixels_are_refused() -> None:
    """Pixels are counted before any pixel is decoded."""
    with pytest.raises(TooManyPixelsError):
        with_end_marker(encoded(Image.new("RGB", (100, 100)), "JPEG")[:-2], 9_999)
