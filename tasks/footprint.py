"""What a decoder holds in memory of a frame: with a file made for it, far more than the frame's own size.

A TIFF's tile is decoded whole, and may be larger than the image. Each scan of a JPEG goes over all pixels, and where
there are several, all coefficients are kept, at full size. The header of an AVIF may name a small image, to which
libavif then scales the large one that is coded.
"""

from __future__ import annotations

import re

from PIL.AvifImagePlugin import AvifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from tasks import images
from tasks.errors import TooManyPixels, Undecodable

#: Scans of a JPEG; each may take only a few bytes. Encoders write about ten.
_MAX_SCANS = 200
#: Segments of a JPEG, of which each costs a moment; one of 100 MB that is all profile has 1,600.
_MAX_SEGMENTS = 20_000
#: libavif's own bound, the one that holds whatever the header says.
_AVIF_PIXELS = 16384 * 16384
#: A JPEG's marker: between the codes of a scan stand 0xFF00 for the byte, restarts (0xFFD0 to 0xFFD7), and no others.
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
_SCAN, _END = b"\xda", b"\xd9"


def of(image: ImageFile, body: bytes, max_pixels: int) -> int:
    """Return how many pixels are held while the frame at which an opened image stands is decoded.

    Args:
        image: as its header describes it; a JPEG's draft counts.
        body: the bytes that it was opened from.
        max_pixels: of the frame, and of a tile.

    Raises:
        TooManyPixels: there are more.
        Undecodable: a JPEG is made to take long, or a TIFF's tiles have no plain size.
    """
    images.check_pixels(image.size, max_pixels)
    width, height = image.size
    match image:
        case JpegImageFile():
            if _keeps_all(image, body):
                scale: int = image.decoderconfig[0] if image.decoderconfig else 1
                return width * height * scale * scale
        case TiffImageFile():
            across, down = image.tag_v2.get(TILEWIDTH, 0), image.tag_v2.get(TILELENGTH, 0)
            if not (isinstance(across, int) and isinstance(down, int)):
                raise Undecodable("the sides of the image's tiles are no integers")
            if across * down > max_pixels:
                raise TooManyPixels(f"the image has tiles of {across}x{down} pixels, more than {max_pixels}")
            return max(width * height, across * down)
        case AvifImageFile():
            return _AVIF_PIXELS
    return width * height


def _keeps_all(image: JpegImageFile, body: bytes) -> bool:
    """Tell whether the coefficients of a whole JPEG are kept: its scans are several, or parts of one image.

    Raises:
        Undecodable: there are too many of them.
    """
    # Of several images in a file (MPO), each begins with a header of its own.
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
                raise Undecodable(f"the image has more than {_MAX_SCANS} scans")
        # A segment's length counts itself.
        position += int.from_bytes(body[position : position + 2])
    raise Undecodable(f"the image has more than {_MAX_SEGMENTS} segments")
