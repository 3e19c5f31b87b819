"""Remove the metadata of a WebP."""

from __future__ import annotations

import re
import struct

from tasks.images.metadata.exif import orientation_block
from tasks.images.metadata.limits import MAX_PIECES, MAX_PROFILE_BYTES

_PIXEL_CHUNKS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_NEXT_CHUNK = re.compile(rb"VP8 |VP8L|ALPH|ANIM|ANMF")
_RIFF_NAME = re.compile(rb"[A-Z0-9]{3}[A-Z0-9 ]")
#: Flags in a WebP's header: they announce a profile, EXIF, and transparency or an animation. XMP's flag is dropped.
_PROFILE_FLAG, _EXIF_FLAG, _PIXEL_FLAGS = 0x20, 0x08, 0x12


def remove_metadata(body: bytes) -> bytes:
    """Remove a WebP's metadata except the colour profile and the orientation, and correct its RIFF length."""
    if body[8:12] != b"WEBP":
        return body
    header = profile = exif = b""
    kept: list[bytes] = []
    position = 12
    for _ in range(MAX_PIECES):
        if position + 8 > len(body):
            break
        kind, size = struct.unpack_from("<4sI", body, position)
        end = position + 8 + size
        data = body[position + 8 : end]
        is_whole = end <= len(body)
        if kind in _PIXEL_CHUNKS:
            kept.append(_riff(kind, data, size))
        elif kind == b"VP8X" and is_whole and not header:
            header = data
        elif kind == b"ICCP" and is_whole and size <= MAX_PROFILE_BYTES:
            profile = profile or data
        elif kind == b"EXIF" and is_whole:
            exif = exif or orientation_block(data)
        padded = end + size % 2
        # Some encoders omit the padding byte after an odd length.
        if _RIFF_NAME.match(body, end) and not _RIFF_NAME.match(body, padded):
            padded = end
        if not is_whole or not _RIFF_NAME.match(kind):
            match = _NEXT_CHUNK.search(body, position + 8)
            if kind in _PIXEL_CHUNKS or match is None:
                break
            padded = match.start()
        position = padded
    if header:
        flags = header[0] & _PIXEL_FLAGS | (_PROFILE_FLAG if profile else 0) | (_EXIF_FLAG if exif else 0)
        kept.insert(0, _riff(b"VP8X", bytes([flags]) + header[1:]))
        kept[1:1] = [_riff(b"ICCP", profile)] if profile else []
        kept += [_riff(b"EXIF", exif)] if exif else []
    content = b"".join([b"WEBP", *kept])
    return b"RIFF" + len(content).to_bytes(4, "little") + content


def _riff(kind: bytes, data: bytes, size: int | None = None) -> bytes:
    """Return a RIFF chunk; ``size`` is the length to announce, by default the length of the data."""
    return kind + (len(data) if size is None else size).to_bytes(4, "little") + data + bytes(len(data) % 2)
