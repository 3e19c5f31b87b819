"""Find the Content-Type of an image file by its first bytes, because a name or a manifest may be wrong. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.image_options import ImageFormat
from tasks.images import file_signatures

SVG = "image/svg+xml"
_SIGNATURES = {
    "image/jpeg": rb"\xff\xd8\xff",
    "image/png": rb"\x89PNG\r\n\x1a\n",
    "image/gif": rb"GIF8[79]a",
    "image/webp": rb"RIFF....WEBP",
    "image/avif": rb"....ftypavi[fs]",
    "image/heic": rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)",
    "image/bmp": rb"BM",
    "image/tiff": rb"II[*+]\x00|MM\x00[*+]",
    "image/x-icon": rb"\x00\x00\x01\x00",
    "image/jp2": rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "image/jxl": rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n",
}
_PATTERNS = [(kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _SIGNATURES.items()]
#: The formats that Chromium and Firefox don't show.
UNSHOWN_FORMATS = frozenset({ImageFormat.TIFF, ImageFormat.HEIC, ImageFormat.JPEG2000, ImageFormat.JXL})


@dataclass(frozen=True, slots=True)
class TypedImage:
    """The bytes of an image file and their Content-Type."""

    body: bytes
    content_type: str


def content_type(body: bytes) -> str | None:
    """Return the Content-Type of an image file, or None if the bytes are not an image of a known format."""
    for kind, pattern in _PATTERNS:
        if pattern.match(body):
            return kind
    return SVG if file_signatures.identify_format(body) is file_signatures.SVG else None
