"""The pictures that are downloaded: drawn, written by the thousand, and known again when they are saved."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageChops

from producer.demo.pictures import picture

#: Drawing thousands would take minutes: so many are drawn, and each file gets a comment of its own.
DRAWN = 200
#: How much of the noise shows, from 0 to 1: about as much as a camera's sensor adds in poor light.
_GRAIN = 0.2


@dataclass(frozen=True)
class Pictures:
    """A kind of pictures: what they are, how one is drawn from its number, and about how many bytes it has."""

    about: str
    draw: Callable[[int], bytes]
    bytes: int


def _grained(number: int) -> bytes:
    """Draw a picture and lay grain over it: without, hills and sky are too smooth for the size of a photograph."""
    width, height = 1024, 768
    drawn = Image.open(io.BytesIO(picture(number, width, height)))
    dice = random.Random(number)  # noqa: S311  # it decorates, it guards nothing
    half = (width // 2, height // 2)
    noise = Image.frombytes("L", half, dice.randbytes(half[0] * half[1])).resize(drawn.size, Image.Resampling.BILINEAR)
    grain = noise.point([round((level - 128) * _GRAIN + 128) for level in range(256)])
    encoded = io.BytesIO()
    ImageChops.add(drawn, Image.merge("RGB", [grain] * 3), 1, -128).save(encoded, "jpeg", quality=85)
    return encoded.getvalue()


SMALL = Pictures("400 x 200, 15 KB", picture, 15_000)
LARGE = Pictures("1024 x 768, 160 KB", _grained, 160_000)


@dataclass(frozen=True)
class Gallery:
    """Different pictures in a folder, ``0.jpg`` and so on; ``digests`` are their files' SHA-256, in order."""

    folder: Path
    drawn: tuple[bytes, ...]
    digests: tuple[bytes, ...]
    size: int

    @property
    def mean_size(self) -> float:
        """The bytes of a picture."""
        return self.size / len(self.digests)

    def source(self, number: int) -> bytes:
        """Return the picture that a file shows, by the file's number."""
        return self.drawn[number % len(self.drawn)]


def hang(kind: Pictures, count: int, folder: Path) -> Gallery:
    """Write so many pictures into a new folder."""
    folder.mkdir(parents=True)
    drawn = _drawn(kind, min(count, DRAWN))
    digests, size = [], 0
    for number in range(count):
        body = _commented(drawn[number % len(drawn)], f"{number:08d}")
        digests.append(hashlib.sha256(body).digest())
        size += (folder / f"{number}.jpg").write_bytes(body)
    return Gallery(folder, drawn, tuple(digests), size)


@cache
def _drawn(kind: Pictures, count: int) -> tuple[bytes, ...]:
    """Draw the first so many; several workloads ask for the same."""
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(kind.draw, range(count)))


def digests(paths: Iterable[Path]) -> list[bytes]:
    """Return the SHA-256 of each file."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: hashlib.sha256(path.read_bytes()).digest(), paths))


def _commented(jpeg: bytes, text: str) -> bytes:
    """Return a JPEG file with a comment segment after its JFIF header, where every decoder expects segments."""
    place = 4 + int.from_bytes(jpeg[4:6])
    comment = text.encode()
    return jpeg[:place] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[place:]
