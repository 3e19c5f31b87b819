"""The categories for counting Pillow's own test images, and the file with the counts."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from tasks.model import Reason

#: The number of results of each kind for each kind of file. docs/security.md shows these numbers, and each run must
#: match them.
COUNTS = Path(__file__).with_name("counts.json")
#: The runs, with their options.
RUNS = {"decode": ("--verify", "decode"), "resize": ("--resize", "keep_ratio")}
#: The permitted failure reasons of an image. Each reason is a property of the image, and no reason is an internal
#: error.
REASONS = (Reason.NOT_IMAGE, Reason.UNDECODABLE, Reason.TOO_MANY_PIXELS, Reason.EMPTY)
#: Kinds of files, by their extensions.
_KINDS = {
    "JPEG": (".jpg", ".jpeg", ".mpo"),
    "PNG, APNG": (".png", ".apng"),
    "GIF": (".gif",),
    "WebP": (".webp",),
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "ICO": (".ico",),
}
OTHERS = "all others"
KINDS = (*_KINDS, OTHERS)


def kind_of(name: str) -> str:
    """Return the kind of a file by its name. The name of a test image may be intentionally wrong."""
    ending = PurePosixPath(name).suffix.lower()
    return next((kind for kind, endings in _KINDS.items() if ending in endings), OTHERS)
