"""Read and write the orientation in EXIF data."""

from __future__ import annotations

from PIL import ExifTags, Image

#: Maximum size of the EXIF data from which an orientation is read, in bytes. A JPEG's EXIF data has at most 64 KiB.
_MAX_EXIF_BYTES = 1024 * 1024


def orientation(exif: bytes) -> int:
    """Return the orientation in an image's EXIF data, as EXIF numbers it: 1 is upright. Broken EXIF counts as 1."""
    if not exif:
        return 1
    try:
        tags = Image.Exif()
        tags.load(exif)
        return int(tags.get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  # broken EXIF can make Pillow raise any exception
        return 1


def orientation_block(found: bytes) -> bytes:
    """Return an EXIF block with only the orientation of another block. The result is empty if the image is upright."""
    number = orientation(found) if len(found) <= _MAX_EXIF_BYTES else 1
    if number not in range(2, 9):
        return b""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = number
    return tags.tobytes()
