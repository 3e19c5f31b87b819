"""Hand-made images that have few bytes but would cost a decoder much memory or time."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from tests.encoding import encoded

_SCAN = b"\xff\xda"


def tiled_tiff(*tiles: tuple[int, int], size: tuple[int, int] = (16, 16), kind: int = 4) -> bytes:
    """Return a grey TIFF of one tile. Its data is truncated.

    Args:
        tiles: the tile's width and height, one pair for each occurrence of the tags.
        size: the size of the image.
        kind: the type of the tags for the tile's sides: 4 is a 32-bit integer, 11 a floating-point number.
    """
    data = zlib.compress(bytes(1000), 9)
    data += bytes(len(data) % 2)
    sides = struct.Struct("<f" if kind == 11 else "<I")
    entries = [
        *((tag, 4, struct.pack("<I", side)) for tag, side in zip((256, 257), size, strict=True)),
        *((tag, 3, struct.pack("<HH", value, 0)) for tag, value in ((258, 8), (259, 8), (262, 1), (277, 1))),
        *((322, kind, sides.pack(width)) for width, _ in tiles),
        *((323, kind, sides.pack(height)) for _, height in tiles),
        *((tag, 4, struct.pack("<I", value)) for tag, value in ((324, 8), (325, len(data)))),
    ]
    directory = b"".join(struct.pack("<HHI", tag, form, 1) + value for tag, form, value in entries)
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(entries)) + directory + bytes(4)
    )


def jpeg(size: tuple[int, int], scans: int, *, before: bytes = b"", data: bool = True) -> bytes:
    """Return a baseline JPEG of three components. Each scan holds one component.

    Args:
        size: width and height.
        scans: the number of scans; the components take turns.
        before: segments to insert before the first scan.
        data: whether the scans hold data; the data is enough for 64 x 64 pixels. A decoder shows missing data as grey.
    """
    grey = encoded(Image.new("L", (64, 64), 90), "JPEG")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(_SCAN)
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    header = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, *reversed(size), 3) + components
    coded = grey[scan + 10 : -2] if data else b""
    parts = (_SCAN + bytes([0, 8, 1, number % 3 + 1, 0, 0, 63, 0]) + coded for number in range(scans))
    return grey[:frame] + header + grey[frame + 13 : scan] + before + b"".join(parts) + b"\xff\xd9"


def gif(*frames: tuple[int, int], disposal: int = 2) -> bytes:
    """Return a GIF with a canvas of 8 x 8 pixels.

    Args:
        frames: the size that each frame declares; each frame has data for 8 x 8 pixels.
        disposal: what is shown after each frame: the background (2) or the previous image (3).
    """
    body = encoded(Image.new("L", (8, 8), 1), "GIF")
    # The image descriptor (10 bytes) follows the screen and its colours; the image data follows the descriptor.
    descriptor = body.index(b"\x2c" + bytes(4))
    control = b"\x21\xf9\x04" + bytes([disposal << 2 | 1, 0, 0, 0, 0])
    made = (control + b"\x2c" + struct.pack("<HHHHB", 0, 0, *size, 0) + body[descriptor + 10 : -1] for size in frames)
    return body[:descriptor] + b"".join(made) + b";"


def small_avif(size: tuple[int, int]) -> bytes:
    """Return an AVIF of this size whose header claims a size of 16 x 16 pixels."""
    body = encoded(Image.new("L", size, 90), "AVIF", speed=10)
    return body.replace(struct.pack(">4sIII", b"ispe", 0, *size), struct.pack(">4sIII", b"ispe", 0, 16, 16))


def pieces(kind: str, count: int) -> bytes:
    """Return a small image with many empty pieces before its data.

    Args:
        kind: ``JPEG``, ``PNG`` or ``GIF``.
        count: the number of empty pieces, which are comments or private chunks.
    """
    body = encoded(Image.new("L", (8, 8), 1), kind)
    piece, at = {
        "JPEG": (b"\xff\xfe\x00\x02", 2),
        "PNG": (struct.pack(">I4sI", 0, b"prVt", zlib.crc32(b"prVt")), 33),
        "GIF": (b"\x21\xfe\x01a\x00", body.find(b"\x2c" + bytes(4))),
    }[kind]
    return body[:at] + piece * count + body[at:]


def metadata() -> dict[str, bytes]:
    """Return images that consist of several megabytes of metadata or of false markers.

    Each byte of the false markers looks like the start of a relevant part.
    """
    size = 4 << 20
    start = encoded(Image.new("L", (8, 8), 1), "GIF")[:-1]
    png = encoded(Image.new("L", (8, 8), 1))
    profile = b"a\0\0" + zlib.compress(bytes(4 << 20), 9)
    profiles = struct.pack(">I4s", len(profile), b"iCCP") + profile + zlib.crc32(b"iCCP" + profile).to_bytes(4)
    return {
        **{f"pieces of a {kind}": pieces(kind, 240_000) for kind in ("JPEG", "PNG", "GIF")},
        "places in a JPEG": b"\xff\xd8\xff\xfe\0\0" + b"\xff\xdb\0\3a" * (size // 5),
        "places in a PNG": png[:33] + bytes(8) + b"IDAT" * (size // 4),
        "places in a GIF": start + b"\x21\xff" + b"\x2c\0\0\0\0\1\0\1\0\0\2" * (size // 11),
        "places in a WebP": b"RIFF\0\0\0\0WEBPJUNK\xff\xff\xff\xff" + b"VP8 " * (size // 4),
        "profiles before the pixels": png[:33] + profiles * 1000 + png[33:],
        "profiles behind the pixels": png[:-12] + profiles * 1000 + png[-12:],
    }
