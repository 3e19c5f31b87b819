"""Resize an image to an upright sRGB JPEG: decode, resample and encode it once.

The resize takes a few milliseconds of CPU time, nearly all of it in Pillow's C code. The worker's other threads run
during this C code. Pillow releases Python's lock (the GIL) while it decodes, converts, transposes and resamples an
image, and while it encodes to a file descriptor. Pillow holds the lock while it encodes to a Python object, such as a
``BytesIO``.
"""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from io import BytesIO
from itertools import product
from typing import IO

from PIL import Image, ImageChops, ImageCms
from PIL.Image import Resampling, Transpose

from tasks.deadline import Deadline
from tasks.errors import FetchError, TooManyPixelsError, UndecodableError
from tasks.file_descriptors import retry_when_exhausted
from tasks.images import completeness, identify, memory_estimate
from tasks.images.identify import EncodedImage, ImageInfo
from tasks.images.metadata import exif
from tasks.images.metadata.limits import MAX_PROFILE_BYTES
from tasks.images.metadata.removal import retry_without_metadata
from tasks.images.pixel_budget import PIXEL_BUDGET
from tasks.model import ResizeOptions

#: The longest side that libjpeg writes, in pixels.
_MAX_SIDE = 65_500
_END = b"\xff\xd9"

#: If an image is reduced by at least this factor, the Hamming filter is used, because it is the fastest filter without
#: visible steps. In a smaller reduction, the Hamming filter would blur. For smaller reductions, the bicubic filter is
#: used, which then has few pixels to read.
_HAMMING_FACTOR = 1.25
#: If an image is not decoded at a reduced scale, it is first averaged down to this multiple of the requested size.
_REDUCING_FACTOR = 2.0

