"""A JPEG without an end marker: whether all of its pixels are there, which decoders don't say."""

from __future__ import annotations

import hashlib
import re

from tasks import footprint, images
from tasks.deadline import Deadline
from tasks.errors import Undecodable
from tasks.room import room

_START, _SCAN, _END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
#: A scan's header, up to how many components it has: its length follows from that.
_SCAN_HEADER = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
_COEFFICIENTS = 64
#: Rows that are looked at together, so that no second copy of a large image is made.
_ROWS = 64
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
#: What no image continues with. A decoder that has all pixels passes over it; one that has not makes some of it.
_NOISE = bytes((number * 89 + 171) % 255 for number in range(1024))


def completed(body: bytes, max_pixels: int, deadline: Deadline) -> bytes:
    """Return an image; add the end marker to a JPEG that lacks one, if it has all of its pixels.

    libjpeg fills missing pixels with grey. Its warning about that does not reach Python. So the image is decoded twice,
    with nothing and with noise behind it: if both give the same pixels, none are missing.

    Raises:
        Undecodable: pixels are missing.
        TooManyPixels, TimedOut: as `tasks.verify.decoded`.
    """
    if not body.startswith(_START) or _END in body[body.rfind(_SCAN) :]:
        return body
    # Half of a marker would hide what is put behind it.
    body = body.removesuffix(_END[:1])
    ended = body + _END
    pixels, components = _decoded(ended, max_pixels, deadline)
    continued, _ = _decoded(body + _noise(body) + _END, max_pixels, deadline)
    if pixels != continued or not _has_all_scans(body, components):
        raise Undecodable("the image is truncated: pixels are missing")
    return ended


def _noise(body: bytes) -> bytes:
    """Return noise that a decoder takes for pixels, also where it waits for the next restart marker."""
    restarts = len(_RESTART.findall(body, body.rfind(_SCAN)))
    return _NOISE + b"".join(bytes([0xFF, 0xD0 + (restarts + number) % 8]) + _NOISE for number in range(8))


def _decoded(body: bytes, max_pixels: int, deadline: Deadline) -> tuple[bytes, int]:
    """Return a digest of a JPEG's pixels, and how many components it has."""
    with images.opened(body, max_pixels) as image, room.of(footprint.of(image, body, max_pixels), deadline):
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise whatever broken data leads them to
            raise Undecodable(f"the image can't be decoded: {error}") from error
        digest = hashlib.sha256()
        for top in range(0, image.height, _ROWS):
            digest.update(image.crop((0, top, image.width, min(top + _ROWS, image.height))).tobytes())
        return digest.digest(), len(image.getbands())


def _has_all_scans(body: bytes, components: int) -> bool:
    """Tell whether a JPEG's scans have all bits of all coefficients of so many components."""
    left: dict[int, list[int]] = {}
    for scan in _SCAN_HEADER.finditer(body):
        # Behind the components: its first and last coefficient, and in four bits how many bits are left to later scans.
        end = scan.end() + 2 * body[scan.end() - 1]
        found_in, (first, last, bits) = body[scan.end() : end : 2], body[end : end + 3].ljust(3, b"\xff")
        bits &= 15
        for component in found_in:
            found = left.setdefault(component, [-1] * _COEFFICIENTS)
            found[first : last + 1] = [bits] * (last + 1 - first)
    return len(left) == components and not any(any(found) for found in left.values())
