"""Resize an image to an upright sRGB image: decode, resample and encode it once.

Resizing an image takes a few milliseconds of CPU time. Nearly all of this time is spent in Pillow's C code. The
worker's other threads run meanwhile. Pillow releases Python's lock (the GIL) while it decodes, converts, transposes or
resamples an image. It also releases the lock while it encodes to a file descriptor. Pillow holds the lock while it
encodes to a Python object, such as a ``BytesIO``.
"""

from __future__ import annotations

from dataclasses import replace

from PIL import Image
from PIL.Image import Resampling, Transpose
from PIL.ImageFile import ImageFile

from tasks.deadline import Deadline
from tasks.errors import FetchError, UndecodableError
from tasks.image_options import DEFAULT_FORMATS, EncodeFormat, ImageFormat, Interpolation, ResizeOptions
from tasks.images import colour, completeness, identify, jpeg_xl, memory_estimate
from tasks.images.encode import check_sides, encode
from tasks.images.geometry import SIDEWAYS, Geometry, resize_geometry
from tasks.images.identify import EncodedImage, ImageInfo
from tasks.images.metadata import exif
from tasks.images.metadata.removal import retry_without_metadata
from tasks.images.pixel_budget import PIXEL_BUDGET

#: If an image is reduced by at least this factor, the Hamming filter is used, because it is the fastest filter without
#: visible steps. If an image is reduced less, the Hamming filter would blur it. The bicubic filter is used there
#: instead, and has few pixels to read.
_HAMMING_FACTOR = 1.25
#: If an image is not decoded at a reduced scale, it is first averaged down to this multiple of the requested size.
_REDUCING_FACTOR = 2.0
_FILTERS = {
    Interpolation.NEAREST: Resampling.NEAREST,
    Interpolation.LINEAR: Resampling.BILINEAR,
    Interpolation.CUBIC: Resampling.BICUBIC,
    Interpolation.LANCZOS: Resampling.LANCZOS,
    Interpolation.AREA: Resampling.BOX,
}
_TRANSPOSE_BY_ORIENTATION = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


#: Pillow's name of each encoded format. In lower case, it is the name in manifests.
_PILLOW_NAMES = {
    EncodeFormat.JPG: "JPEG",
    EncodeFormat.PNG: "PNG",
    EncodeFormat.WEBP: "WEBP",
    EncodeFormat.AVIF: "AVIF",
}


def resize_image(
    body: bytes,
    options: ResizeOptions,
    max_pixels: int,
    deadline: Deadline,
    formats: tuple[ImageFormat, ...] = DEFAULT_FORMATS,
) -> EncodedImage:
    """Resize and encode an image as the options say, and return an upright image in sRGB.

    Grey stays grey. In a JPEG, transparent areas are flattened onto the background. If there are several frames, only
    the first frame is used. All metadata is dropped. The returned original width and height are those of the upright
    image.

    Args:
        body: an image of any accepted format.
        options: the mode, the size, and how to resample and encode.
        max_pixels: limit for the original and for the result.
        deadline: limits the wait for the pixel budget, but not the decoding.
        formats: the accepted formats of the body.

    Raises:
        NotAnImageError, TooManyPixelsError: as in `open_image`. TooManyPixelsError also occurs if a side of the result
            is too long for the format.
        UndecodableError: the image is broken, or its colours are undefined.
        FetchTimeoutError: the deadline passed before the pixels could be reserved, or before a JPEG XL was decoded.
        OSError: this machine could not create the file for the encoded image, or could not write to it.
    """

    def resize(readable: bytes) -> EncodedImage:
        with identify.open_image(readable, max_pixels, formats) as image:
            jpeg_xl.limit_time(image, deadline)
            result = _resize(image, readable, options, max_pixels, deadline)
        # An image that needs no change keeps all its bytes, even if only some of the bytes can be read.
        return replace(result, body=body) if result.body is readable else result

    return retry_without_metadata(
        resize,
        body,
        lambda body: completeness.complete_jpeg(body, max_pixels, deadline),
    )


