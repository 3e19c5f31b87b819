"""Remove the metadata of a JPEG."""

from __future__ import annotations

import re
import struct

from tasks.images.metadata.exif import orientation_block
from tasks.images.metadata.limits import MAX_CANDIDATES, MAX_PIECES, MAX_PROFILE_BYTES

_SEGMENT = re.compile(rb"\xff+([^\x00\xff])")
_NEXT_SEGMENT = re.compile(
    rb"\xff(?:[\xc0-\xc7\xc9-\xcf\xda-\xdd]|(?=\xe0..JFIF\0|\xe1..Exif\0|\xe2..ICC_PROFILE\0|\xee..Adobe))", re.DOTALL
)
_ANCILLARY = frozenset({*range(0xE0, 0xF0), 0xFE})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_SCAN, _END = 0xDA, 0xD9


def remove_metadata(body: bytes) -> bytes:
    """Return a JPEG without metadata, except for its colour profile and an orientation."""
    first: dict[str, bytes] = {}
    profile: list[bytes] = []
    tables: list[bytes] = []
    position, candidates = 2, 0
    for number in range(10 * MAX_PIECES):
        marker = _SEGMENT.search(body, position)
        if marker is None or marker[1][0] == _END:
            return body
        code, start = marker[1][0], marker.end()
        if code == _SCAN:
            break
        if code in _WITHOUT_LENGTH:
            position = start
            continue
        end = start + int.from_bytes(body[start : start + 2])
        data = body[start + 2 : end]
        if code in _ANCILLARY:
            if end < start + 2 or body[end : end + 1] != b"\xff" or number >= MAX_PIECES:
                position, tried = _next_segment(body, start)
                candidates += tried
                if candidates > MAX_CANDIDATES:
                    return body
                continue
            if code == 0xE0 and data.startswith(b"JFIF\0") and len(data) >= 14:
                first.setdefault("jfif", _segment(code, data))
            elif code == 0xE1 and data.startswith(b"Exif\0\0"):
                first.setdefault("exif", _segment(code, orientation_block(data)))
            elif code == 0xE2 and data.startswith(b"ICC_PROFILE\0") and len(data) > 14:
                profile.append(_segment(code, data))
            elif code == 0xEE and data.startswith(b"Adobe") and len(data) >= 12:
                first.setdefault("adobe", _segment(code, data))
        else:
            tables.append(_segment(code, data))
        position = end
    else:
        return body
    if sum(map(len, profile)) > MAX_PROFILE_BYTES:
        profile.clear()
    before = [first.get("jfif", b""), first.get("exif", b""), *profile, first.get("adobe", b"")]
    return b"".join([b"\xff\xd8", *before, *tables, b"\xff\xda", body[start:]])


def _segment(code: int, data: bytes) -> bytes:
    """Return a JPEG's segment, or no bytes if ``data`` is empty."""
    return struct.pack(">BBH", 0xFF, code, len(data) + 2) + data if data else b""


def _next_segment(body: bytes, position: int) -> tuple[int, int]:
    """Return the position of the next relevant segment, and the number of places that were tried."""
    tried = 0
    for tried, match in enumerate(_NEXT_SEGMENT.finditer(body, position), 1):
        start = match.start() + 2
        end = start + int.from_bytes(body[start : start + 2])
        if body[start - 1] == _SCAN or body[end : end + 1] == b"\xff":
            return match.start(), tried
        if tried > MAX_CANDIDATES:
            break
    return len(body), tried
