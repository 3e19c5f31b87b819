"""Identify an image by its header, before any pixels are decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from io import BytesIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from tasks.errors import FetchError, NotAnImageError, TooManyPixelsError, UndecodableError
from tasks.image_options import DEFAULT_FORMATS, ImageFormat
from tasks.image_signatures import begins_as_image
from tasks.images import jpeg_xl
from tasks.images.extras import import_extra
from tasks.images.file_signatures import identify_format
from tasks.images.metadata.removal import retry_without_metadata

#: All formats by Pillow's names, with their file extensions. A run accepts some of these formats.
EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "AVIF": "avif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "ICO": "ico",
    "HEIF": "heic",
    "JPEG2000": "jp2",
    "JXL": "jxl",
    "SVG": "svg",
}
#: The file extensions of all formats, sorted.
FILE_EXTENSIONS = tuple(sorted(set(EXTENSIONS.values())))
#: Only the parsers of these formats are loaded and tried. The parsers of all other formats stay off. An MPO is opened
#: as the JPEG at its start.
_PLUGINS = (
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    GifImagePlugin,
    AvifImagePlugin,
    BmpImagePlugin,
    TiffImagePlugin,
    IcoImagePlugin,
    MpoImagePlugin,
)
_FORMATS = tuple(plugin for plugin in EXTENSIONS if plugin not in ("MPO", "HEIF", "JPEG2000", "JXL", "SVG"))
#: Format names that differ from Pillow's names.
_NAMES = {"MPO": ImageFormat.JPEG, "HEIF": ImageFormat.HEIC}
#: The formats on request, by their names in `identify_format`.
_ON_REQUEST = {
    "a HEIC image": ImageFormat.HEIC,
    "a HEIF image": ImageFormat.HEIC,
    "a JPEG 2000 image": ImageFormat.JPEG2000,
    "a JPEG XL image": ImageFormat.JXL,
}
_GIF = (b"GIF87a", b"GIF89a")
_ICON = b"\0\0\1\0"
#: Limit of a parser's reads: 200,000, plus one read for each 100 bytes of the image. A GIF needs two reads for each
#: block of 255 bytes. A TIFF of 2,000 pages needs forty reads for each page.
_MAX_PIECES, _BYTES_A_PIECE = 200_000, 100
#: Limit of an icon's pixels. It is checked before Pillow opens the icon, because opening an icon decodes it. The
#: decoded image may be larger than the icon's directory says. No real icon is larger than this limit.
_MAX_ICON_PIXELS = 2048 * 2048


class _LimitedReads(BytesIO):
    """The bytes of an image for Pillow's parsers. The number of reads is limited, but no valid image reaches the limit.

    An image of 20 MB may consist of millions of empty chunks, or of comments of one byte. Parsing such an image takes
    up to a gigabyte of memory, and seconds of CPU time. During this parsing, Python's lock (the GIL) is held.
    """

    def __init__(self, body: bytes) -> None:
        """Derive the maximum number of reads from the number of bytes."""
        super().__init__(body)
        self._left = _MAX_PIECES + len(body) // _BYTES_A_PIECE

    def read(self, size: int | None = -1, /) -> bytes:
        """Read the next bytes.

        Raises:
            UndecodableError: too many reads.
        """
        self._left -= 1
        if self._left < 0:
            raise UndecodableError("the image has more pieces than any valid image")
        return super().read(size)


class _Gif(GifImagePlugin.GifImageFile):
    """A GIF whose frames are drawn over the previous frames, as if no frame had a disposal method.

    For a frame's disposal, Pillow allocates an area of the size that the frame announces. Pillow does so while it seeks
    to the frame, before we can check the size. So a few bytes can cost gigabytes. Disposal only changes the pixels of
    later frames. These pixels are never used.
    """

    @property
    def disposal_method(self) -> int:
        """Always 0, the code for "not specified"."""
        return 0

    @disposal_method.setter
    def disposal_method(self, value: int) -> None:
        """Ignore the value."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """The format and size of an image, from its header. Sizes are in pixels.

    Width and height are None if an SVG drawing gives no size.
    """

    format: str
    extension: str
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The image to save: its bytes, its format, its size and, if known, the downloaded image's width and height."""

    body: bytes
    info: ImageInfo
    original: tuple[int | None, int | None]
    #: The downloaded image's EXIF tags, the most useful first; None if they are unknown or not requested.
    exif: Mapping[str, str] | None = None
    #: The perceptual hash of the image to save, if requested.
    phash: str | None = None


def inspect(body: bytes, max_pixels: int, formats: tuple[ImageFormat, ...] = DEFAULT_FORMATS) -> ImageInfo:
    """Return an image's format and size from its header. Only the pixels of icons are decoded.

    Raises: as in `open_image`, for the image without its metadata.
    """

    def read(body: bytes) -> ImageInfo:
        with open_image(body, max_pixels, formats) as image:
            return image_info(image)

    return retry_without_metadata(read, body)


