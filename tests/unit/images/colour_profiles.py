"""Build ICC profiles from the numbers in their definitions."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import product

#: The red, green and blue of Adobe RGB (1998) as XYZ under D50, and the gamma of Adobe RGB.
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
ADOBE_GAMMA = 563 / 256
_WHITE = (0.9642, 1.0, 0.8249)


def rgb(primaries: Sequence[Sequence[float]] = ADOBE_RGB, gamma: float = ADOBE_GAMMA) -> bytes:
    """Return the profile of a display that has these primaries and this gamma."""
    tags = {f"{name}XYZ": _xyz(primary) for name, primary in zip("rgb", primaries, strict=True)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", {**tags, **{f"{name}TRC": _curve(gamma) for name in "rgb"}})


def grey(gamma: float) -> bytes:
    """Return a greyscale profile with this gamma."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {"kTRC": _curve(gamma)})


def cmyk() -> bytes:
    """Return the profile of a printer whose black ink is normal.

    The printer's cyan, magenta and yellow inks are clear water.
    """
    straight = bytes(range(256))
    colours = b"".join(bytes((0 if black else 255, 128, 128)) for *_, black in product(range(2), repeat=4))
    matrix = struct.pack(">9i", *(65536 * (index % 4 == 0) for index in range(9)))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + straight * 4 + colours + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {"A2B0": table})


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(kind: bytes, space: bytes, connection: bytes, tags: Mapping[str, bytes]) -> bytes:
    """Return a version 2 profile: a header of 128 bytes, a table of tags, and the tags."""
    name = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)
    text = b"text\0\0\0\0x\0"
    every = {"desc": name, "cprt": text, "wtpt": _xyz(_WHITE), **tags}
    place = 128 + 4 + 12 * len(every)
    table, data = struct.pack(">I", len(every)), b""
    for tag, value in every.items():
        padded = value + bytes(-len(value) % 4)
        table += tag.encode() + struct.pack(">II", place + len(data), len(value))
        data += padded
    size = place + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + _xyz(_WHITE)[8:]
    return header.ljust(128, b"\0") + table + data
