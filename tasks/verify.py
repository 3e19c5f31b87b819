"""An image decoded to its end, every frame of it, to see that it can be; the pixels are thrown away."""

from __future__ import annotations

from contextlib import ExitStack

from PIL import Image

from tasks import completeness, footprint, images, metadata
from tasks.deadline import Deadline
from tasks.errors import FetchError, TimedOut, TooManyPixels, Undecodable
from tasks.images import ImageInfo
from tasks.room import room

#: Frames of an animation or pages of a file; each may be a few bytes, and cost as much as the whole canvas.
_MAX_FRAMES = 2000


def decoded(body: bytes, max_pixels: int, deadline: Deadline) -> ImageInfo:
    """Return what an image's header says, once all its frames have been decoded.

    Damaged metadata is no fault of the image; of a file of several JPEGs (MPO) the first has to be whole.

    Args:
        body: of any accepted format.
        max_pixels: of each frame, counted before it is decoded.
        deadline: looked at before each frame.

    Raises:
        NotAnImage, TooManyPixels: as `tasks.images.opened`; the latter also for more than 2,000 frames, or as
            `tasks.footprint.of`.
        Undecodable: a frame is broken, or breaks off, or is made to take long.
        TimedOut: the deadline was over before the last frame.
    """
    return metadata.tolerating(
        lambda body: _decoded(body, max_pixels, deadline),
        body,
        lambda body: completeness.completed(body, max_pixels, deadline),
    )


def _decoded(body: bytes, max_pixels: int, deadline: Deadline) -> ImageInfo:
    # An animation keeps its picture from one frame to the next, and the room for it.
    with images.opened(body, max_pixels) as image, ExitStack() as holding:
        held = 0
        info = images.described(image)
        # An eighth of a JPEG's sides: all of its data is read, and a 64th of its pixels is made.
        if image.format == "JPEG" and "progressive" not in image.info:
            image.draft(None, (1, 1))
        try:
            for number in range(_MAX_FRAMES + 1):
                if number and not _went_to(image, number):
                    return info
                if deadline.remaining <= 0:
                    raise TimedOut(f"the deadline was over before frame {number} was decoded")
                # A frame may be larger than the first.
                if (pixels := footprint.of(image, body, max_pixels)) > held:
                    holding.close()
                    holding.enter_context(room.of(pixels, deadline))
                    held = pixels
                image.load()
        except (FetchError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise whatever broken data leads them to
            raise Undecodable(f"the image can't be decoded: {error}") from error
    raise TooManyPixels(f"the image has more than {_MAX_FRAMES} frames")


def _went_to(image: Image.Image, number: int) -> bool:
    """Go to a frame; tell whether there is one."""
    try:
        image.seek(number)
    except EOFError:
        return False
    return True
