"""Prepare a downloaded image for saving, and compare it with a saved file."""

from __future__ import annotations

from dataclasses import replace

from tasks.deadline import Deadline
from tasks.errors import AnimationError, FetchTimeoutError, NotAnImageError, TooManyPixelsError, UndecodableError
from tasks.image_options import DEFAULT_FORMATS, NO_FILTER, ImageFormat
from tasks.images import identify
from tasks.images.decode import decode_all_frames
from tasks.images.exif_tags import read_exif_tags
from tasks.images.filters import check_filters
from tasks.images.identify import EncodedImage, ImageInfo
from tasks.images.perceptual_hash import perceptual_hash
from tasks.images.resize import resize_image
from tasks.images.svg import inspect_svg
from tasks.model import FetchOptions, Verify

#: Formats with a decoder that accepts zeros as pixels.
_TAKE_ZEROS = ("jpeg", "webp", "avif")
#: How a file ends after a power loss if its last bytes never reached the disk.
_ZEROS = bytes(512)


def prepare_image(body: bytes, options: FetchOptions, deadline: Deadline) -> EncodedImage:
    """Return the image to save and the requested facts about it. The image may be unchanged or resized.

    An SVG drawing is always unchanged, and has neither EXIF data nor a perceptual hash.

    The filters judge the downloaded image, so they never apply to a file that an earlier delivery has saved.

    Raises:
        FilteredError: a filter excludes the image.
        NotAnImageError, TooManyPixelsError, UndecodableError, FetchTimeoutError: the image can't be used.
    """
    drawing = _inspect_drawing(body, options, deadline)
    if drawing is not None:
        check_filters(drawing.width, drawing.height, options.filters)
        return EncodedImage(body, drawing, (drawing.width, drawing.height))
    if options.filters != NO_FILTER:
        header = identify.inspect(body, options.max_pixels, options.formats)
        check_filters(header.width, header.height, options.filters)
    if options.resize.encodes:
        image = resize_image(body, options.resize, options.max_pixels, deadline, options.formats)
    elif options.verify is Verify.DECODE:
        info = decode_all_frames(body, options.max_pixels, deadline, options.formats)
        image = EncodedImage(body, info, (info.width, info.height))
    else:
        image = _unchanged_image(body, options)
    return _with_facts(image, body, options, deadline)


def saved_image(body: bytes, options: FetchOptions, deadline: Deadline) -> EncodedImage:
    """Read an image from a saved file; return it with the facts that can be read from the file.

    The original size and the EXIF data of a resized image are unknown.

    Raises: as `inspect` and `inspect_svg`.
    """
    drawing = _inspect_drawing(body, options, deadline)
    if drawing is not None:
        return EncodedImage(body, drawing, (drawing.width, drawing.height))
    image = _unchanged_image(body, options)
    if options.resize.encodes:
        image = replace(image, original=(None, None))
    return _with_facts(image, None if options.resize.encodes else body, options, deadline)


def existing_image(
    existing: bytes, downloaded: EncodedImage, options: FetchOptions, deadline: Deadline
) -> EncodedImage | None:
    """Return the image that another delivery has saved, and its facts; None if the saved image is damaged.

    The saved image differs from this download. It is kept, because its Outcome may have been counted. A damaged image
    is replaced if the new image is complete.
    """
    if not is_whole(existing, options, deadline) and is_whole(downloaded.body, options, deadline):
        return None
    try:
        return saved_image(existing, options, deadline)
    except (NotAnImageError, UndecodableError):
        return None


def is_whole(body: bytes, options: FetchOptions, deadline: Deadline) -> bool:
    """Return whether an image can be decoded to its end; True if the image is too expensive to decode.

    An SVG drawing is parsed to its end. Of an animation in JPEG XL, only the end is checked.

    A worker gives a file its name only after it has written the whole file. But the worker does not sync the file.
    After a power loss, a file may be empty, or have zeros in place of its last bytes. Some decoders turn these zeros
    into pixels.
    """
    try:
        if _inspect_drawing(body, options, deadline) is not None:
            return True
        info = decode_all_frames(body, options.max_pixels, deadline, _saved_formats(options))
    except AnimationError:
        return not body.endswith(_ZEROS)
    except (NotAnImageError, UndecodableError):
        return False
    except (TooManyPixelsError, FetchTimeoutError):
        return True
    return not (info.format in _TAKE_ZEROS and body.endswith(_ZEROS))


def _inspect_drawing(body: bytes, options: FetchOptions, deadline: Deadline) -> ImageInfo | None:
    """Return the format and size of an SVG drawing; None if the body is no drawing, or the run accepts no drawings."""
    return inspect_svg(body, deadline) if ImageFormat.SVG in options.formats else None


def _saved_formats(options: FetchOptions) -> tuple[ImageFormat, ...]:
    """Return the formats of saved files: the formats of encoded images, or the accepted formats."""
    return DEFAULT_FORMATS if options.resize.encodes else options.formats


def _unchanged_image(body: bytes, options: FetchOptions) -> EncodedImage:
    info = identify.inspect(body, options.max_pixels, _saved_formats(options))
    return EncodedImage(body, info, (info.width, info.height))


def _with_facts(
    image: EncodedImage, downloaded: bytes | None, options: FetchOptions, deadline: Deadline
) -> EncodedImage:
    """Add the requested facts to an image. If ``downloaded`` (bytes with the EXIF data) is None, add no EXIF data."""
    if options.extract_exif and downloaded is not None:
        image = replace(image, exif=read_exif_tags(downloaded, options.max_pixels, options.formats))
    if options.phash:
        image = replace(image, phash=perceptual_hash(image.body, options.max_pixels, deadline, _saved_formats(options)))
    return image
