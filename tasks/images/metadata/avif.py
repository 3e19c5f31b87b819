"""Remove the metadata of an AVIF."""

from __future__ import annotations

import re

#: An entry for EXIF or XMP in an AVIF's list of items.
_METADATA_ITEM = re.compile(rb"(infe[\2\3].{3}(?:..|.{4})\0\0)(?:Exif|mime)", re.DOTALL)


def remove_metadata(body: bytes) -> bytes:
    """Return an AVIF with its EXIF and XMP marked as items of an unknown type."""
    if body[4:8] != b"ftyp":
        return body
    # Decoders skip an item of an unknown type, and all offsets stay valid.
    return _METADATA_ITEM.sub(rb"\1skip", body)
