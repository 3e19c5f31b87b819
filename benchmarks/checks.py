"""Check every file saved by a way in a turn."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageChops, ImageStat

from benchmarks.pictures import Gallery, digests

#: Size of the compared thumbnails, in pixels.
_THUMBNAIL = (16, 12)
#: The largest average difference between two thumbnails of the same image, in levels from 0 to 255.
_MAX_DIFFERENCE = 3.0


class CheckError(RuntimeError):
    """The saved images are not the expected ones."""


#: A part of an image: left, top, right and bottom, as fractions of its width and height.
Part = tuple[float, float, float, float]
WHOLE = (0.0, 0.0, 1.0, 1.0)
#: Raises `CheckError` unless a folder contains the first COUNT images of a gallery.
Check = Callable[[Path, Gallery, int], None]


def check_unchanged(out: Path, gallery: Gallery, count: int) -> None:
    """Check that each image was saved exactly once, byte for byte, under any name.

    Raises:
        CheckError: an image is missing or unexpected.
    """
    _compare(Counter(digests(_jpegs(out))), gallery, count)


def check_output(out: Path, gallery: Gallery, count: int) -> None:
    """Check that the files, tars or Parquet files have each image exactly once, byte for byte.

    Raises:
        CheckError: an image is missing or unexpected.
    """
    found = Counter(digests(_jpegs(out)))
    found.update(hashlib.sha256(body).digest() for body in _packed_jpegs(out))
    _compare(found, gallery, count)


def _compare(found: Counter[bytes], gallery: Gallery, count: int) -> None:
    sent = Counter(gallery.digests[:count])
    if found != sent:
        missing, unexpected = (sent - found).total(), (found - sent).total()
        raise CheckError(f"{missing} of {count} images are missing, {unexpected} are unexpected")


@dataclass(frozen=True)
class Resized:
    """Checks that each saved image has the given size and the same content as the image at its URL.

    imagefleet and img2dataset both write tables that have the columns ``url`` and ``key``. The check finds an image's
    file by these columns.
    """

    width: int
    height: int
    #: The part of the original image that is kept.
    kept: Part = WHOLE
    #: The part of the saved image that shows this part; the rest is a border.
    shown: Part = WHOLE

    def __call__(self, out: Path, gallery: Gallery, count: int) -> None:
        """Check a folder.

        Raises:
            CheckError: an image is missing or truncated, has another size, or shows something else.
        """
        saved = dict(_listed_images(out))
        if sorted(saved) != list(range(count)) or sum(1 for _ in _jpegs(out)) != count:
            raise CheckError(f"the tables list {len(saved)} images, not {count}, or there are unlisted images")
        thumbnails = [_thumbnail(original, self.kept) for original in gallery.originals]
        find_error = partial(self._find_error, thumbnails)
        with ThreadPoolExecutor() as pool:
            errors = [error for error in pool.map(find_error, saved.items()) if error]
        if errors:
            raise CheckError(f"{len(errors)} of {count} images are wrong; the first: {errors[0]}")

    def _find_error(self, thumbnails: list[Image.Image], saved: tuple[int, Path]) -> str:
        """Return the error of a saved image, or an empty string."""
        number, path = saved
        try:
            body = path.read_bytes()
            with Image.open(io.BytesIO(body)) as image:
                found, kind = image.size, image.format
            thumbnail = _thumbnail(body, self.shown)
        except OSError as error:
            return f"{path}: {error}"
        size = (self.width, self.height)
        if found != size or kind != "JPEG":
            return f"{path}: a {kind} of {found}, not a JPEG of {size}"
        difference = max(ImageStat.Stat(ImageChops.difference(thumbnail, thumbnails[number % len(thumbnails)])).mean)
        if difference > _MAX_DIFFERENCE:
            return f"{path} shows something else: it differs by {difference:.1f} levels"
        return ""


def _jpegs(out: Path) -> Iterator[Path]:
    return out.rglob("*.jpg")


def _packed_jpegs(out: Path) -> Iterator[bytes]:
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and (file := tar.extractfile(member)) is not None:
                    yield file.read()
    for path in out.glob("*/images.parquet"):
        yield from (body.as_py() or b"" for body in pq.read_table(path, columns=["image"])["image"])


def _listed_images(out: Path) -> Iterator[tuple[int, Path]]:
    """Yield the number and the file of each requested image, as listed in the tables."""
    for path in out.glob("*.parquet"):
        table = pq.read_table(path, columns=["url", "key"])
        for row in table.to_pylist():
            yield int(Path(row["url"]).stem), out / path.stem / f"{row['key']}.jpg"


def _thumbnail(jpeg: bytes, part: Part) -> Image.Image:
    with Image.open(io.BytesIO(jpeg)) as image:
        # Decoding at a reduced size still reads the whole file, but takes a fraction of the time.
        image.draft("RGB", (_THUMBNAIL[0] * 4, _THUMBNAIL[1] * 4))
        left, top, right, bottom = part
        box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        return image.convert("RGB").resize(_THUMBNAIL, Image.Resampling.BOX, box)