#: For each image mode, the mode in which the image is resampled. An alpha channel is added if needed, and is removed
#: when the image is flattened onto white. Modes without a defined white are missing: 32-bit integers, floating-point
#: numbers, Lab.
_BASES = {
    **dict.fromkeys(("1", "L", "LA", "La"), "L"),
    **dict.fromkeys(("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "YCbCr"), "RGB"),
    "CMYK": "CMYK",
}
#: 16-bit grey, in either byte order.
_GREY_16_BIT = "I;16"
_TRANSPOSE_BY_ORIENTATION = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_TURNED_SIDEWAYS = frozenset({5, 6, 7, 8})

#: Number of colour profiles to cache.
_MAX_PROFILES = 16
#: Largest colour difference to ignore, out of 255. A profile counts as sRGB if it changes no colour by more than this
#: difference.
_MAX_COLOUR_DIFFERENCE = 2


def resize_image(body: bytes, options: ResizeOptions, max_pixels: int, deadline: Deadline) -> EncodedImage:
    """Return the image as a JPEG, scaled so that its smaller side has the requested size.

    The aspect ratio is kept, and grey stays grey. Transparent areas are flattened onto white. If the image has several
    frames, only the first is used. All metadata is dropped. The returned original width and height are those of the
    upright image.

    Args:
        body: an image of any accepted format.
        options: ``image_size`` and ``quality`` are used.
        max_pixels: limit for the original and for the result.
        deadline: limits the wait for the pixel budget, but not the decoding.

    Raises:
        NotAnImageError, TooManyPixelsError: as `open_image`. TooManyPixelsError also if a side is too long for JPEG.
        UndecodableError: the image is broken, or its colours are undefined.
        FetchTimeoutError: the deadline passed before the pixels could be reserved.
        OSError: this machine could not create or write the file to encode into.
    """
    return retry_without_metadata(
        lambda body: _resize(body, options, max_pixels, deadline),
        body,
        lambda body: completeness.complete_jpeg(body, max_pixels, deadline),
    )


def _resize(body: bytes, options: ResizeOptions, max_pixels: int, deadline: Deadline) -> EncodedImage:
    image = identify.open_image(body, max_pixels)
    original = image.size
    size = scaled_size(original, options.image_size)
    identify.check_pixels(size, max_pixels)
    if max(size) > _MAX_SIDE:
        raise TooManyPixelsError(
            f"the resized image would have {size[0]}x{size[1]} pixels; a JPEG's side has at most {_MAX_SIDE}"
        )
    drafted = image.draft(None, size)
    box = drafted[1] if drafted else (0, 0, *original)
    pixels = memory_estimate.estimate_pixels(image, body, max_pixels) + size[0] * size[1]
    with PIXEL_BUDGET.reserve(pixels, deadline):
        try:
            upright = _convert_to_srgb(_resample(image, size, box))
            # A TIFF has no EXIF block; Pillow itself turns a TIFF upright. XMP is ignored, as in browsers.
            orientation = exif.orientation(image.info.get("exif", b""))
            if orientation in _TRANSPOSE_BY_ORIENTATION:
                upright = upright.transpose(_TRANSPOSE_BY_ORIENTATION[orientation])
        except (FetchError, MemoryError):
            raise
        except Exception as error:  # broken data can make Pillow's decoders raise any exception
            raise UndecodableError(f"the image can't be decoded: {error}") from error
        finally:
            image.close()
        encoded = _encode_jpeg(upright, options.quality)
    return EncodedImage(
        encoded,
        ImageInfo("jpeg", identify.EXTENSIONS["JPEG"], *upright.size),
        original[::-1] if orientation in _TURNED_SIDEWAYS else original,
    )


def scaled_size(size: tuple[int, int], smaller_side: int) -> tuple[int, int]:
    """Return ``size``, scaled so that its smaller side is ``smaller_side`` pixels; the aspect ratio is kept."""
    width, height = size
    least = min(size)
    return round(width * smaller_side / least), round(height * smaller_side / least)


def _resample(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """Decode an image and return the area in ``box``, scaled to ``size``: opaque, in grey, RGB or CMYK."""
    decoded = _decode(image)
    factor = min(decoded.size) / min(size)
    sampling = (
        Resampling.LANCZOS if factor < 1 else Resampling.BICUBIC if factor < _HAMMING_FACTOR else Resampling.HAMMING
    )
    resampled = decoded.resize(size, sampling, box, _REDUCING_FACTOR)
    if resampled.mode.startswith(_GREY_16_BIT):
        # Pillow's own conversion would turn all values above 255 into white.
        return resampled.convert("I").point(lambda value: value / 257 + 0.5).convert("L")
    if resampled.mode in ("LA", "RGBA"):
        background = Image.new(_BASES[resampled.mode], size, "white")
        background.paste(resampled, mask=resampled)
        background.info = resampled.info
        return background
    return resampled


def _decode(image: Image.Image) -> Image.Image:
    """Decode an image and return it in a mode with pixels that can be averaged."""
    if image.mode.startswith(_GREY_16_BIT):
        return image
    base = _BASES.get(image.mode)
    if base is None:
        raise UndecodableError(
            f"the image can't be converted: its pixels are of mode {image.mode}, which does not define white"
        )
    mode = f"{base}A" if image.has_transparency_data else base
    return image if image.mode == mode else image.convert(mode)


def _convert_to_srgb(image: Image.Image) -> Image.Image:
    """Return the image in sRGB, because readers of data sets ignore profiles and treat every image as sRGB."""
    profile = image.info.get("icc_profile")
    transform = _srgb_transform(profile, image.mode) if profile and len(profile) <= MAX_PROFILE_BYTES else None
    if transform is not None:
        return transform.apply(image).convert("L" if image.mode == "L" else "RGB")
    return image.convert("RGB") if image.mode == "CMYK" else image


@lru_cache(maxsize=_MAX_PROFILES)
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile's colours to sRGB; None if they are sRGB, or if the profile is unusable.

    A broken profile is ignored, as in browsers. A profile for a different mode than the image has is ignored too.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            # Threads share the transform, but must not share its cache of one pixel.
            flags=ImageCms.Flags.NOCACHE,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    bands = len(Image.getmodebandnames(mode))
    colours = list(product(range(0, 256, 17 if bands < 4 else 51), repeat=bands))
    probe = Image.frombytes(mode, (len(colours), 1), bytes(level for colour in colours for level in colour))
    difference = ImageChops.difference(probe.convert("RGB"), transform.apply(probe))
    return transform if max(difference.tobytes()) > _MAX_COLOUR_DIFFERENCE else None


def _encode_jpeg(image: Image.Image, quality: int) -> bytes:
    # Clear the metadata, because Pillow would copy a comment from it.
    image.info = {}
    with _open_sink() as sink:
        image.save(sink, "JPEG", quality=quality)
        sink.seek(0)
        encoded = sink.read()
    # Pillow does not check how much of a block was written.
    if not encoded.endswith(_END):
        raise OSError("the encoded image was only partly written")
    return encoded


@retry_when_exhausted
def _open_sink() -> IO[bytes]:
    """Return a file to encode into: in memory if the system supports it, else a temporary file."""
    try:
        return os.fdopen(os.memfd_create("imagefleet", os.MFD_CLOEXEC), "w+b", buffering=0)
    except (AttributeError, OSError):
        return tempfile.TemporaryFile(buffering=0)
