"""Draw the images to download, write thousands of image files, and identify the saved images."""

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

from producer.demo.drawing import draw_image

#: Number of different images. Drawing thousands of images would take minutes. So files share a drawn image, and each
#: file gets a unique comment.
DRAWN = 200
#: The strength of the noise, from 0 to 1. It is about as strong as the noise of a camera's sensor in poor light.
_GRAIN = 0.2


@dataclass(frozen=True)
class ImageKind:
    """A kind of image: its description, a function that draws an image from a number, and its approximate bytes."""

    about: str
    draw: Callable[[int], bytes]
    bytes: int


def _draw_grainy(number: int) -> bytes:
    """Draw an image and add grain. Without grain, hills and sky compress to fewer bytes than a photograph."""
    width, height = 1024, 768
    drawn = Image.open(io.BytesIO(draw_image(number, width, height)))
    dice = random.Random(number)  # noqa: S311  # decoration, not security
    half = (width // 2, height // 2)
    noise = Image.frombytes("L", half, dice.randbytes(half[0] * half[1])).resize(drawn.size, Image.Resampling.BILINEAR)
    grain = noise.point([round((level - 128) * _GRAIN + 128) for level in range(256)])
    encoded = io.BytesIO()
    ImageChops.add(drawn, Image.merge("RGB", [grain] * 3), 1, -128).save(encoded, "jpeg", quality=85)
    return encoded.getvalue()


SMALL = ImageKind("400 x 200, 15 KB", draw_image, 15_000)
LARGE = ImageKind("1024 x 768, 160 KB", _draw_grainy, 160_000)


@dataclass(frozen=True)
class Gallery:
    """Different images in a folder, ``0.jpg`` and so on; ``digests`` has the SHA-256 of each file, in order."""

    folder: Path
    originals: tuple[bytes, ...]
    digests: tuple[bytes, ...]
    size: int

    @property
    def mean_size(self) -> float:
        """Average bytes per image."""
        return self.size / len(self.digests)

    def original(self, number: int) -> bytes:
        """Return the image that was drawn for the file with this number. It lacks the comment."""
        return self.originals[number % len(self.originals)]


def create_gallery(kind: ImageKind, count: int, folder: Path) -> Gallery:
    """Write ``count`` images into a new folder."""
    folder.mkdir(parents=True)
    originals = _draw(kind, min(count, DRAWN))
    digests, size = [], 0
    for number in range(count):
        body = _add_comment(originals[number % len(originals)], f"{number:08d}")
        digests.append(hashlib.sha256(body).digest())
        size += (folder / f"{number}.jpg").write_bytes(body)
    return Gallery(folder, originals, tuple(digests), size)


@cache
def _draw(kind: ImageKind, count: int) -> tuple[bytes, ...]:
    """Draw the first ``count`` images. The result is cached, because several workloads use the same images."""
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(kind.draw, range(count)))


def digests(paths: Iterable[Path]) -> list[bytes]:
    """Return the SHA-256 of each file."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: hashlib.sha256(path.read_bytes()).digest(), paths))


def _add_comment(jpeg: bytes, text: str) -> bytes:
    """Add a comment segment to a JPEG. The segment follows the JFIF header, where every decoder expects segments."""
    offset = 4 + int.from_bytes(jpeg[4:6])
    comment = text.encode()
    return jpeg[:offset] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[offset:]
