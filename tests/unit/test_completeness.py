"""A JPEG without its end marker is taken if its pixels are all there, and only then."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from tasks.completeness import completed
from tasks.connection import Deadline
from tasks.errors import TooManyPixels, Undecodable
from tests import bombs
from tests.conditions import PATIENCE
from tests.encoding import encoded

_END = b"\xff\xd9"
_OPTIONS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 3},
    "with restarts in rows": {"restart_marker_rows": 1},
    "subsampled": {"subsampling": 2},
}


def ended(body: bytes, limit: int = 1_000_000) -> bytes:
    """The image with an end marker."""
    return completed(body, limit, Deadline(PATIENCE, PATIENCE))


@pytest.fixture(params=_OPTIONS)
def whole(request: pytest.FixtureRequest) -> bytes:
    """A small JPEG, each of whose blocks is another."""
    return encoded(Image.effect_noise((40, 25), 60).convert("RGB"), "JPEG", **_OPTIONS[request.param])


def test_end_marker_is_added(whole: bytes) -> None:
    """With or without half of a marker, what has all pixels gets its end."""
    assert ended(whole[:-2]) == whole
    assert ended(whole[:-1]) == whole


def test_pixels_that_are_missing_are_noticed(whole: bytes) -> None:
    """Wherever an image breaks off, at a restart or between scans too, its missing pixels are no grey."""
    for cut in range(whole.index(b"\xff\xda") + 20, len(whole) - 3):
        with pytest.raises(Undecodable):
            ended(whole[:cut])


def test_components_that_are_missing_are_noticed() -> None:
    """An image whose scans hold one component each is whole with all three of them."""
    body = bombs.jpeg((64, 64), 3)
    assert ended(body[:-2]) == body
    with pytest.raises(Undecodable):
        ended(bombs.jpeg((64, 64), 2)[:-2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_other_images_stay(kind: str) -> None:
    """What has an end marker, or needs none, is handed back as it is."""
    body = encoded(Image.new("RGB", (8, 8)), kind)
    assert ended(body) is body


def test_pixels_are_bounded() -> None:
    """Pixels are counted before any is decoded."""
    with pytest.raises(TooManyPixels):
        ended(encoded(Image.new("RGB", (100, 100)), "JPEG")[:-2], 9_999)
