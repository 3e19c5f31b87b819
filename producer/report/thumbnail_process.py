"""Make thumbnails in a separate process, because an image may kill the process that decodes it.

Workers check images with their headers by default, so a saved image may still crash a decoder. The process reads images
from stdin and writes a thumbnail for each to stdout, as frames. An empty frame means that there is no thumbnail.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

from producer.report.frames import read_frame, write_frame
from tasks import runtime_tuning
from tasks.deadline import Deadline
from tasks.errors import FetchError
from tasks.image_options import EncodeFormat, ImageFormat, ResizeMode, ResizeOptions
from tasks.images.resize import resize_image

#: The longer side of a thumbnail in pixels. A page shows it at half this size or more, so it is sharp on most screens.
_SIDE = 160
_OPTIONS = ResizeOptions(
    ResizeMode.KEEP_RATIO_LARGEST, _SIDE, quality=55, only_if_bigger=True, encode_format=EncodeFormat.WEBP
)
#: All formats with pixels.
_FORMATS = tuple(item for item in ImageFormat if item is not ImageFormat.SVG)
_MAX_PIXELS = 100_000_000
_MAX_MEMORY_BYTES = 4 * 1024**3
_DECODE_SECONDS = 5.0


def main() -> None:
    """Answer each image on stdin with its thumbnail, until stdin ends."""
    # A system may lack this limit, or have a lower one.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    # If memory is short, the kernel kills this process rather than the producer.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    runtime_tuning.configure_pillow()
    while (body := read_frame(sys.stdin.buffer)) is not None:
        write_frame(sys.stdout.buffer, _thumbnail(body))


def _thumbnail(body: bytes) -> bytes:
    """Return a WebP; empty if the image can't be decoded."""
    try:
        return resize_image(body, _OPTIONS, _MAX_PIXELS, Deadline(_DECODE_SECONDS, _DECODE_SECONDS), _FORMATS).body
    except (FetchError, MemoryError, OSError):
        return b""


if __name__ == "__main__":
    main()