def _resize(image: ImageFile, body: bytes, options: ResizeOptions, max_pixels: int, deadline: Deadline) -> EncodedImage:
    original = image.size
    # A TIFF has no EXIF block, but Pillow itself turns a TIFF upright. XMP is ignored, as in browsers.
    orientation = exif.orientation(image.info.get("exif", b""))
    geometry = resize_geometry(original, options, orientation)
    identify.check_pixels(geometry.result, max_pixels)
    check_sides(geometry.result, options.format)
    drafted = image.draft(None, geometry.scaled)
    box = geometry.box(drafted[1] if drafted else (0, 0, *original))
    width, height = geometry.result
    pixels = memory_estimate.estimate_pixels(image, body, max_pixels) + width * height
    upright: Image.Image | None = None
    with PIXEL_BUDGET.reserve(pixels, deadline):
        try:
            # After a draft, the image's own size may be smaller, so the original's size is compared.
            if options.skip_reencode and geometry.result == original and _is_final(image, orientation, options.format):
                return EncodedImage(body, ImageInfo(*_names(options.format), *original), original)
            upright = _draw(image, geometry, box, orientation, options)
        except (FetchError, MemoryError):
            raise
        except Exception as error:  # broken data can make Pillow's decoders raise any exception
            raise UndecodableError(f"the image can't be decoded: {error}") from error
        finally:
            # Its pixels are no longer needed, unless the result is the unchanged image itself.
            if upright is not image:
                image.close()
        encoded = encode(upright, options)
    return EncodedImage(
        encoded,
        ImageInfo(*_names(options.format), *upright.size),
        original[::-1] if orientation in SIDEWAYS else original,
    )


def _names(encode_format: EncodeFormat) -> tuple[str, str]:
    """Return an encoded format's name in manifests, and its file extension."""
    return _PILLOW_NAMES[encode_format].lower(), encode_format.value


def _is_final(image: ImageFile, orientation: int, encode_format: EncodeFormat) -> bool:
    """Return whether an image of the right size already has the format, orientation and colours of the result.

    If so, all its pixels can be decoded.
    """
    if image.format != _PILLOW_NAMES[encode_format] or getattr(image, "n_frames", 1) > 1:
        return False
    if orientation in _TRANSPOSE_BY_ORIENTATION or not colour.is_srgb(image):
        return False
    if image.format == "JPEG" and "progressive" not in image.info:
        # All data of the JPEG is read, but only a 64th of its pixels is produced.
        image.draft(None, (1, 1))
    image.load()
    return True


def _draw(
    image: ImageFile,
    geometry: Geometry,
    box: tuple[float, float, float, float],
    orientation: int,
    options: ResizeOptions,
) -> Image.Image:
    """Decode and resample an image, turn it upright, convert it to sRGB, and add its border."""
    resampled = colour.convert_to_8_bits(_resample(image, geometry, box, options))
    if options.format is EncodeFormat.JPG:
        resampled = colour.flatten(resampled, options.background)
    upright = colour.convert_to_srgb(resampled)
    if orientation in _TRANSPOSE_BY_ORIENTATION:
        upright = upright.transpose(_TRANSPOSE_BY_ORIENTATION[orientation])
    return upright if geometry.canvas is None else _add_border(upright, geometry.canvas, options.background)


def _resample(
    image: Image.Image, geometry: Geometry, box: tuple[float, float, float, float], options: ResizeOptions
) -> Image.Image:
    """Decode an image and return the area in ``box``, scaled to the geometry's size.

    An image that needs no change is not copied.
    """
    # The mode of some images is known only after decoding.
    image.load()
    mode = colour.resampling_mode(image)
    decoded = image if image.mode == mode else image.convert(mode)
    if geometry.size == decoded.size and list(box) == [0, 0, *decoded.size]:
        return decoded
    factor = min(decoded.size) / min(geometry.scaled)
    return decoded.resize(geometry.size, _filter(factor, options), box, _REDUCING_FACTOR)


def _filter(factor: float, options: ResizeOptions) -> Resampling:
    """Return Pillow's filter for an image that is reduced by this factor."""
    if factor < 1:
        return _FILTERS[options.upscale]
    if options.downscale is not None:
        return _FILTERS[options.downscale]
    return Resampling.BICUBIC if factor < _HAMMING_FACTOR else Resampling.HAMMING


def _add_border(image: Image.Image, side: int, background: tuple[int, int, int]) -> Image.Image:
    """Return an image in the centre of a square. If a margin is odd, the image is half a pixel too far left or up."""
    square = colour.blank(image.mode, (side, side), background)
    square.paste(
        image if image.mode == square.mode else image.convert(square.mode),
        ((side - image.width) // 2, (side - image.height) // 2),
    )
    return square
