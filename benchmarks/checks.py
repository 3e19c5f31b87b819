"""Whether what a way saved is right: every file of every turn is looked at."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageChops, ImageStat

from benchmarks.pictures import Gallery, digests

#: The size to which pictures are shrunk before they are compared, in pixels.
_THUMBNAIL = (16, 12)
#: By how much two thumbnails of one picture may differ, in levels of 256, on average.
_ALIKE = 3.0


class Wrong(RuntimeError):
    """What was saved is not what should have been."""


#: Tells whether a folder holds the first so many pictures of a gallery, and raises `Wrong` if it does not.
Check = Callable[[Path, Gallery, int], None]


def kept(out: Path, gallery: Gallery, count: int) -> None:
    """Hold each picture to be there once, byte for byte; its name does not matter.

    Raises:
        Wrong: one is missing, or there is another.
    """
    found, sent = Counter(digests(_jpegs(out))), Counter(gallery.digests[:count])
    if found != sent:
        raise Wrong(f"{(sent - found).total()} of {count} pictures are missing, {(found - sent).total()} are others")


@dataclass(frozen=True)
class Resized:
    """Holds each picture to be there in this size, and to show what its URL's picture shows.

    A picture is found by the columns ``url`` and ``key`` of the tables that imagefleet and img2dataset both write.
    """

    width: int
    height: int

    def __call__(self, out: Path, gallery: Gallery, count: int) -> None:
        """Check a folder.

        Raises:
            Wrong: a picture is missing, is not whole, has another size, or shows something else.
        """
        saved = dict(_named(out))
        if sorted(saved) != list(range(count)) or sum(1 for _ in _jpegs(out)) != count:
            raise Wrong(f"the tables name {len(saved)} pictures, not {count}, or there are others beside them")
        thumbnails = [_thumbnail(source) for source in gallery.drawn]
        tell = partial(_fault, thumbnails, (self.width, self.height))
        with ThreadPoolExecutor() as pool:
            faults = [fault for fault in pool.map(tell, saved.items()) if fault]
        if faults:
            raise Wrong(f"{len(faults)} of {count} pictures are wrong; the first: {faults[0]}")


def _jpegs(out: Path) -> Iterator[Path]:
    return out.rglob("*.jpg")


def _named(out: Path) -> Iterator[tuple[int, Path]]:
    """Give the number of each picture that was asked for, and the file that a table names for it."""
    for path in out.glob("*.parquet"):
        table = pq.read_table(path, columns=["url", "key"])
        for row in table.to_pylist():
            yield int(Path(row["url"]).stem), out / path.stem / f"{row['key']}.jpg"


def _fault(thumbnails: list[Image.Image], size: tuple[int, int], saved: tuple[int, Path]) -> str:
    """Return what is wrong with a picture, or nothing."""
    number, path = saved
    try:
        body = path.read_bytes()
        with Image.open(io.BytesIO(body)) as image:
            found, kind = image.size, image.format
        thumbnail = _thumbnail(body)
    except OSError as error:
        return f"{path}: {error}"
    if found != size or kind != "JPEG":
        return f"{path}: a {kind} of {found}, not a JPEG of {size}"
    difference = max(ImageStat.Stat(ImageChops.difference(thumbnail, thumbnails[number % len(thumbnails)])).mean)
    return f"{path} shows something else: it is {difference:.1f} levels away" if difference > _ALIKE else ""


def _thumbnail(jpeg: bytes) -> Image.Image:
    with Image.open(io.BytesIO(jpeg)) as image:
        # A quarter of the size is a fraction of the time, and still reads the whole file.
        image.draft("RGB", (_THUMBNAIL[0] * 4, _THUMBNAIL[1] * 4))
        return image.convert("RGB").resize(_THUMBNAIL, Image.Resampling.BOX)
