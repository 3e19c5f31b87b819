"""Read an image's most useful EXIF tags as short JSON, with the names of img2dataset's column ``exif``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from tasks.image_options import DEFAULT_FORMATS, ImageFormat
from tasks.images import identify

#: Longest value in JSON, in bytes; longer values are left out.
_MAX_VALUE_BYTES = 60
#: Maximum size of the EXIF data in bytes, and maximum count of numbers in one value.
_MAX_EXIF_BYTES, _MAX_NUMBERS = 1024 * 1024, 4
_EXIF, _GPS, _IMAGE = IFD.Exif, IFD.GPSInfo, None
#: The tags, the most useful first. The names are those of ExifRead, which img2dataset uses.
_TAGS: dict[str, tuple[int | None, int]] = {
    "Image Orientation": (_IMAGE, Base.Orientation),
    "EXIF DateTimeOriginal": (_EXIF, Base.DateTimeOriginal),
    "Image Make": (_IMAGE, Base.Make),
    "Image Model": (_IMAGE, Base.Model),
    "GPS GPSLatitudeRef": (_GPS, GPS.GPSLatitudeRef),
    "GPS GPSLatitude": (_GPS, GPS.GPSLatitude),
    "GPS GPSLongitudeRef": (_GPS, GPS.GPSLongitudeRef),
    "GPS GPSLongitude": (_GPS, GPS.GPSLongitude),
    "EXIF ExposureTime": (_EXIF, Base.ExposureTime),
    "EXIF FNumber": (_EXIF, Base.FNumber),
    "EXIF ISOSpeedRatings": (_EXIF, Base.ISOSpeedRatings),
    "EXIF FocalLength": (_EXIF, Base.FocalLength),
    "Image Copyright": (_IMAGE, Base.Copyright),
    "Image Artist": (_IMAGE, Base.Artist),
    "EXIF LensModel": (_EXIF, Base.LensModel),
    "EXIF Flash": (_EXIF, Base.Flash),
    "GPS GPSAltitude": (_GPS, GPS.GPSAltitude),
    "Image ImageDescription": (_IMAGE, Base.ImageDescription),
    "Image DateTime": (_IMAGE, Base.DateTime),
    "Image Software": (_IMAGE, Base.Software),
}


def read_exif_tags(body: bytes, max_pixels: int, formats: tuple[ImageFormat, ...] = DEFAULT_FORMATS) -> dict[str, str]:
    """Return the useful EXIF tags of an image, the most useful first. The result is empty if no EXIF is usable.

    Numbers are written as in ExifRead: ``1/60``, ``[40, 26, 46]``. The orientation is written as its number.
    """
    try:
        with identify.open_image(body, max_pixels, formats) as image:
            if len(image.info.get("exif", b"")) > _MAX_EXIF_BYTES:
                return {}
            exif = image.getexif()
            folders: dict[int | None, Mapping[int, Any]] = {
                _IMAGE: exif,
                _EXIF: exif.get_ifd(_EXIF),
                _GPS: exif.get_ifd(_GPS),
            }
            texts = {name: _as_text(folders[folder].get(tag)) for name, (folder, tag) in _TAGS.items()}
    except Exception:  # noqa: BLE001  # broken EXIF can make Pillow raise any exception
        return {}
    return {name: text for name, text in texts.items() if text and len(json.dumps(text)) <= _MAX_VALUE_BYTES}


def exif_json(tags: Mapping[str, str], limit: int) -> str | None:
    """Return JSON with all tags that fit into a JSON string of ``limit`` bytes; None if no tag fits."""
    kept: dict[str, str] = {}
    for name, text in tags.items():
        # The text becomes a string in the Outcome's JSON, where each quote takes two bytes.
        if len(json.dumps(json.dumps({**kept, name: text}))) <= limit:
            kept[name] = text
    return json.dumps(kept) if kept else None


def _as_text(value: Any) -> str | None:
    """Return a tag's value as ExifRead writes it; None for binary values and for text with control characters."""
    match value:
        case str():
            text = value.strip("\0 \r\n\t")
            return text if text.isprintable() else None
        case IFDRational():
            return str(Fraction(int(value.numerator), int(value.denominator))) if value.denominator else None
        case int() | float():
            return str(value)
        case tuple() if len(value) <= _MAX_NUMBERS:
            texts = [_as_text(item) for item in value]
            return f"[{', '.join(text for text in texts if text is not None)}]"
    return None
