"""Check an image by decoding every frame, and discard the pixels."""

from __future__ import annotations

from contextlib import ExitStack

from PIL import Image

from tasks.deadline import Deadline
from tasks.errors import FetchError, FetchTimeoutError, TooManyPixelsError, UndecodableError
from tasks.image_options import DEFAULT_FORMATS, ImageFormat
from tasks.images import completeness, identify, jpeg_xl, memory_estimate
from tasks.images.identify import ImageInfo
from tasks.images.metadata.removal import retry_without_metadata
from tasks.images.pixel_budget import PIXEL_BUDGET

#: Maximum number of frames in an animation, or of pages in a file. The limit is needed because decoding a frame of a
#: few bytes may cost as much as decoding the whole canvas.
_MAX_FRAMES = 2000


def decode_all_frames(
    body: bytes, max_pixels: int, deadline: Deadline, formats: tuple[ImageFormat, ...] = DEFAULT_FORMATS
) -> ImageInfo:
    """Return an image's format and size after decoding all its frames.

    Damaged metadata does not make an image fail. If a file has several JPEGs (MPO), only the first must be complete.

    Args:
        body: an image of any accepted format.
        max_pixels: limit for each frame, checked before the frame is decoded.
        deadline: checked before each frame.
        formats: the accepted formats.

    Raises:
        NotAnImageError, TooManyPixelsError: as in `open_image`. TooManyPixelsError also occurs as in `estimate_pixels`,
            and if there are more than 2,000 frames.
        UndecodableError: a frame is broken, truncated, or built to decode slowly.
        FetchTimeoutError: the deadline passed before the last frame.
    """
    return retry_without_metadata(
        lambda body: _decode_frames(body, max_pixels, deadline, formats),
        body,
        lambda body: completeness.complete_jpeg(body, max_pixels, deadline),
    )


def _decode_frames(body: bytes, max_pixels: int, deadline: Deadline, formats: tuple[ImageFormat, ...]) -> ImageInfo:
    # Pillow keeps an animation's image in memory from frame to frame, so keep its pixels reserved.
    with identify.open_image(body, max_pixels, formats) as image, ExitStack() as reservation:
        reserved = 0
        jpeg_xl.limit_time(image, deadline)
        info = identify.image_info(image)
        # Decode a JPEG at an eighth of its width and height. In this way, the decoder reads all of the data, but
        # produces only a 64th of the pixels.
        if image.format == "JPEG" and "progressive" not in image.info:
            image.draft(None, (1, 1))
        try:
            for number in range(_MAX_FRAMES + 1):
                if number and not _seek(image, number):
                    return info
                if deadline.remaining <= 0:
                    raise FetchTimeoutError(f"the deadline passed before frame {number} was decoded")
                # A later frame may be larger than the first frame.
                if (pixels := memory_estimate.estimate_pixels(image, body, max_pixels)) > reserved:
                    reservation.close()
                    reservation.enter_context(PIXEL_BUDGET.reserve(pixels, deadline))
                    reserved = pixels
                image.load()
        except (FetchError, MemoryError):
            raise
        except Exception as error:  # broken data can make Pillow's decoders raise any exception
            raise UndecodableError(f"the image can't be decoded: {error}") from error
    raise TooManyPixelsError(f"the image has more than {_MAX_FRAMES:,} frames")


def _seek(image: Image.Image, number: int) -> bool:
    """Seek to a frame; return whether it exists."""
    try:
        image.seek(number)
    except EOFError:
        return False
    return True
