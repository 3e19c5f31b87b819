"""Bytes that claim to be an image: what they really are, read from their header, before anything is decoded."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from io import BytesIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from tasks.errors import NotAnImage, TooManyPixels, Undecodable

#: Pillow's format names that are accepted, and the extension of a file of that format.
EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "AVIF": "avif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "ICO": "ico",
}
#: The parsers of these formats alone are loaded, and tried; those of all others stay switched off. An MPO is opened as
#: the JPEG that it begins with.
_PLUGINS = (
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    GifImagePlugin,
    AvifImagePlugin,
    BmpImagePlugin,
    TiffImagePlugin,
    IcoImagePlugin,
    MpoImagePlugin,
)
_FORMATS = tuple(name for name in EXTENSIONS if name != "MPO")
# The size is judged by our own bound, which a run may set.
Image.MAX_IMAGE_PIXELS = None
_TAG = re.compile(rb"<(!doctype|html|head|body|\?xml|svg)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image's header says of it; sizes in pixels."""

    format: str
    extension: str
    width: int
    height: int


def inspect(body: bytes, max_pixels: int) -> ImageInfo:
    """Return what the header says; no pixel is decoded.

    Raises:
        NotAnImage: the bytes are of no known format.
        Undecodable: they begin as an image, and the header is broken.
        TooManyPixels: the header announces more than ``max_pixels``.
    """
    try:
        with Image.open(BytesIO(body), formats=_FORMATS) as image:
            kind, (width, height) = image.format or "", image.size
    except UnidentifiedImageError as error:
        raise _unidentified(body) from error
    except Exception as error:  # Pillow's parsers raise whatever a broken header leads them to
        raise Undecodable(f"the image's header is broken: {error}") from error
    if width * height > max_pixels:
        raise TooManyPixels(f"the image has {width}x{height} pixels, more than {max_pixels}")
    return ImageInfo(kind.lower().replace("mpo", "jpeg"), EXTENSIONS[kind], width, height)


def digest(body: bytes) -> str:
    """Return the SHA-256 of the bytes, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def _unidentified(body: bytes) -> NotAnImage | Undecodable:
    start = body[:512].lstrip()
    if body.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")) or body[8:12] == b"WEBP":
        return Undecodable("the body begins as an image, and its header is broken")
    if tag := _TAG.search(start):
        name = tag[1].lower()
        svg = name == b"svg" or (name == b"?xml" and b"<svg" in start.lower())
        kind = "SVG" if svg else "XML" if name == b"?xml" else "HTML"
        return NotAnImage(f"the body is {kind}, not an image")
    if start[:1] in (b"{", b"["):
        return NotAnImage("the body is JSON, not an image")
    return NotAnImage("the body is no image of a known format")
