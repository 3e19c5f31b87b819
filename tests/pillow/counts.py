"""What Pillow's own test images are counted by, and where the numbers are kept."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from tasks.model import Reason

#: How many images of each kind ended how; docs/security.md shows it, and each run has to have it so.
COUNTS = Path(__file__).with_name("counts.json")
#: What is fetched, by which options.
RUNS = {"decode": ("--verify", "decode"), "resize": ("--resize", "keep_ratio")}
#: How an image may end that is not saved: by what it is, and by nothing of ours.
REASONS = (Reason.NOT_IMAGE, Reason.UNDECODABLE, Reason.TOO_MANY_PIXELS, Reason.EMPTY)
#: Kinds of files, by the endings of their names.
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
    """Return the kind of a file by its name, which may be wrong on purpose."""
    ending = PurePosixPath(name).suffix.lower()
    return next((kind for kind, endings in _KINDS.items() if ending in endings), OTHERS)
