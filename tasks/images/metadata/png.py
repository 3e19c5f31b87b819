"""Remove the metadata of a PNG."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from tasks.images.metadata.exif import orientation_block
from tasks.images.metadata.limits import MAX_CANDIDATES, MAX_PIECES, MAX_PROFILE_BYTES

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
#: The chunks that pixels need, and the chunks of an animation.
_PIXEL_CHUNKS, _MOVING = (b"IHDR", b"PLTE", b"IDAT", b"fdAT"), (b"acTL", b"fcTL", b"fdAT")
_NEXT_CHUNK = re.compile(rb"PLTE|IDAT|tRNS|IEND|acTL|fcTL|fdAT|iCCP|eXIf")
_CHUNK_NAME = re.compile(rb"[A-Za-z]{4}")


def inflates_much(body: bytes) -> bool:
    """Return whether a PNG has several profiles. Pillow would inflate each profile, up to a limit, and discard it."""
    return body.startswith(SIGNATURE) and body.count(b"iCCP", 0, body.find(b"IDAT")) > 1


def remove_metadata(body: bytes) -> bytes:
    """Return a PNG without metadata, except for a valid colour profile and an orientation."""
    before: list[bytes] = []
    pixels: list[tuple[bytes, bytes]] = []
    profile = exif = b""
    for kind, piece in _chunks(body):
        data = piece[8:-4]
        if kind == b"iCCP" and not profile and not pixels:
            profile = piece if _is_profile(data) else b""
        elif kind == b"eXIf" and not exif:
            exif = orientation_block(data)
        elif kind == b"IDAT" or kind in _MOVING:
            pixels.append((kind, piece))
        elif kind in (b"IHDR", b"PLTE") or (kind == b"tRNS" and _is_transparency(data, body[25])):
            before.append(piece)
    is_animation = _is_animation([(kind, piece[8:-4]) for kind, piece in pixels])
    kept = [piece for kind, piece in pixels if kind == b"IDAT" or is_animation]
    # The profile comes before the palette.
    header, palette = before[:1], before[1:]
    # Pillow accepts EXIF with and without the prefix that JPEG uses.
    oriented = [_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))] if exif else []
    parts = [SIGNATURE, *header, profile, *palette, *oriented, *kept]
    # Add no end chunk after a truncated chunk, because a decoder would read the end chunk as the rest of the truncated
    # chunk.
    is_whole = kept and len(kept[-1]) == 12 + int.from_bytes(kept[-1][:4])
    return b"".join([*parts, _chunk(b"IEND", b"")] if is_whole else parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return _CHUNK.pack(len(data), kind) + data + zlib.crc32(kind + data).to_bytes(4)


def _chunks(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and bytes of each valid chunk, and also of each invalid chunk that the pixels need."""
    position, candidates, is_found = len(SIGNATURE), 0, False
    for number in range(10 * MAX_PIECES):
        if position + 8 > len(body):
            return
        length, kind = _CHUNK.unpack_from(body, position)
        end = position + 12 + length
        has_pixels = kind in _PIXEL_CHUNKS
        # If a chunk's length is wrong, no other chunk follows at its end.
        is_last = end + 4 >= len(body) and (has_pixels or end <= len(body))
        follows = is_last or bool(_CHUNK_NAME.match(body, end + 4))
        if has_pixels or (follows and kind.isalpha() and (is_found or number < MAX_PIECES)):
            if has_pixels or _is_sound(body, position, end):
                yield kind, body[position:end]
            if kind == b"IEND":
                return
            if follows:
                position, is_found = end, False
                continue
        is_found = False
        while not is_found and candidates < MAX_CANDIDATES and (match := _NEXT_CHUNK.search(body, position + 5)):
            position, candidates = match.start() - 4, candidates + 1
            is_found = _is_sound(body, position, position + 12 + int.from_bytes(body[position : position + 4]))
        if not is_found:
            return


def _is_sound(body: bytes, start: int, end: int) -> bool:
    """Return whether a chunk's checksum is correct."""
    return end <= len(body) and zlib.crc32(body[start + 4 : end - 4]).to_bytes(4) == body[end - 4 : end]


def _is_profile(data: bytes) -> bool:
    """Return whether a profile's chunk can be inflated, and stays within the limit."""
    name, _, packed = data.partition(b"\0")
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return bool(name) and packed[:1] == b"\0" and not inflater.unconsumed_tail


def _is_transparency(data: bytes, colour_type: int) -> bool:
    """Return whether the data of a tRNS chunk has the right length for a colour type."""
    if colour_type == 3:
        return 0 < len(data) <= 256
    return len(data) == {0: 2, 2: 6}.get(colour_type)


def _is_animation(chunks: list[tuple[bytes, bytes]]) -> bool:
    """Return whether an animation's frames are in order. If not, the image counts as a still image, as in browsers."""
    announced = frames = sequence = 0
    before = b""
    for kind, data in chunks:
        if kind == b"acTL":
            if announced or len(data) < 8:
                return False
            announced = int.from_bytes(data[:4])
        elif kind != b"IDAT":
            if len(data) < (26 if kind == b"fcTL" else 4) or int.from_bytes(data[:4]) != sequence:
                return False
            sequence += 1
            # The previous frame has no pixels.
            if kind == before == b"fcTL":
                return False
            frames += kind == b"fcTL"
        before = kind
    return 0 < announced == frames and before != b"fcTL"
