"""Read JPEG XL images: the header with our own parser, the pixels with the optional package pillow-jxl-plugin.

The package has a parser for Pillow, but that parser decodes all pixels when it opens an image, before any limit can be
checked. So this module uses only the package's decoder, and reads the size itself. The decoder runs in a process of its
own (``jpeg_xl_process.py``), which takes a tenth of a second.

A file is a bare codestream, or a container of boxes with a codestream in one or several of the boxes.

Sources: ISO/IEC 18181-1 (the codestream: its signature, SizeHeader and the start of ImageMetadata) and ISO/IEC 18181-2
(the container: its boxes).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brotli
from PIL import Image
from PIL.ImageFile import ImageFile

from tasks.deadline import Deadline
from tasks.errors import AnimationError, FetchTimeoutError, InternalError, UndecodableError
from tasks.file_descriptors import retry_when_exhausted
from tasks.images.extras import import_extra
from tasks.images.metadata.limits import MAX_PIECES

_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
#: The first bytes of the two forms of a file.
SIGNATURES = (_CODESTREAM, _CONTAINER)
#: The size and the orientation are in the first bytes of the codestream.
_HEADER_BYTES = 64
#: The ratios of width to height that the field ``ratio`` stands for, from 1 on.
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
#: The number of bits of a side of the image, by its selector.
_SIDE_BITS = (9, 13, 18, 30)
#: The same for a side of the preview: as a number of pixels, and as a number of units of 8 pixels.
_PREVIEW_BITS = ((6, 8, 10, 12), (0, 0, 5, 9))
#: The first of the orientations that exchange width and height. Orientations have the numbers of EXIF.
_FIRST_SIDEWAYS = 5
#: The maximum size of the EXIF data in bytes, after decompression.
_MAX_EXIF_BYTES = 1024 * 1024
_TIFF_STARTS = (b"II*\0", b"MM\0*")
#: The memory limit of the decoder: for the program itself, and for each pixel.
_BASE_BYTES, _BYTES_A_PIXEL = 256 * 1024 * 1024, 64
#: The time limits of the decoder: seconds of CPU time, pixels for each further second, and seconds of time. The slowest
#: images, lossless noise, take about a second for each 3 million pixels.
_BASE_SECONDS, _PIXELS_A_SECOND, _MAX_SECONDS = 10, 2_000_000, 60
_PROGRAM = Path(__file__).with_name("jpeg_xl_process.py")
#: The pipes to a process need file descriptors.
_run_process = retry_when_exhausted(subprocess.run)
#: The number of bytes of a sample in Pillow's modes that the decoder returns.
_SAMPLE_BYTES = {"I;16": 2, "F": 4}


class JpegXlFile(ImageFile):
    """A JPEG XL image. Only its header is parsed when it is opened. `load` decodes the pixels.

    The pixels are upright, because the decoder applies the orientation of the codestream. The orientation in the EXIF
    data must be ignored. So the EXIF data is only available from `getexif`.
    """

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        if self.fp is None:
            raise SyntaxError("the file is closed")
        self._body = self.fp.read()
        self._header = read_header(self._body)
        self._size = self._header.size
        # The real mode is known after decoding.
        self._mode = "RGB"
        self._is_decoded = False
        #: The end of the decoding, in addition to the limits of the decoder; see `limit_time`.
        self.deadline: Deadline | None = None

    def load(self) -> Any:
        """Decode the pixels.

        Raises:
            UndecodableError: the pixels are damaged or truncated. `AnimationError`: the image is an animation.
            FetchTimeoutError: the deadline passed.
            InternalError: this worker can't start the decoder.
        """
        if not self._is_decoded:
            if self._header.is_animated:
                raise AnimationError("an animation in JPEG XL can't be decoded, but it can be saved as downloaded")
            decoded, profile = _decode(b"".join(_codestream(self._body)), self.width * self.height, self.deadline)
            if decoded.size != self.size:
                raise UndecodableError("the decoded image has another size than its header says")
            self.im, self._mode, self._is_decoded = decoded.im, decoded.mode, True
            if profile:
                self.info["icc_profile"] = profile
        return super().load()

    def getexif(self) -> Image.Exif:
        """Return the EXIF data of the container."""
        exif = Image.Exif()
        exif.load(_exif_data(self._body))
        return exif


def limit_time(image: ImageFile, deadline: Deadline) -> None:
    """End the decoding of a JPEG XL image at a deadline. Images in other formats are decoded without a time limit."""
    if isinstance(image, JpegXlFile):
        image.deadline = deadline


def require_decoder() -> None:
    """Check that the decoder is installed.

    Raises:
        InternalError: it is not installed.
    """
    import_extra("pillow_jxl", "jxl")


@dataclass(frozen=True, slots=True)
class Header:
    """The facts about an image at the start of its codestream."""

    #: The width and height of the upright image, in pixels.
    size: tuple[int, int]
    is_animated: bool


def read_header(body: bytes) -> Header:
    """Return the facts in an image's header.

    Raises:
        SyntaxError: the header is truncated, or there is no codestream.
    """
    # Of the beginning of the codestream, no part after the first long part is needed.
    bits = _Bits(b"".join(bytes(part[:_HEADER_BYTES]) for part in _codestream(body))[:_HEADER_BYTES])
    if bits.read(16) != int.from_bytes(_CODESTREAM, "little"):
        raise SyntaxError("it has no codestream")
    width, height = _read_size(bits)
    # ImageMetadata begins with two bits: whether all fields have their defaults, and whether there are extra fields.
    if bits.read(1) or not bits.read(1):
        return Header((width, height), is_animated=False)
    orientation = bits.read(3) + 1
    if bits.read(1):  # an intrinsic size, which only suggests how large to show the image
        _read_size(bits)
    if bits.read(1):
        _skip_preview(bits)
    size = (height, width) if orientation >= _FIRST_SIDEWAYS else (width, height)
    return Header(size, is_animated=bool(bits.read(1)))


def _read_size(bits: _Bits) -> tuple[int, int]:
    """Read a SizeHeader: a width and a height."""
    is_small = bits.read(1)
    height = _read_side(bits, is_small)
    ratio = bits.read(3)
    if not ratio:
        return _read_side(bits, is_small), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height


def _read_side(bits: _Bits, is_small: int) -> int:
    """Read a width or height. If it is small, it is a multiple of 8."""
    return 8 * (bits.read(5) + 1) if is_small else bits.read(_SIDE_BITS[bits.read(2)]) + 1


def _skip_preview(bits: _Bits) -> None:
    """Read a PreviewHeader, the size of a preview."""
    lengths = _PREVIEW_BITS[bits.read(1)]
    bits.read(lengths[bits.read(2)])
    if not bits.read(3):  # no ratio
        bits.read(lengths[bits.read(2)])


class _Bits:
    """A reader of bits. The lowest bit of a byte comes first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def read(self, count: int) -> int:
        """Read the next bits.

        Raises:
            SyntaxError: not enough bits are left.
        """
        self._left -= count
        if self._left < 0:
            raise SyntaxError("the header is truncated")
        found = self._value & ((1 << count) - 1)
        self._value >>= count
        return found


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    content: memoryview


