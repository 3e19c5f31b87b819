"""Encode an image as JPEG, PNG, WebP or AVIF, without metadata."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from io import BytesIO
from typing import IO

from PIL import Image

from tasks.errors import TooManyPixelsError
from tasks.file_descriptors import retry_when_exhausted
from tasks.image_options import EncodeFormat, ResizeOptions

#: The limit and the name of each format. The limit is the longest side that the format's encoder writes, in pixels. The
#: name is used in messages. PNG has no such limit.
_MAX_SIDES = {
    EncodeFormat.JPG: (65_500, "a JPEG"),
    EncodeFormat.WEBP: (16_383, "a WebP"),
    EncodeFormat.AVIF: (65_535, "an AVIF"),
}
#: The speed of the AVIF encoder, from 0 (slowest) to 10. With Pillow's default (6), encoding a photo takes about ten
#: times as long, and saves 2 to 8 % of the file's size.
_AVIF_SPEED = 9
#: How a complete JPEG ends.
_END = b"\xff\xd9"
#: Files to encode into, kept for the next image. Creating a file and its pages takes a seventh of the time to encode a
#: small image.
_SINKS: deque[IO[bytes]] = deque()
#: Maximum number of kept files. Each uses a file descriptor.
_MAX_SINKS = 4
#: Maximum size of a kept file, in bytes.
_MAX_SINK_BYTES = 1024 * 1024
# Processes that share a file would overwrite each other's images.
os.register_at_fork(after_in_child=_SINKS.clear)


def check_sides(size: tuple[int, int], encode_format: EncodeFormat) -> None:
    """Check that a format can hold an image of this size.

    Raises:
        TooManyPixelsError: a side is too long.
    """
    longest, name = _MAX_SIDES.get(encode_format, (None, ""))
    if longest is not None and max(size) > longest:
        raise TooManyPixelsError(
            f"the resized image would have {size[0]:,}x{size[1]:,} pixels; {name}'s side has at most {longest:,}"
        )


def encode(image: Image.Image, options: ResizeOptions) -> bytes:
    """Encode a grey or RGB image. An alpha channel is kept. For JPEG, the image must have no alpha channel.

    Raises:
        OSError: this machine could not create the file for the encoded image, or could not write to it.
    """
    # Clear the metadata, because Pillow would copy comments and profiles from it.
    image.info = {}
    quality = options.format_quality
    match options.format:
        case EncodeFormat.JPG:
            return _encode_jpeg(image, quality)
        case EncodeFormat.PNG:
            return _encoded(image, "PNG", compress_level=quality)
        case EncodeFormat.WEBP:
            return _encoded(image, "WEBP", quality=quality)
        case EncodeFormat.AVIF:
            # Each slot encodes in its own thread.
            return _encoded(image, "AVIF", quality=quality, speed=_AVIF_SPEED, max_threads=1)


def _encoded(image: Image.Image, name: str, **options: int) -> bytes:
    sink = BytesIO()
    image.save(sink, name, **options)
    return sink.getvalue()


def _encode_jpeg(image: Image.Image, quality: int) -> bytes:
    try:
        sink = _SINKS.pop()
    except IndexError:
        sink = _open_sink()
    try:
        image.save(sink, "JPEG", quality=quality)
        # A kept file may still have bytes of a larger image behind this one.
        size = sink.tell()
        sink.seek(0)
        encoded = sink.read(size)
        # Pillow does not check how much of a block was written.
        if not encoded.endswith(_END):
            raise OSError("the encoded image was only partly written")
        sink.seek(0)
    except BaseException:
        sink.close()
        raise
    if size <= _MAX_SINK_BYTES and len(_SINKS) < _MAX_SINKS:
        _SINKS.append(sink)
    else:
        sink.close()
    return encoded


@retry_when_exhausted
def _open_sink() -> IO[bytes]:
    """Return a file to encode into: in memory if the system supports it, else a temporary file."""
    try:
        return os.fdopen(os.memfd_create("imagefleet", os.MFD_CLOEXEC), "w+b", buffering=0)
    except (AttributeError, OSError):
        return tempfile.TemporaryFile(buffering=0)