def open_image(body: bytes, max_pixels: int, formats: tuple[ImageFormat, ...] = DEFAULT_FORMATS) -> ImageFile:
    """Return an image with its header parsed. Its pixels are decoded later, when they are accessed.

    Raises:
        NotAnImageError: the bytes have none of the accepted ``formats``.
        UndecodableError: the bytes begin as an image, but the header is broken or has far too many pieces.
        TooManyPixelsError: the header announces more than ``max_pixels`` pixels.
    """
    image: ImageFile
    try:
        if body.startswith(_ICON):
            check_pixels(_icon_size(body), min(max_pixels, _MAX_ICON_PIXELS))
        file, parsers = _LimitedReads(body), _parsers(formats)
        if body.startswith(_GIF):
            image = _Gif(file)
        elif ImageFormat.JXL in formats and body.startswith(jpeg_xl.SIGNATURES):
            image = jpeg_xl.JpegXlFile(file)
        else:
            image = Image.open(file, formats=parsers)
    except UnidentifiedImageError as error:
        raise _not_an_image_error(body, formats, "the body begins as an image, but its header is broken") from error
    except FetchError:
        raise
    except Exception as error:  # a broken header can make Pillow's parsers raise any exception
        raise _not_an_image_error(body, formats, f"the image's header is broken: {error}") from error
    if formats is not DEFAULT_FORMATS and (name := _format_name(image)) not in formats:
        raise NotAnImageError(f"the body is an image of the format {name}, which this run does not save (--formats)")
    check_pixels(image.size, max_pixels)
    if isinstance(image, PngImagePlugin.PngImageFile) and image.png is not None:
        # Profiles after the pixels have no effect, but Pillow would inflate each of them.
        vars(image.png)["chunk_iCCP"] = partial(_skip_chunk, file)
    return image


@cache
def _parsers(formats: tuple[ImageFormat, ...]) -> tuple[str, ...]:
    """Load the parsers of formats on request; return Pillow's names of all formats to try.

    The usual formats are always parsed, so that an error message can name them.

    Raises:
        InternalError: a package is not installed.
    """
    parsers = _FORMATS
    if ImageFormat.HEIC in formats:
        import_extra("pillow_heif", "heic").register_heif_opener()
        parsers = (*parsers, "HEIF")
    if ImageFormat.JXL in formats:
        jpeg_xl.require_decoder()
    if ImageFormat.JPEG2000 in formats:
        import_module("PIL.Jpeg2KImagePlugin")
        parsers = (*parsers, "JPEG2000")
    return parsers


def _format_name(image: ImageFile) -> str:
    kind = image.format or ""
    return _NAMES.get(kind, kind.lower())


def _skip_chunk(file: BytesIO, _position: int, length: int) -> bytes:
    """Read a PNG's chunk without interpreting it."""
    return file.read(length)


def image_info(image: ImageFile) -> ImageInfo:
    """Return the format and size of an opened image."""
    kind = image.format or ""
    return ImageInfo(_format_name(image), EXTENSIONS[kind], *image.size)


def digest(body: bytes) -> str:
    """Return the SHA-256 of the bytes, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Check that an image has at most ``max_pixels`` pixels.

    Raises:
        TooManyPixelsError: the image has more pixels.
    """
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixelsError(f"the image has {width:,}x{height:,} pixels, more than {max_pixels:,}")


def _icon_size(body: bytes) -> tuple[int, int]:
    """Return the size of the image that Pillow selects from an icon. The image's own header gives the size."""
    entry = IcoImagePlugin.IcoFile(_LimitedReads(body)).entry[0]
    file = _LimitedReads(body[entry.offset :])
    try:
        return PngImagePlugin.PngImageFile(file).size
    except SyntaxError:
        file.seek(0)
        width, height = BmpImagePlugin.DibImageFile(file).size
        # The height includes the mask below the image.
        return width, height // 2


def _not_an_image_error(body: bytes, formats: tuple[ImageFormat, ...], why: str) -> NotAnImageError | UndecodableError:
    """Return the error for a body that no parser accepts. ``why`` is the message if the first bytes are an image's."""
    known = identify_format(body)
    if known is not None and _ON_REQUEST.get(known.name) in formats:
        return UndecodableError(why)
    if known is not None and known.is_image:
        return NotAnImageError(f"the body is {known.name}, a format that imagefleet does not save")
    if begins_as_image(body) or (body[4:8] == b"ftyp" and b"avif" in body[8:64]):
        return UndecodableError(why)
    if known is not None:
        return NotAnImageError(f"the body is {known.name}, not an image")
    return NotAnImageError("the body is not an image of a known format")