def _boxes(body: bytes) -> Iterator[_Box]:
    """Yield the boxes of a container. The last box may be truncated.

    Raises:
        SyntaxError: there are too many boxes, or the length of a box is too small.
    """
    view, place = memoryview(body), 0
    for _ in range(MAX_PIECES):
        if place + 8 > len(body):
            return
        size, header = int.from_bytes(view[place : place + 4]), 8
        if size == 1:
            size, header = int.from_bytes(view[place + 8 : place + 16]), 16
        elif size == 0:  # up to the end of the file
            size = len(body) - place
        if size < header:
            raise SyntaxError("the length of a box is too small")
        yield _Box(bytes(view[place + 4 : place + 8]), view[place + header : place + size])
        place += size
    raise SyntaxError(f"there are more than {MAX_PIECES:,} boxes")


def _codestream(body: bytes) -> Iterator[memoryview]:
    """Yield the parts of the codestream.

    The other boxes are left out, so the decoder never reads metadata, and never makes a JPEG from the image.
    """
    if body.startswith(_CODESTREAM):
        yield memoryview(body)
        return
    for box in _boxes(body):
        if box.kind == b"jxlc":
            yield box.content
            return
        if box.kind == b"jxlp":
            # The content begins with the number of the part. The highest bit marks the last part.
            yield box.content[4:]
            if bytes(box.content[:1]) >= b"\x80":
                return


