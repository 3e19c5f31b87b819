"""An image made smaller or larger: decoded once, resampled once, and encoded once as JPEG, in sRGB and upright.

It takes a few milliseconds of a core, nearly all of it in Pillow's C code, and lets a worker's other threads run
meanwhile: Pillow gives up Python's lock (the GIL) while it decodes, converts, transposes and resamples, and while it
encodes into a file descriptor. Into an object of Python's, such as a ``BytesIO``, it encodes with the lock held.
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

from tasks import completeness, footprint, images, metadata
from tasks.deadline import Deadline
from tasks.descriptors import patient
from tasks.errors import FetchError, TooManyPixels, Undecodable
from tasks.images import ImageInfo, Picture
from tasks.model import ResizeOptions
from tasks.room import room

#: The largest side that libjpeg writes.
_MAX_SIDE = 65_500
_END = b"\xff\xd9"

#: From how many times smaller on an image is resampled by Hamming's filter, the fastest of those that show no steps.
#: Where less is left to do it would blur, and the bicubic one has few pixels to look at.
_HAMMING_FROM = 1.25
#: Images that were not decoded at a reduced scale are first averaged down to this many times the size that is wanted.
_REDUCING_GAP = 2.0

#: What an image of each mode is before it is resampled, and again when it lies on white. What is not here does not say
#: what is white: integers of 32 bits, floating-point numbers, Lab.
_BASES = {
    **dict.fromkeys(("1", "L", "LA", "La"), "L"),
    **dict.fromkeys(("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "YCbCr"), "RGB"),
    "CMYK": "CMYK",
}
#: Grey of 16 bits, in either order of its bytes.
_DEEP = "I;16"
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_LYING = frozenset({5, 6, 7, 8})

#: Colour profiles that are remembered.
_PROFILES = 16
#: The greatest difference that makes no difference, of 255: a profile that moves no colour by more is sRGB itself.
_SAME_COLOUR = 2


def resized(body: bytes, options: ResizeOptions, max_pixels: int, deadline: Deadline) -> Picture:
    """Return an image whose smaller side has the size that is wanted, as JPEG; the other side keeps its ratio.

    What is grey stays grey, what is transparent lies on white, of several frames it is the first, and nothing but the
    pixels is kept. The original's width and height are those of the upright image.

    Args:
        body: of any accepted format.
        options: ``image_size`` and ``quality`` count.
        max_pixels: of the original, and of what comes out.
        deadline: bounds the wait for room to decode in, and not the decoding.

    Raises:
        NotAnImage, TooManyPixels: as `tasks.images.opened`; the latter also where JPEG has no room for a side.
        Undecodable: the image is broken, or has no colours that could be shown.
        TimedOut: the deadline was over before there was room.
        OSError: a fault of this machine's: there is no file to encode into.
    """
    return metadata.tolerating(
        lambda body: _resized(body, options, max_pixels, deadline),
        body,
        lambda body: completeness.completed(body, max_pixels, deadline),
    )


def _resized(body: bytes, options: ResizeOptions, max_pixels: int, deadline: Deadline) -> Picture:
    image = images.opened(body, max_pixels)
    original = image.size
    size = scaled(original, options.image_size)
    images.check_pixels(size, max_pixels)
    if max(size) > _MAX_SIDE:
        raise TooManyPixels(f"resized it would have {size[0]}x{size[1]} pixels, and JPEG ends at {_MAX_SIDE} a side")
    drafted = image.draft(None, size)
    box = drafted[1] if drafted else (0, 0, *original)
    held = footprint.of(image, body, max_pixels) + size[0] * size[1]
    with room.of(held, deadline):
        try:
            made = _in_srgb(_resampled(image, size, box))
            # Pillow itself turns a TIFF upright, which has no EXIF block of its own. What XMP says is not looked at, as
            # browsers do not.
            orientation = metadata.orientation(image.info.get("exif", b""))
            if orientation in _UPRIGHT:
                made = made.transpose(_UPRIGHT[orientation])
        except (FetchError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise whatever broken data leads them to
            raise Undecodable(f"the image can't be decoded: {error}") from error
        finally:
            image.close()
        encoded = _encoded(made, options.quality)
    return Picture(
        encoded,
        ImageInfo("jpeg", images.EXTENSIONS["JPEG"], *made.size),
        original[::-1] if orientation in _LYING else original,
    )


def scaled(size: tuple[int, int], smaller_side: int) -> tuple[int, int]:
    """Return the width and height whose smaller one is ``smaller_side`` and whose ratio is that of ``size``."""
    width, height = size
    least = min(size)
    return round(width * smaller_side / least), round(height * smaller_side / least)


def _resampled(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """Decode an image and return what is in the box at another size: grey, RGB or CMYK, and opaque."""
    ready = _ready(image)
    times = min(ready.size) / min(size)
    sampling = Resampling.LANCZOS if times < 1 else Resampling.BICUBIC if times < _HAMMING_FROM else Resampling.HAMMING
    made = ready.resize(size, sampling, box, _REDUCING_GAP)
    if made.mode.startswith(_DEEP):
        # Pillow's own conversion would make white of all that is above 255.
        return made.convert("I").point(lambda value: value / 257 + 0.5).convert("L")
    if made.mode in ("LA", "RGBA"):
        ground = Image.new(_BASES[made.mode], size, "white")
        ground.paste(made, mask=made)
        ground.info = made.info
        return ground
    return made


def _ready(image: Image.Image) -> Image.Image:
    """Decode an image, and return it in a mode whose pixels can be averaged."""
    if image.mode.startswith(_DEEP):
        return image
    base = _BASES.get(image.mode)
    if base is None:
        raise Undecodable(f"the image's pixels are of mode {image.mode}, which does not say what is white")
    mode = f"{base}A" if image.has_transparency_data else base
    return image if image.mode == mode else image.convert(mode)


def _in_srgb(image: Image.Image) -> Image.Image:
    """Return the image in the colours that are meant where nothing is said: readers of data sets ignore profiles."""
    profile = image.info.get("icc_profile")
    transform = _to_srgb(profile, image.mode) if profile and len(profile) <= metadata.MAX_PROFILE_BYTES else None
    if transform is not None:
        return transform.apply(image).convert("L" if image.mode == "L" else "RGB")
    return image.convert("RGB") if image.mode == "CMYK" else image


@lru_cache(maxsize=_PROFILES)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what leads from a profile's colours to sRGB; None if they are sRGB's, or the profile can't be used.

    As in browsers, a broken profile, or one of another mode than the image, counts as none.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            # Threads share the transform, and must not share its cache of one pixel.
            flags=ImageCms.Flags.NOCACHE,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    bands = len(Image.getmodebandnames(mode))
    colours = list(product(range(0, 256, 17 if bands < 4 else 51), repeat=bands))
    probe = Image.frombytes(mode, (len(colours), 1), bytes(level for colour in colours for level in colour))
    difference = ImageChops.difference(probe.convert("RGB"), transform.apply(probe))
    return transform if max(difference.tobytes()) > _SAME_COLOUR else None


def _encoded(image: Image.Image, quality: int) -> bytes:
    # A comment would be carried over from there.
    image.info = {}
    with _sink() as sink:
        image.save(sink, "JPEG", quality=quality)
        sink.seek(0)
        encoded = sink.read()
    # Pillow does not look at how much of a block was written.
    if not encoded.endswith(_END):
        raise OSError("the encoded image was not written whole")
    return encoded


@patient
def _sink() -> IO[bytes]:
    """Return a file to encode into: in memory where the system has such files, else a temporary one."""
    try:
        return os.fdopen(os.memfd_create("imagefleet", os.MFD_CLOEXEC), "w+b", buffering=0)
    except (AttributeError, OSError):
        return tempfile.TemporaryFile(buffering=0)
