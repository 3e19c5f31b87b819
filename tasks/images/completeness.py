"""Check whether a JPEG without an end marker has all its pixels, because decoders don't report missing pixels."""

from __future__ import annotations

import hashlib
import re

from tasks.deadline import Deadline
from tasks.errors import UndecodableError
from tasks.images import identify, memory_estimate
from tasks.images.pixel_budget import PIXEL_BUDGET

_START, _SCAN, _END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
#: The start of a scan's header: marker, length, and number of components. The number of components determines the
#: length.
_SCAN_HEADER = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
_COEFFICIENTS = 64
#: Rows to hash at once, so that a large image is not copied as a whole.
_ROWS_AT_ONCE = 64
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
#: Bytes that belong to no image. A decoder that lacks pixels decodes some of these bytes as pixels. Any other
#: decoder skips these bytes.
_NOISE = bytes((number * 89 + 171) % 255 for number in range(1024))


def complete_jpeg(body: bytes, max_pixels: int, deadline: Deadline) -> bytes:
    """Return the body of an image. Add the missing end marker to a JPEG that has all its pixels.

    The decoder libjpeg fills missing pixels with grey, and libjpeg's warning does not reach Python. So the image is
    decoded twice, the second time with noise appended. If both decodings have the same pixels, no pixels are missing.

    Raises:
        UndecodableError: pixels are missing.
        TooManyPixelsError, FetchTimeoutError: as `decode_all_frames`.
    """
    if not body.startswith(_START) or _END in body[body.rfind(_SCAN) :]:
        return body
    # Remove half a marker at the end, because half a marker would hide the appended bytes.
    body = body.removesuffix(_END[:1])
    ended = body + _END
    pixels, components = _pixel_digest(ended, max_pixels, deadline)
    continued, _ = _pixel_digest(body + _noise(body) + _END, max_pixels, deadline)
    if pixels != continued or not _has_all_scans(body, components):
        raise UndecodableError("the image is truncated: pixels are missing")
    return ended


def _noise(body: bytes) -> bytes:
    """Return noise that a decoder reads as pixels, even while it waits for the next restart marker."""
    restarts = len(_RESTART.findall(body, body.rfind(_SCAN)))
    return _NOISE + b"".join(bytes([0xFF, 0xD0 + (restarts + number) % 8]) + _NOISE for number in range(8))


def _pixel_digest(body: bytes, max_pixels: int, deadline: Deadline) -> tuple[bytes, int]:
    """Return a digest of a JPEG's pixels, and its number of components."""
    with (
        identify.open_image(body, max_pixels) as image,
        PIXEL_BUDGET.reserve(memory_estimate.estimate_pixels(image, body, max_pixels), deadline),
    ):
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as error:  # broken data can make Pillow's decoders raise any exception
            raise UndecodableError(f"the image can't be decoded: {error}") from error
        digest = hashlib.sha256()
        for top in range(0, image.height, _ROWS_AT_ONCE):
            digest.update(image.crop((0, top, image.width, min(top + _ROWS_AT_ONCE, image.height))).tobytes())
        return digest.digest(), len(image.getbands())


def _has_all_scans(body: bytes, components: int) -> bool:
    """Return whether a JPEG's scans have all bits of all coefficients, for each of the ``components`` components."""
    bits_left: dict[int, list[int]] = {}
    for scan in _SCAN_HEADER.finditer(body):
        # After the components, the header gives the first and the last coefficient. Four more bits give the number of
        # low bits that later scans add.
        end = scan.end() + 2 * body[scan.end() - 1]
        scanned, (first, last, bits) = body[scan.end() : end : 2], body[end : end + 3].ljust(3, b"\xff")
        bits &= 15
        for component in scanned:
            coefficients = bits_left.setdefault(component, [-1] * _COEFFICIENTS)
            coefficients[first : last + 1] = [bits] * (last + 1 - first)
    return len(bits_left) == components and not any(any(coefficients) for coefficients in bits_left.values())
