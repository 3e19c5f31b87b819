"""Remove the metadata of a GIF."""

from __future__ import annotations

import re
import struct

from tasks.images.metadata.limits import MAX_CANDIDATES, MAX_PIECES

_FRAME, _EXTENSION, _CONTROL = b"\x2c", b"\x21", b"\xf9\4"
_AFTER_BLOCK = (_FRAME, _EXTENSION, b";", b"")
_NEXT_BLOCK = re.compile(rb"\x21\xf9\x04.{4}\0(?=[\x21\x2c])|\x2c(?=.{9}[\x02-\x08])", re.DOTALL)


def remove_metadata(body: bytes) -> bytes:
    """Return a GIF with only its frames and their control extensions."""
    canvas = struct.unpack_from("<HH", body, 6)
    position = 13 + _palette(body[10])
    kept, control = [body[:position]], b""
    candidates, is_found = 0, False
    for number in range(10 * MAX_PIECES):
        kind = body[position : position + 1]
        end = len(body)
        if kind in (b";", b"") or (kind == _FRAME and position + 11 > end):
            break
        if kind == _FRAME:
            end = _blocks_end(body, position + 11 + _palette(body[position + 9]))
            kept += control, body[position:end]
            control = b""
            if end > len(body):
                break
        elif kind == _EXTENSION and (is_found or number < MAX_PIECES):
            end = _blocks_end(body, position + 2)
            if body[position + 1 : position + 3] == _CONTROL and end == position + 8:
                control = body[position:end]
        else:
            kind = b""
        if kind and end <= len(body) and body[end : end + 1] in _AFTER_BLOCK:
            position, is_found = end, False
            continue
        is_found = False
        while not is_found and candidates < MAX_CANDIDATES and (match := _NEXT_BLOCK.search(body, position + 1)):
            position, candidates = match.start(), candidates + 1
            is_found = _is_block(body, position, canvas)
        if not is_found:
            break
    # Add no trailer, because decoders don't need one. If the last frame is truncated, decoders would read a trailer as
    # the rest of that frame.
    return b"".join(kept)


def _palette(flags: int) -> int:
    """Return the size of a GIF's palette in bytes."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _blocks_end(body: bytes, position: int) -> int:
    """Return the position after the blocks of a frame or extension. For truncated blocks, it is beyond the file."""
    while position < len(body) and body[position]:
        position += 1 + body[position]
    return position + 1


def _is_block(body: bytes, position: int, canvas: tuple[int, int]) -> bool:
    """Return whether a GIF's frame, or the extension that controls a frame, begins at a position."""
    if body.startswith(_EXTENSION, position):
        return True
    left, top, width, height, flags = struct.unpack_from("<HHHHB", body, position + 1)
    if not (width and height and left + width <= canvas[0] and top + height <= canvas[1]):
        return False
    end = _blocks_end(body, position + 11 + _palette(flags))
    return end <= len(body) and body[end : end + 1] in _AFTER_BLOCK
