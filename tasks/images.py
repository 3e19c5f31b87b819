"""Bytes that claim to be an image: what they really are, read from their header, before anything is decoded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
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

from tasks import metadata
from tasks.errors import FetchError, NotAnImage, TooManyPixels, Undecodable
from tasks.file_signatures import identified
from tasks.signatures import begins_as_image

#: Pillow's format names that are accepted, and the extension of a file of that format.
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
}
#: The parsers of these formats alone are loaded, and tried; those of all others stay switched off. An MPO is opened as
#: the JPEG that it begins with.
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
_FORMATS = tuple(name for name in EXTENSIONS if name != "MPO")
_GIF = (b"GIF87a", b"GIF89a")
_ICON = b"\0\0\1\0"
#: Pieces in which a parser may read an image, besides one for so many bytes. A GIF takes two for each block of 255
#: bytes, and a TIFF of 2,000 pages forty for each page.
_MAX_PIECES, _PIECE = 200_000, 100
#: Pillow decodes an icon as it opens it, and an icon may hold more than its directory says. None is larger than this.
_MAX_ICON_PIXELS = 2048 * 2048


class _Pieces(BytesIO):
    """The bytes of an image, for parsers that ask for them piece by piece, and get as many as a sound image has.

    An image of 20 MB that is all comments of one byte, or all empty chunks, has millions. They cost seconds of a core
    with Python's lock held, and up to a gigabyte.
    """

    def __init__(self, body: bytes) -> None:
        """Take all of them."""
        super().__init__(body)
        self._left = _MAX_PIECES + len(body) // _PIECE

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next piece.

        Raises:
            Undecodable: there were too many.
        """
        self._left -= 1
        if self._left < 0:
            raise Undecodable("the image is cut into more pieces than a sound one has")
        return super().read(size)


class _Gif(GifImagePlugin.GifImageFile):
    """A GIF whose frames are drawn one over the other, as if each were to be left as it is.

    What a frame is replaced with, Pillow makes as it goes there, as large as the frame says that it is: gigabytes for a
    few bytes, before anybody could look at its size. It changes how later frames look, and nobody looks at those.
    """

    @property
    def disposal_method(self) -> int:
        """0: nothing is said."""
        return 0

    @disposal_method.setter
    def disposal_method(self, value: int) -> None:
        """Hear nothing."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image's header says of it; sizes in pixels."""

    format: str
    extension: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Picture:
    """What is saved of a download: the bytes, what they are, and the width and height of what came, if known."""

    body: bytes
    info: ImageInfo
    original: tuple[int | None, int | None]


def inspect(body: bytes, max_pixels: int) -> ImageInfo:
    """Return what the header says; no pixel is decoded, but those of an icon.

    Raises: as `opened`, for what is left of the image without its metadata.
    """

    def read(body: bytes) -> ImageInfo:
        with opened(body, max_pixels) as image:
            return described(image)

    return metadata.tolerating(read, body)


def opened(body: bytes, max_pixels: int) -> ImageFile:
    """Return the image as its header describes it; its pixels are decoded when somebody asks for them.

    Raises:
        NotAnImage: the bytes are of no known format.
        Undecodable: they begin as an image, and the header is broken, or in far too many pieces.
        TooManyPixels: the header announces more than ``max_pixels``.
    """
    image: ImageFile
    try:
        if body.startswith(_ICON):
            check_pixels(_icon_size(body), min(max_pixels, _MAX_ICON_PIXELS))
        file = _Pieces(body)
        image = _Gif(file) if body.startswith(_GIF) else Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise _refused(body, "the body begins as an image, and its header is broken") from error
    except FetchError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever a broken header leads them to
        raise _refused(body, f"the image's header is broken: {error}") from error
    check_pixels(image.size, max_pixels)
    if isinstance(image, PngImagePlugin.PngImageFile) and image.png is not None:
        # A profile behind the pixels counts for nothing, and Pillow would inflate each of them.
        vars(image.png)["chunk_iCCP"] = partial(_skip_chunk, file)
    return image


def _skip_chunk(file: BytesIO, _position: int, length: int) -> bytes:
    """Read a PNG's chunk and make nothing of it."""
    return file.read(length)


def described(image: ImageFile) -> ImageInfo:
    """Return what the header says of an opened image."""
    kind = image.format or ""
    return ImageInfo(kind.lower().replace("mpo", "jpeg"), EXTENSIONS[kind], *image.size)


def digest(body: bytes) -> str:
    """Return the SHA-256 of the bytes, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse an image of more pixels than are allowed.

    Raises:
        TooManyPixels: it is one.
    """
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixels(f"the image has {width}x{height} pixels, more than {max_pixels}")


def _icon_size(body: bytes) -> tuple[int, int]:
    """Return the size of the picture that Pillow takes from an icon, by that picture's own header."""
    entry = IcoImagePlugin.IcoFile(_Pieces(body)).entry[0]
    picture = _Pieces(body[entry.offset :])
    try:
        return PngImagePlugin.PngImageFile(picture).size
    except SyntaxError:
        picture.seek(0)
        width, height = BmpImagePlugin.DibImageFile(picture).size
        # Below the picture stands its mask.
        return width, height // 2


def _refused(body: bytes, why: str) -> NotAnImage | Undecodable:
    """Return the error for a body that no parser takes; ``why`` is for one that begins as an accepted image."""
    known = identified(body)
    if known is not None and known.is_image:
        return NotAnImage(f"the body is {known.name}, a format that imagefleet does not save")
    if begins_as_image(body) or (body[4:8] == b"ftyp" and b"avif" in body[8:64]):
        return Undecodable(why)
    if known is not None:
        return NotAnImage(f"the body is {known.name}, not an image")
    return NotAnImage("the body is no image of a known format")
