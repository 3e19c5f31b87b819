"""Estimate the memory needed to decode a frame. A crafted file needs far more memory than the frame's size suggests.

A TIFF's tile is decoded completely, and may be larger than the image. Each scan of a JPEG covers all pixels. If a JPEG
has several scans, the decoder keeps all coefficients in memory, at full size. An AVIF's header may announce a small
size for a large encoded image. In this case, libavif decodes the large image and then scales it down.
"""

from __future__ import annotations

import re

from PIL.AvifImagePlugin import AvifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from tasks.errors import TooManyPixelsError, UndecodableError
from tasks.images import identify

#: Maximum number of scans in a JPEG. The limit is needed because a scan may have only a few bytes but takes time.
#: Encoders write about ten scans.
_MAX_SCANS = 200
#: Maximum number of segments in a JPEG. The limit is needed because each segment takes time. A JPEG of 100 MB full of
#: profile segments has 1,600 segments.
_MAX_SEGMENTS = 20_000
#: libavif's own limit for the number of pixels in an encoded image. The library applies this limit regardless of the
#: size in the header.
_AVIF_PIXELS = 16384 * 16384
#: More pixels than the whole budget.
_DECODED_ALONE = 2**26
#: A JPEG's marker outside of a scan's data. Inside that data, 0xFF00 means the byte 0xFF, and 0xFFD0 to 0xFFD7 are
#: restart markers.
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
_SCAN, _END = b"\xda", b"\xd9"


def estimate_pixels(image: ImageFile, body: bytes, max_pixels: int) -> int:
    """Return how many pixels are in memory during the decoding of an opened image's current frame.

    Args:
        image: the opened image; for a JPEG, at the size set by ``draft``.
        body: the bytes it was opened from.
        max_pixels: limit for the frame, and for a TIFF's tile.

    Raises:
        TooManyPixelsError: the frame or a tile has more than ``max_pixels`` pixels.
        UndecodableError: a JPEG is built to decode slowly, or the sides of a TIFF's tiles are not integers.
    """
    identify.check_pixels(image.size, max_pixels)
    width, height = image.size
    match image:
        case JpegImageFile():
            if _keeps_all_coefficients(image, body):
                scale: int = image.decoderconfig[0] if image.decoderconfig else 1
                return width * height * scale * scale
        case TiffImageFile():
            across, down = image.tag_v2.get(TILEWIDTH, 0), image.tag_v2.get(TILELENGTH, 0)
            if not (isinstance(across, int) and isinstance(down, int)):
                raise UndecodableError("the sides of the image's tiles are not integers")
            if across * down > max_pixels:
                raise TooManyPixelsError(f"the image has tiles of {across:,}x{down:,} pixels, more than {max_pixels:,}")
            return max(width * height, across * down)
        case AvifImageFile():
            return _AVIF_PIXELS
        case _ if image.format in ("HEIF", "JPEG2000", "JXL"):
            # The decoders of these formats need many times the memory of the pixels. They may also decode a larger
            # image and crop it.
            return max(width * height, _DECODED_ALONE)
    return width * height


def _keeps_all_coefficients(image: JpegImageFile, body: bytes) -> bool:
    """Return whether a JPEG has several scans. If so, the decoder keeps all its coefficients.

    Raises:
        UndecodableError: the JPEG has too many scans or segments.
    """
    # In a file with several images (MPO), each image begins with its own header.
    position, scans = getattr(image, "offset", 0), 0
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(body, position)
        if marker is None or marker[1] == _END:
            return True
        position = marker.end()
        if marker[1] == _SCAN:
            scans += 1
            if "progressive" not in image.info and body[position + 2 : position + 3] == bytes([image.layers]):
                return False
            if scans > _MAX_SCANS:
                raise UndecodableError(f"the image has more than {_MAX_SCANS} scans")
        # A segment's length includes the length field.
        position += int.from_bytes(body[position : position + 2])
    raise UndecodableError(f"the image has more than {_MAX_SEGMENTS:,} segments")
