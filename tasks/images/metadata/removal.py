"""Read an image again without its metadata if the first attempt fails."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeVar

from tasks.errors import TooManyPixelsError, UndecodableError
from tasks.images.metadata import avif, gif, jpeg, png, tiff, webp

_Read = TypeVar("_Read")


def retry_without_metadata(
    read: Callable[[bytes], _Read], body: bytes, complete: Callable[[bytes], bytes] = lambda body: body
) -> _Read:
    """Return the result of ``read`` for an image. If ``read`` rejects it, remove the image's metadata and try again.

    Args:
        read: inspects, decodes or resizes an image.
        body: the image as downloaded.
        complete: prepares the image without metadata for the second call, or raises an error.

    Raises:
        FetchError: ``read`` rejects the image without its metadata too, or there was no metadata to remove.
    """
    if png.inflates_much(body):
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

    The image is unchanged if it has no metadata to remove, or if metadata in this format can't disturb a decoder.
    """
    for beginning, cut in _CUTS.items():
        if body.startswith(beginning):
            try:
                return cut(body)
            except (struct.error, IndexError):  # truncated
                return body
    return body


#: The first bytes of each format, and the function that removes its metadata.
_CUTS: dict[bytes, Callable[[bytes], bytes]] = {
    png.SIGNATURE: png.remove_metadata,
    b"\xff\xd8\xff": jpeg.remove_metadata,
    b"GIF8": gif.remove_metadata,
    b"RIFF": webp.remove_metadata,
    b"II*\0": tiff.remove_metadata,
    b"MM\0*": tiff.remove_metadata,
    b"II+\0": tiff.remove_metadata,
    b"MM\0+": tiff.remove_metadata,
    b"\0\0\0": avif.remove_metadata,
}