def _exif_data(body: bytes) -> bytes:
    """Return the EXIF data as a TIFF; empty if there is none, or if it is too large."""
    if body.startswith(_CODESTREAM):
        return b""
    for box in _boxes(body):
        data = bytes(box.content[: _MAX_EXIF_BYTES + 1])
        if box.kind == b"brob" and data[:4] == b"Exif":
            data = brotli.Decompressor().process(data[4:], output_buffer_limit=_MAX_EXIF_BYTES + 1)
        elif box.kind != b"Exif":
            continue
        if len(data) > _MAX_EXIF_BYTES:
            return b""
        # The TIFF begins after an offset of four bytes, which counts from its own end. Some programs omit the offset.
        return data if data[:4] in _TIFF_STARTS else data[4 + int.from_bytes(data[:4]) :]
    return b""


def _decode(codestream: bytes, pixels: int, deadline: Deadline | None) -> tuple[Image.Image, bytes]:
    """Decode a codestream in another process; return the image and its colour profile.

    Args:
        codestream: the codestream.
        pixels: the number of pixels in its header, for the limit of memory.
        deadline: the end of the decoding, if it is before the time limit of the decoder.

    Raises:
        UndecodableError: the decoder rejects the codestream, or needs too much memory or time.
        FetchTimeoutError: the deadline passed.
        InternalError: this worker can't start the process.
    """
    memory, seconds = _BASE_BYTES + _BYTES_A_PIXEL * pixels, _BASE_SECONDS + pixels // _PIXELS_A_SECOND
    timeout = _MAX_SECONDS if deadline is None else min(_MAX_SECONDS, max(deadline.remaining, 0))
    try:
        ended = _run_process(
            (sys.executable, "-P", str(_PROGRAM), str(memory), str(seconds)),
            input=codestream,
            capture_output=True,
            timeout=timeout,
            # Ctrl-C in the terminal does not reach the process, because the worker finishes its current images first.
            start_new_session=True,
            check=False,
        )
    except OSError as error:
        unavailable = InternalError(f"the decoder of JPEG XL could not be started: {error}")
        unavailable.is_worker_fault = True
        raise unavailable from error
    except subprocess.TimeoutExpired:
        if deadline is not None and deadline.is_over:
            raise FetchTimeoutError("the deadline passed before the image was decoded") from None
        raise UndecodableError(f"the image can't be decoded within {_MAX_SECONDS} s") from None
    if ended.returncode != 0:
        raise UndecodableError("the image is damaged, or it needs much more memory or time than its size explains")
    facts, _, rest = ended.stdout.partition(b"\n")
    found = json.loads(facts)
    profile, data = rest[: found["profile"]], rest[found["profile"] :]
    # For floating-point numbers of 16 bits, the decoder already returns 32 bits.
    mode = "F" if found["mode"] == "F;16" else found["mode"]
    size = (found["width"], found["height"])
    samples = size[0] * size[1] * Image.getmodebands(mode)
    if mode == "LA" and len(data) == 2 * samples:
        # The decoder returns 16 bits in native byte order. Pillow has no mode for 16 bits and transparency.
        data = data[int(sys.byteorder == "little") :: 2]
    if len(data) != samples * _SAMPLE_BYTES.get(mode, 1):
        raise UndecodableError(f"the image has a pixel format that can't be read ({mode}, {len(data)} bytes)")
    return Image.frombytes(mode, size, data), profile
