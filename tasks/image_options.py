"""The options of a run for its images: how to resize and encode them, and which images to keep. No I/O.

The values are frozen, and JSON can encode them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, Self

from config.limits import Bounds


class ResizeMode(StrEnum):
    """How to resize an image, in img2dataset's terms."""

    #: Keep its size.
    NO = "no"
    #: Scale the larger side to the requested size, and centre the image on a square of this size.
    BORDER = "border"
    #: Scale the smaller side to the requested size, and keep the aspect ratio.
    KEEP_RATIO = "keep_ratio"
    #: Scale the larger side to the requested size, and keep the aspect ratio.
    KEEP_RATIO_LARGEST = "keep_ratio_largest"
    #: Scale the smaller side to the requested size, and cut out the square in the centre.
    CENTER_CROP = "center_crop"


class ImageFormat(StrEnum):
    """A format that a run may accept.

    To add a format, add it here, and add its parser to ``tasks/images/identify.py``. If the parser is an optional
    package, add the package to ``producer/runs/preflight.py``.
    """

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"
    AVIF = "avif"
    BMP = "bmp"
    TIFF = "tiff"
    ICO = "ico"
    HEIC = "heic"
    JPEG2000 = "jpeg2000"
    #: JPEG XL.
    JXL = "jxl"
    #: Saved as downloaded, and never rendered.
    SVG = "svg"


#: The formats that a run accepts only on request. Few programs read their files, and the decoders are less used. An SVG
#: has no pixels, and may contain scripts.
FORMATS_ON_REQUEST = (ImageFormat.HEIC, ImageFormat.JPEG2000, ImageFormat.JXL, ImageFormat.SVG)
DEFAULT_FORMATS = tuple(item for item in ImageFormat if item not in FORMATS_ON_REQUEST)


class EncodeFormat(StrEnum):
    """The format of an encoded image. Each value is also the file's extension."""

    JPG = "jpg"
    PNG = "png"
    WEBP = "webp"
    AVIF = "avif"


class Interpolation(StrEnum):
    """How to compute the pixels of a resized image, in img2dataset's terms."""

    NEAREST = "nearest"
    LINEAR = "linear"
    CUBIC = "cubic"
    LANCZOS = "lanczos"
    AREA = "area"


@dataclass(frozen=True, slots=True)
class QualityScale:
    """The lowest, the highest and the default quality of a format."""

    least: int
    highest: int
    default: int


#: The scale of each format. For PNG, a higher number means a smaller file, but the pixels are always exact.
QUALITY_SCALES = {
    EncodeFormat.JPG: QualityScale(1, 100, 95),
    EncodeFormat.PNG: QualityScale(0, 9, 6),
    EncodeFormat.WEBP: QualityScale(1, 100, 95),
    EncodeFormat.AVIF: QualityScale(1, 100, 80),
}


#: A value of red, green or blue.
ColourValue = Annotated[int, Bounds(0, 255)]


@dataclass(frozen=True, slots=True)
class ResizeOptions:
    """How to resize and encode each image of a run."""

    mode: ResizeMode = ResizeMode.NO
    #: The requested size in pixels, with a meaning that depends on the mode. The mode ``no`` ignores the size.
    image_size: Annotated[int, Bounds(1, 10_000)] = 256
    #: Quality on the scale of the format; None for the scale's default.
    quality: Annotated[int, Bounds(0, 100)] | None = None
    #: Whether images keep their size if they are not larger than the requested size.
    only_if_bigger: bool = False
    #: The format of encoded images. None stands for JPEG, but in the mode ``no``, None means that nothing is encoded.
    encode_format: EncodeFormat | None = None
    #: Whether an image keeps its bytes if it already has the format, size, orientation and colours of the result.
    skip_reencode: bool = False
    #: Interpolation for enlarged images.
    upscale: Interpolation = Interpolation.LANCZOS
    #: Interpolation for reduced images; None for the fastest interpolation without visible loss.
    downscale: Interpolation | None = None
    #: The colour of the border, and of the background of a JPEG's transparent pixels: red, green and blue, from 0 to
    #: 255.
    background: tuple[ColourValue, ColourValue, ColourValue] = (255, 255, 255)

    @property
    def encodes(self) -> bool:
        """Whether images are decoded and encoded again. If not, the images are saved as downloaded."""
        return self.mode is not ResizeMode.NO or self.encode_format is not None

    @property
    def format(self) -> EncodeFormat:
        """The format of encoded images."""
        return self.encode_format or EncodeFormat.JPG

    @property
    def format_quality(self) -> int:
        """The quality of encoded images, on the scale of their format."""
        return QUALITY_SCALES[self.format].default if self.quality is None else self.quality

    def check_quality(self) -> None:
        """Check the quality.

        Raises:
            ValueError: the quality is not on the scale of the format.
        """
        scale = QUALITY_SCALES[self.format]
        if not scale.least <= self.format_quality <= scale.highest:
            raise ValueError(f"for {self.format} it must be from {scale.least} to {scale.highest}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the options from decoded JSON. Fields unknown to this version are dropped."""
        known = known_fields(cls, value)
        for name, kind in (
            ("mode", ResizeMode),
            ("encode_format", EncodeFormat),
            ("upscale", Interpolation),
            ("downscale", Interpolation),
        ):
            if known.get(name) is not None:
                known[name] = kind(known[name])
        if "background" in known:
            known["background"] = tuple(known["background"])
        return cls(**known)


@dataclass(frozen=True, slots=True)
class FilterOptions:
    """Which images to keep, by the size of the downloaded image; None for no limit."""

    #: Minimum length of the smaller side, in pixels.
    min_size: Annotated[int, Bounds(1)] | None = None
    #: Maximum ratio of the larger side to the smaller side.
    max_aspect_ratio: Annotated[float, Bounds(1)] | None = None
    #: Largest area, in pixels.
    max_area: Annotated[int, Bounds(1)] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the options from decoded JSON. Fields unknown to this version are dropped."""
        return cls(**known_fields(cls, value))


NO_FILTER = FilterOptions()


def known_fields(kind: type[Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """From a mapping, return the items that are named like a field of the dataclass."""
    return {name.name: value[name.name] for name in fields(kind) if name.name in value}
