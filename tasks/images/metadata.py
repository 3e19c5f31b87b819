"""Remove damaged or oversized metadata, so that a decoder can read the pixels.

Pillow rejects an image even for a comment with a wrong checksum. This module reduces such an image to its pixels,
colour profile and orientation, and has it read again. The saved file stays as downloaded, byte for byte.

Valid images cost nothing more, because they never get here. A Python loop walks over the pieces of a file, up to a
limit. Beyond that limit, and after a wrong length, a regular expression finds the next relevant piece.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from PIL import ExifTags, Image

from tasks.errors import TooManyPixelsError, UndecodableError

#: Limit of a colour profile; a printer's profile has one or two million bytes.
MAX_PROFILE_BYTES = 4 * 1024 * 1024
#: Limit of EXIF data to read an orientation from; in a JPEG, it has at most 64 KiB.
_MAX_EXIF_BYTES = 1024 * 1024
#: Pieces of a file to visit one by one, and places to try in searches for the next piece.
_MAX_PIECES, _MAX_CANDIDATES = 20_000, 200
#: Pages of a TIFF: as many as are decoded to verify it.
_MAX_PAGES = 2000

_Read = TypeVar("_Read")


def retry_without_metadata(
    read: Callable[[bytes], _Read], body: bytes, complete: Callable[[bytes], bytes] = lambda body: body
) -> _Read:
    """Return the result of ``read`` for an image; if it rejects the image, call it again without the metadata.

    Args:
        read: inspects, decodes or resizes an image.
        body: the image as downloaded.
        complete: prepares the image without metadata for the second call, or raises an error.

    Raises:
        FetchError: ``read`` rejects the pixels alone, or an image with nothing to remove.
    """
    if _inflates_much(body):
        body = without_metadata(body)
    try:
        return read(body)
    except (UndecodableError, TooManyPixelsError):
        pixels = complete(without_metadata(body))
        if pixels == body:
            raise
    return read(pixels)


def without_metadata(body: bytes) -> bytes:
    """Return an image without metadata, except for a valid colour profile and an orientation.

    The image is unchanged if it has nothing to remove, or if metadata of its format disturbs no decoder.
    """
    for beginning, cut in _CUTS.items():
        if body.startswith(beginning):
            try:
                return cut(body)
            except (struct.error, IndexError):  # truncated
                return body
    return body


def orientation(exif: bytes) -> int:
    """Return the orientation in an image's EXIF data, as EXIF numbers it: 1 is upright. Broken EXIF counts as 1."""
    try:
        tags = Image.Exif()
        tags.load(exif)
        return int(tags.get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  # broken EXIF can make Pillow raise any exception
        return 1


def _exif(found: bytes) -> bytes:
    """Return an EXIF block with only the orientation of another block; empty for an upright image."""
    number = orientation(found) if len(found) <= _MAX_EXIF_BYTES else 1
    if number not in range(2, 9):
        return b""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = number
    return tags.tobytes()


_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
#: The chunks that pixels need, and those of an animation.
_PIXEL_CHUNKS, _MOVING = (b"IHDR", b"PLTE", b"IDAT", b"fdAT"), (b"acTL", b"fcTL", b"fdAT")
_NEXT_CHUNK = re.compile(rb"PLTE|IDAT|tRNS|IEND|acTL|fcTL|fdAT|iCCP|eXIf")
_CHUNK_NAME = re.compile(rb"[A-Za-z]{4}")


def _inflates_much(body: bytes) -> bool:
    """Return whether a PNG has several profiles. Pillow would inflate each, up to its limit, and discard it."""
    return body.startswith(_PNG) and body.count(b"iCCP", 0, body.find(b"IDAT")) > 1


def _png(body: bytes) -> bytes:
    before: list[bytes] = []
    pixels: list[tuple[bytes, bytes]] = []
    profile = exif = b""
    for kind, piece in _chunks(body):
        data = piece[8:-4]
        if kind == b"iCCP" and not profile and not pixels:
            profile = piece if _is_profile(data) else b""
        elif kind == b"eXIf" and not exif:
            exif = _exif(data)
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
    parts = [_PNG, *header, profile, *palette, *oriented, *kept]
    # A decoder would read an end chunk after a truncated chunk as the rest of that chunk.
    is_whole = kept and len(kept[-1]) == 12 + int.from_bytes(kept[-1][:4])
    return b"".join([*parts, _chunk(b"IEND", b"")] if is_whole else parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return _CHUNK.pack(len(data), kind) + data + zlib.crc32(kind + data).to_bytes(4)


def _chunks(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and bytes of each valid chunk, and of each chunk with pixels or their header, valid or not."""
    position, candidates, is_found = len(_PNG), 0, False
    for number in range(10 * _MAX_PIECES):
        if position + 8 > len(body):
            return
        length, kind = _CHUNK.unpack_from(body, position)
        end = position + 12 + length
        has_pixels = kind in _PIXEL_CHUNKS
        # After a wrong length, no chunk follows.
        is_last = end + 4 >= len(body) and (has_pixels or end <= len(body))
        follows = is_last or bool(_CHUNK_NAME.match(body, end + 4))
        if has_pixels or (follows and kind.isalpha() and (is_found or number < _MAX_PIECES)):
            if has_pixels or _is_sound(body, position, end):
                yield kind, body[position:end]
            if kind == b"IEND":
                return
            if follows:
                position, is_found = end, False
                continue
        is_found = False
        while not is_found and candidates < _MAX_CANDIDATES and (match := _NEXT_CHUNK.search(body, position + 5)):
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
    """Return whether the frames of an animation are in order. If not, the image counts as a still, as in browsers."""
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
            # A frame without pixels.
            if kind == before == b"fcTL":
                return False
            frames += kind == b"fcTL"
        before = kind
    return 0 < announced == frames and before != b"fcTL"


_SEGMENT = re.compile(rb"\xff+([^\x00\xff])")
_NEXT_SEGMENT = re.compile(
    rb"\xff(?:[\xc0-\xc7\xc9-\xcf\xda-\xdd]|(?=\xe0..JFIF\0|\xe1..Exif\0|\xe2..ICC_PROFILE\0|\xee..Adobe))", re.DOTALL
)
_ANCILLARY = frozenset({*range(0xE0, 0xF0), 0xFE})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_SCAN, _END = 0xDA, 0xD9


def _jpeg(body: bytes) -> bytes:
    first: dict[str, bytes] = {}
    profile: list[bytes] = []
    tables: list[bytes] = []
    position, candidates = 2, 0
    for number in range(10 * _MAX_PIECES):
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
            if end < start + 2 or body[end : end + 1] != b"\xff" or number >= _MAX_PIECES:
                position, tried = _next_segment(body, start)
                candidates += tried
                if candidates > _MAX_CANDIDATES:
                    return body
                continue
            if code == 0xE0 and data.startswith(b"JFIF\0") and len(data) >= 14:
                first.setdefault("jfif", _segment(code, data))
            elif code == 0xE1 and data.startswith(b"Exif\0\0"):
                first.setdefault("exif", _segment(code, _exif(data)))
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
    """Return a JPEG's segment; nothing if it has no data."""
    return struct.pack(">BBH", 0xFF, code, len(data) + 2) + data if data else b""


def _next_segment(body: bytes, position: int) -> tuple[int, int]:
    """Return the position of the next relevant segment, and the number of places tried."""
    tried = 0
    for tried, match in enumerate(_NEXT_SEGMENT.finditer(body, position), 1):
        start = match.start() + 2
        end = start + int.from_bytes(body[start : start + 2])
        if body[start - 1] == _SCAN or body[end : end + 1] == b"\xff":
            return match.start(), tried
        if tried > _MAX_CANDIDATES:
            break
    return len(body), tried


_FRAME, _EXTENSION, _CONTROL = b"\x2c", b"\x21", b"\xf9\4"
_AFTER_BLOCK = (_FRAME, _EXTENSION, b";", b"")
_NEXT_BLOCK = re.compile(rb"\x21\xf9\x04.{4}\0(?=[\x21\x2c])|\x2c(?=.{9}[\x02-\x08])", re.DOTALL)


def _gif(body: bytes) -> bytes:
    canvas = struct.unpack_from("<HH", body, 6)
    position = 13 + _palette(body[10])
    kept, control = [body[:position]], b""
    candidates, is_found = 0, False
    for number in range(10 * _MAX_PIECES):
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
        elif kind == _EXTENSION and (is_found or number < _MAX_PIECES):
            end = _blocks_end(body, position + 2)
            if body[position + 1 : position + 3] == _CONTROL and end == position + 8:
                control = body[position:end]
        else:
            kind = b""
        if kind and end <= len(body) and body[end : end + 1] in _AFTER_BLOCK:
            position, is_found = end, False
            continue
        is_found = False
        while not is_found and candidates < _MAX_CANDIDATES and (match := _NEXT_BLOCK.search(body, position + 1)):
            position, candidates = match.start(), candidates + 1
            is_found = _is_block(body, position, canvas)
        if not is_found:
            break
    # Decoders need no trailer, and would read one after a truncated frame as the rest of that frame.
    return b"".join(kept)


def _palette(flags: int) -> int:
    """Return the size of a GIF's palette in bytes."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _blocks_end(body: bytes, position: int) -> int:
    """Return the end of the blocks of a GIF's frame or extension; it is beyond the file if they are truncated."""
    while position < len(body) and body[position]:
        position += 1 + body[position]
    return position + 1


def _is_block(body: bytes, position: int, canvas: tuple[int, int]) -> bool:
    """Return whether a GIF's frame, or the extension that controls one, begins at a position."""
    if body.startswith(_EXTENSION, position):
        return True
    left, top, width, height, flags = struct.unpack_from("<HHHHB", body, position + 1)
    if not (width and height and left + width <= canvas[0] and top + height <= canvas[1]):
        return False
    end = _blocks_end(body, position + 11 + _palette(flags))
    return end <= len(body) and body[end : end + 1] in _AFTER_BLOCK


_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_NEXT_WEBP = re.compile(rb"VP8 |VP8L|ALPH|ANIM|ANMF")
_RIFF_NAME = re.compile(rb"[A-Z0-9]{3}[A-Z0-9 ]")
#: Flags in a WebP's header: they announce a profile, EXIF, and transparency or an animation. XMP's flag is dropped.
_PROFILE_FLAG, _EXIF_FLAG, _PIXEL_FLAGS = 0x20, 0x08, 0x12


def _webp(body: bytes) -> bytes:
    if body[8:12] != b"WEBP":
        return body
    header = profile = exif = b""
    kept: list[bytes] = []
    position = 12
    for _ in range(_MAX_PIECES):
        if position + 8 > len(body):
            break
        kind, size = struct.unpack_from("<4sI", body, position)
        end = position + 8 + size
        data = body[position + 8 : end]
        is_whole = end <= len(body)
        if kind in _WEBP_PIXELS:
            kept.append(_riff(kind, data, size))
        elif kind == b"VP8X" and is_whole and not header:
            header = data
        elif kind == b"ICCP" and is_whole and size <= MAX_PROFILE_BYTES:
            profile = profile or data
        elif kind == b"EXIF" and is_whole:
            exif = exif or _exif(data)
        padded = end + size % 2
        # Some encoders omit the padding byte after an odd length.
        if _RIFF_NAME.match(body, end) and not _RIFF_NAME.match(body, padded):
            padded = end
        if not is_whole or not _RIFF_NAME.match(kind):
            match = _NEXT_WEBP.search(body, position + 8)
            if kind in _WEBP_PIXELS or match is None:
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
    """Return a RIFF chunk; ``size`` is the length to announce, by default the real one."""
    return kind + (len(data) if size is None else size).to_bytes(4, "little") + data + bytes(len(data) % 2)


#: The tags of a TIFF that describe its pixels, their position in the file, and their orientation.
_PIXEL_TAGS = frozenset(
    {
        *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
        *(332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532),
    }
)
_WIDTH, _ORIENTATION, _PROFILE = 256, 274, 34675


def _tiff(body: bytes) -> bytes:
    order = "<" if body[:2] == b"II" else ">"
    is_big = struct.unpack_from(order + "H", body, 2) == (43,)
    count, entry, offset = (
        struct.Struct(order + code) for code in (("Q", "HHQQ", "Q") if is_big else ("H", "HHII", "I"))
    )
    fixed = bytearray(body)
    pointer, seen = 8 if is_big else 4, set[int]()
    while len(seen) < _MAX_PAGES:
        (page,) = offset.unpack_from(fixed, pointer)
        start = page + count.size
        entries: list[bytes] = []
        if page and page not in seen and start <= len(body):
            (number,) = count.unpack_from(body, page)
            end = start + number * entry.size
            if end + offset.size <= len(body):
                entries = [body[at : at + entry.size] for at in range(start, end, entry.size)]
        if not any(entry.unpack(each)[0] == _WIDTH for each in entries):
            # This is the last page, or the offset is wrong.
            if seen:
                offset.pack_into(fixed, pointer, 0)
            break
        seen.add(page)
        kept = [each for each in entries if _is_kept(len(body), *entry.unpack(each))]
        pointer = start + len(kept) * entry.size
        fixed[page : pointer + offset.size] = count.pack(len(kept)) + b"".join(kept) + body[end : end + offset.size]
    return bytes(fixed)


def _is_kept(size: int, tag: int, kind: int, number: int, value: int) -> bool:
    """Return whether a TIFF's tag is valid and needed for its pixels, their colours or their orientation."""
    if tag == _ORIENTATION:
        return (kind, number) == (3, 1)
    if tag == _PROFILE:
        return kind in (1, 7) and 4 < number <= MAX_PROFILE_BYTES and value + number <= size
    return tag in _PIXEL_TAGS


#: An entry for EXIF or XMP in an AVIF's list of items.
_AVIF_METADATA = re.compile(rb"(infe[\2\3].{3}(?:..|.{4})\0\0)(?:Exif|mime)", re.DOTALL)


def _avif(body: bytes) -> bytes:
    if body[4:8] != b"ftyp":
        return body
    # Decoders skip an item of an unknown type, and all offsets stay valid.
    return _AVIF_METADATA.sub(rb"\1skip", body)


#: The first bytes of each format, and the function that removes its metadata.
_CUTS: dict[bytes, Callable[[bytes], bytes]] = {
    _PNG: _png,
    b"\xff\xd8\xff": _jpeg,
    b"GIF8": _gif,
    b"RIFF": _webp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"II+\0": _tiff,
    b"MM\0+": _tiff,
    b"\0\0\0": _avif,
}
