"""Send bytes through a pipe as frames: the number of bytes, in four bytes, and then the bytes themselves.

The producer uses this module without Pillow, which takes a while to import.
"""

from __future__ import annotations

from typing import BinaryIO


def read_frame(stream: BinaryIO) -> bytes | None:
    """Return the bytes of the next frame; None at the end of the stream."""
    header = stream.read(4)
    if len(header) < 4:
        return None
    body = stream.read(size := int.from_bytes(header, "big"))
    return body if len(body) == size else None


def write_frame(stream: BinaryIO, body: bytes) -> None:
    """Write bytes as a frame."""
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()
