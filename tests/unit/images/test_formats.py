"""A run accepts the requested formats. The safety rules hold for each format."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from producer.demo import draw_image
from tasks.deadline import Deadline
from tasks.errors import InternalError, NotAnImageError, TooManyPixelsError, UndecodableError
from tasks.image_options import (
    DEFAULT_FORMATS,
    FORMATS_ON_REQUEST,
    EncodeFormat,
    ImageFormat,
    ResizeMode,
    ResizeOptions,
)
from tasks.images import identify, pixel_budget
from tasks.images.decode import decode_all_frames
from tasks.images.memory_estimate import estimate_pixels
from tasks.images.prepare import is_whole, prepare_image, saved_image
from tasks.images.resize import resize_image
from tasks.model import FetchOptions
from tests.conftest import required_module
from tests.encoding import encoded
from tests.waiting import PATIENCE

required_module("pillow_heif")
required_module("pillow_jxl")
import pillow_heif  # noqa: E402  # after the check
import pillow_jxl  # noqa: E402, F401  # registers the encoder

pillow_heif.register_heif_opener()

_LIMIT = 10_000_000
_PICTURE = Image.linear_gradient("L").resize((90, 70)).convert("RGB")


def soon() -> Deadline:
    """Return a deadline that no test reaches."""
    return Deadline(PATIENCE, PATIENCE)


_BODIES = {
    ImageFormat.HEIC: encoded(_PICTURE, "HEIF", quality=90),
    ImageFormat.JPEG2000: encoded(_PICTURE, "JPEG2000"),
    ImageFormat.JXL: encoded(_PICTURE, "JXL", quality=90),
}
_EXTENSIONS = {ImageFormat.HEIC: "heic", ImageFormat.JPEG2000: "jp2", ImageFormat.JXL: "jxl"}
_ASKED = [(kind, (*DEFAULT_FORMATS, kind)) for kind in _BODIES]


def test_every_format_on_request_is_tested() -> None:
    """The tests below cover each format that is accepted only on request. An SVG has tests of its own."""
    assert {*_BODIES, ImageFormat.SVG} == set(FORMATS_ON_REQUEST)


@pytest.mark.parametrize(("kind", "formats"), _ASKED)
def test_format_on_request(kind: ImageFormat, formats: tuple[ImageFormat, ...]) -> None:
    """If a run requests an optional format, images of that format are identified, decoded and resized.

    Otherwise, the error names the format.
    """
    body = _BODIES[kind]
    info = identify.inspect(body, _LIMIT, formats)
    assert (info.format, info.extension, info.width, info.height) == (kind.value, _EXTENSIONS[kind], 90, 70)
    assert decode_all_frames(body, _LIMIT, soon(), formats) == info
    options = ResizeOptions(ResizeMode.CENTER_CROP, 32, encode_format=EncodeFormat.WEBP)
    assert resize_image(body, options, _LIMIT, soon(), formats).info.width == 32
    for refuse in (identify.inspect, identify.open_image):
        with pytest.raises(NotAnImageError, match="a format that imagefleet does not save"):
            refuse(body, _LIMIT)


@pytest.mark.parametrize(("kind", "formats"), _ASKED)
def test_format_on_request_is_bounded(kind: ImageFormat, formats: tuple[ImageFormat, ...]) -> None:
    """The header's size is checked before decoding. No other image is decoded at the same time."""
    body = _BODIES[kind]
    with pytest.raises(TooManyPixelsError, match="90x70"):
        identify.open_image(body, 6299, formats)
    with identify.open_image(body, _LIMIT, formats) as image:
        assert estimate_pixels(image, body, _LIMIT) > pixel_budget._MAX_PIXELS


# Broken JPEG XL images are tested with their parser, because each decoding starts a process.
@pytest.mark.parametrize(("kind", "formats"), [pair for pair in _ASKED if pair[0] is not ImageFormat.JXL])
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(data=st.data())
def test_broken_bytes_raise_nothing_else(
    kind: ImageFormat, formats: tuple[ImageFormat, ...], data: st.DataObject
) -> None:
    """Whatever bytes change or are missing, the image is decoded or refused with one of our errors."""
    body = bytearray(_BODIES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(len(body) // 2, len(body))) :]
    try:
        decode_all_frames(bytes(body), _LIMIT, soon(), formats)
    except (NotAnImageError, UndecodableError, TooManyPixelsError):
        return


@pytest.mark.parametrize(("kind", "formats"), _ASKED)
def test_truncated_header_is_undecodable(kind: ImageFormat, formats: tuple[ImageFormat, ...]) -> None:
    """An accepted format with a broken header is reported as a broken image, and not as another format."""
    with pytest.raises(UndecodableError):
        identify.inspect(_BODIES[kind][: 4 if kind is ImageFormat.JXL else 40], _LIMIT, formats)


@pytest.mark.parametrize("kind", ["png", "gif", "webp"])
def test_other_formats_are_refused(kind: str) -> None:
    """With --formats jpeg, an image of another usual format is refused, with or without resizing.

    The error names the format.
    """
    body, only = draw_image(3, 40, 30, kind), (ImageFormat.JPEG,)
    for resize in (ResizeOptions(), ResizeOptions(ResizeMode.BORDER, 16)):
        with pytest.raises(NotAnImageError, match=rf"of the format {kind}, which this run does not save \(--formats\)"):
            prepare_image(body, FetchOptions(formats=only, resize=resize), soon())
    assert identify.inspect(draw_image(3, 40, 30), _LIMIT, only).format == "jpeg"
    assert identify.inspect(encoded(_PICTURE, "MPO", save_all=True), _LIMIT, only).format == "jpeg"


def test_saved_files_of_another_format() -> None:
    """A file that the run has encoded counts as complete, even if the run accepts no downloads of the file's format."""
    resize = ResizeOptions(ResizeMode.BORDER, 16, encode_format=EncodeFormat.PNG)
    options = FetchOptions(formats=(ImageFormat.JPEG,), resize=resize)
    saved = prepare_image(draw_image(3, 40, 30), options, soon())
    assert is_whole(saved.body, options, soon())
    assert saved_image(saved.body, options, soon()).info == saved.info
    heic = FetchOptions(formats=(ImageFormat.HEIC,))
    assert is_whole(_BODIES[ImageFormat.HEIC], heic, soon())


@pytest.mark.parametrize(("module", "kind"), [("pillow_heif", ImageFormat.HEIC), ("pillow_jxl", ImageFormat.JXL)])
def test_missing_package(module: str, kind: ImageFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a worker lacks a format's package, the error names the package to install."""
    monkeypatch.setitem(sys.modules, module, None)
    only: tuple[Any, ...] = (kind, ImageFormat.ICO)
    with pytest.raises(InternalError, match=rf"imagefleet\[{kind}\]") as caught:
        identify.open_image(_BODIES[kind], _LIMIT, only)
    assert caught.value.is_worker_fault
