"""Compute an image's perceptual hash, by which users find copies of a picture."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from tasks.deadline import Deadline
from tasks.image_options import DEFAULT_FORMATS, ImageFormat, ResizeMode, ResizeOptions
from tasks.images.extras import import_extra
from tasks.images.resize import resize_image

#: The hash is computed from a small copy, which is upright, in sRGB and on white. The library itself scales the image
#: down to 32 x 32 pixels.
_SMALL = ResizeOptions(ResizeMode.KEEP_RATIO_LARGEST, 128, 100, only_if_bigger=True)


def perceptual_hash(
    body: bytes, max_pixels: int, deadline: Deadline, formats: tuple[ImageFormat, ...] = DEFAULT_FORMATS
) -> str:
    """Return the pHash of an image's first frame: 64 bits as 16 hexadecimal digits.

    The digits are those of ``imagehash.phash``. The hashes of two copies of a picture differ by a few bits at most.

    Raises:
        NotAnImageError, TooManyPixelsError, UndecodableError, FetchTimeoutError: as in `resize_image`.
        InternalError: the library is not installed.
    """
    library = import_extra("imagehash", "phash")
    small = resize_image(body, _SMALL, max_pixels, deadline, formats)
    with Image.open(BytesIO(small.body)) as image:
        return str(library.phash(image))
