"""Cases of images with damaged metadata or missing pixels.

curl and requests don't check the contents that they save. For the comparison, imagefleet decodes every pixel
(`--verify decode`). imagefleet accepts damaged metadata around complete pixels. It refuses only images with missing
pixels, and gives a reason.
"""

from __future__ import annotations

import re

from tasks.image_options import ResizeMode, ResizeOptions
from tasks.model import FetchOptions, Verify
from tests.answers.case import Case, answer
from tests.damaged_metadata import damaged_metadata
from tests.waiting import PATIENCE

_DECODED = FetchOptions(timeout=2.0, deadline=PATIENCE, retries=0, verify=Verify.DECODE)
_RESIZED = FetchOptions(timeout=2.0, deadline=PATIENCE, retries=0, resize=ResizeOptions(ResizeMode.KEEP_RATIO, 32))
#: The damaged images in the table. The unit tests read all damaged images.
_SHOWN = (
    "PNG: wrong checksum of pHYs",
    "PNG: wrong checksum of iCCP",
    "PNG: wrong checksum of tEXt",
    "PNG: profile of 1.6 MB",
    "PNG: tEXt of 6 MB",
    "PNG: text shorter than declared",
    "PNG: broken EXIF",
    "PNG: no end chunk",
    "JPEG: no end marker",
    "JPEG: no end marker, progressive",
    "JPEG: truncated EXIF",
    "JPEG: truncated Photoshop",
    "JPEG: comment shorter than declared",
    "JPEG: profile of 8 MB",
    "JPEG: missing later image",
    "JPEG: stray bytes after the end",
    "GIF: unterminated comment",
    "GIF: no trailer",
    "WebP: file shorter than declared",
    "WebP: EXIF without its padding",
    "TIFF: all tags",
    "TIFF: next page beyond the file",
    "AVIF with broken EXIF",
    "BMP with a wrong file size",
)
_TITLES = {"TIFF: all tags": "TIFF: ancillary tags beyond the file"}


def _case(name: str, title: str, body: bytes, options: FetchOptions, reason: str = "") -> Case:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())
    return Case(f"image-{slug}", title, answer(body), reason, image=body, options=options)


def _cases() -> list[Case]:
    images = damaged_metadata()
    cases = [_case(name, _TITLES.get(name, name), images[name], _DECODED) for name in _SHOWN]
    without_end = images["JPEG: no end marker"]
    cases.append(_case("resized-no-end-marker", "JPEG: no end marker, and `--resize`", without_end, _RESIZED))
    cases.append(
        _case(
            "truncated",
            "JPEG without its second half",
            without_end[: len(without_end) // 2 + 200],
            _DECODED,
            "Half of the pixels are missing. Without `--verify decode` and `--resize` it is saved",
        )
    )
    return cases


CASES = _cases()
