"""Compute the sizes of a resized image by the rules of img2dataset. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.image_options import ResizeMode, ResizeOptions

#: Three sets of EXIF orientations: those that swap a stored image's axes, those that mirror the stored x axis, and
#: those that mirror the stored y axis.
SIDEWAYS = frozenset({5, 6, 7, 8})
_MIRRORS_X = frozenset({2, 3, 7, 8})
_MIRRORS_Y = frozenset({3, 4, 6, 7})


@dataclass(frozen=True, slots=True)
class Geometry:
    """How to resize a stored image. All sizes are widths and heights in pixels."""

    #: Size of the whole scaled image.
    scaled: tuple[int, int]
    #: The part of the scaled image to keep: left, top, width and height.
    crop: tuple[int, int, int, int]
    #: Side of the square on which the upright image is centred; None for no border.
    canvas: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Size of the resampled image: the area that is kept, without a border."""
        return self.crop[2:]

    @property
    def result(self) -> tuple[int, int]:
        """Width and height of the resampled image including its border, in the stored orientation."""
        return self.size if self.canvas is None else (self.canvas, self.canvas)

    def box(self, decoded: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Return the part of a decoded image to resample, in pixels of the decoded image.

        Args:
            decoded: the area of the whole image within the decoded image: left, top, right and bottom.
        """
        if self.size == self.scaled:
            return decoded
        left, top, width, height = self.crop
        across, down = (decoded[2] - decoded[0]) / self.scaled[0], (decoded[3] - decoded[1]) / self.scaled[1]
        return left * across, top * down, (left + width) * across, (top + height) * down


def resize_geometry(size: tuple[int, int], options: ResizeOptions, orientation: int = 1) -> Geometry:
    """Return how to resize a stored image of this size and EXIF orientation."""
    largest = options.mode in (ResizeMode.BORDER, ResizeMode.KEEP_RATIO_LARGEST)
    side = max(size) if largest else min(size)
    if options.mode is ResizeMode.NO or (options.only_if_bigger and side <= options.image_size):
        return Geometry(size, (0, 0, *size))
    scaled = scaled_size(size, side, options.image_size)
    if options.mode is ResizeMode.CENTER_CROP:
        return Geometry(scaled, _centre(scaled, options.image_size, orientation))
    return Geometry(scaled, (0, 0, *scaled), options.image_size if options.mode is ResizeMode.BORDER else None)


def scaled_size(size: tuple[int, int], side: int, requested: int) -> tuple[int, int]:
    """Return ``size``, scaled so that ``side`` becomes ``requested`` pixels. No side is shorter than one pixel."""
    width, height = size
    return max(1, round(width * requested / side)), max(1, round(height * requested / side))


def _centre(scaled: tuple[int, int], side: int, orientation: int) -> tuple[int, int, int, int]:
    """Return the central square of a scaled image.

    If the square can't be centred exactly, its offset is rounded down, as in img2dataset, so the square is half a pixel
    nearer to the left or to the top. This rule is for the upright image. So in a mirrored image, the square is half a
    pixel nearer to the opposite side.
    """
    left, top = ((length - side) // 2 for length in scaled)
    if orientation in _MIRRORS_X:
        left = scaled[0] - left - side
    if orientation in _MIRRORS_Y:
        top = scaled[1] - top - side
    return left, top, side, side
