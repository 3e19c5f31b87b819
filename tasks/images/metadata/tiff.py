"""Remove the metadata of a TIFF."""

from __future__ import annotations

import struct

from tasks.images.metadata.limits import MAX_PROFILE_BYTES

#: Maximum number of pages to read in a TIFF. A check of a TIFF decodes the same number of pages.
_MAX_PAGES = 2000
#: The tags of a TIFF that describe its pixels, their position in the file, and their orientation.
_PIXEL_TAGS = frozenset(
    {
        *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
        *(332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532),
    }
)
_WIDTH, _ORIENTATION, _PROFILE = 256, 274, 34675


def remove_metadata(body: bytes) -> bytes:
    """Return a TIFF with only the tags for its pixels, their colours and their orientation."""
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
            # No page begins here. The previous page was the last one, or the offset is wrong.
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
