"""The options for the images of a run: resizing, encoding and filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click
import cloup

from config.limits import bounds_of
from producer.cli.parameter_types import int_range
from tasks.image_options import (
    DEFAULT_FORMATS,
    FORMATS_ON_REQUEST,
    QUALITY_SCALES,
    EncodeFormat,
    FilterOptions,
    ImageFormat,
    Interpolation,
    ResizeMode,
    ResizeOptions,
)


class Colour(click.ParamType[tuple[int, int, int]]):
    """A colour, by its name in CSS or as #rrggbb."""

    name = "colour"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        """Return red, green and blue, or fail with a usage error."""
        from PIL import ImageColor

        try:
            # An alpha channel is a fourth value.
            red, green, blue = map(int, ImageColor.getrgb(value))
        except ValueError:
            self.fail(f"{value!r} is not an opaque colour, such as white or #20a0ff", param, ctx)
        return red, green, blue


class Formats(click.ParamType[tuple[ImageFormat, ...]]):
    """Names of image formats, separated by commas; ``default`` stands for the usual formats."""

    name = "formats"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[ImageFormat, ...]:
        """Return the formats in the order of `ImageFormat`, or fail with a usage error."""
        names = [name.strip().lower() for name in value.split(",")]
        known = {"default", *ImageFormat}
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            self.fail(f"{unknown!r} is not one of {', '.join(['default', *ImageFormat])}", param, ctx)
        usual = DEFAULT_FORMATS if "default" in names else ()
        return tuple(item for item in ImageFormat if item in names or item in usual)


@dataclass(frozen=True, slots=True)
class ImageParameters:
    """The values of the options for images; None stands for an option that was not given."""

    resize: str
    image_size: int | None
    only_if_bigger: bool
    encode_format: str | None
    quality: int | None
    skip_reencode: bool
    upscale: str | None
    downscale: str | None
    background: tuple[int, int, int] | None
    min_size: int | None
    max_area: int | None
    max_aspect_ratio: float | None
    formats: tuple[ImageFormat, ...] | None
    extract_exif: bool
    phash: bool

    def resize_options(self) -> ResizeOptions:
        """Return how to resize and encode images.

        Raises:
            click.BadParameter: a value is out of range, or has no effect on the run.
        """
        self._check_effects()
        options = ResizeOptions(
            mode=ResizeMode(self.resize),
            image_size=ResizeOptions().image_size if self.image_size is None else self.image_size,
            quality=self.quality,
            only_if_bigger=self.only_if_bigger,
            encode_format=None if self.encode_format is None else EncodeFormat(self.encode_format),
            skip_reencode=self.skip_reencode,
            upscale=Interpolation(self.upscale or Interpolation.LANCZOS),
            downscale=None if self.downscale is None else Interpolation(self.downscale),
            background=self.background or ResizeOptions().background,
        )
        try:
            options.check_quality()
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--quality") from error
        return options

    def filter_options(self) -> FilterOptions:
        """Return the filters that decide which images to keep."""
        return FilterOptions(self.min_size, self.max_aspect_ratio, self.max_area)

    def _check_effects(self) -> None:
        """Refuse options that have no effect on the run."""
        mode = ResizeMode(self.resize)
        resizing = {
            "--image-size": self.image_size is not None,
            "--only-if-bigger": self.only_if_bigger,
            "--upscale": self.upscale is not None,
            "--downscale": self.downscale is not None,
        }
        encoding = {"--quality": self.quality is not None, "--skip-reencode": self.skip_reencode}
        if mode is ResizeMode.NO:
            _refuse(resizing, "images are not resized; add --resize keep_ratio, or another mode")
            if self.encode_format is None:
                _refuse(encoding, "images are saved as downloaded; add --resize or --encode-format")
        has_background = mode is ResizeMode.BORDER or self.encode_format == EncodeFormat.JPG
        if self.background is not None and not has_background and (mode is ResizeMode.NO or self.encode_format):
            _refuse({"--background": True}, "only JPEGs and borders have one; add --encode-format jpg")


def _refuse(given: dict[str, bool], why: str) -> None:
    for option, is_given in given.items():
        if is_given:
            raise click.BadParameter(why, param_hint=option)


_QUALITIES = "; ".join(
    f"{name}: {scale.least} to {scale.highest}, default {scale.default}" for name, scale in QUALITY_SCALES.items()
)
#: The options, in the order of the help text.
IMAGE_OPTIONS = (
    cloup.option_group(
        "Resizing and encoding",
        click.option(
            "--resize",
            type=click.Choice([mode.value for mode in ResizeMode]),
            default=ResizeMode.NO.value,
            show_default=True,
            help="no: keep each image's size. keep_ratio: scale the smaller side to --image-size. keep_ratio_largest: "
            "scale the larger side. border: scale the larger side, and centre the image on a square. "
            "center_crop: a square from the centre.",
        ),
        click.option(
            "--image-size",
            type=int_range(bounds_of(ResizeOptions, "image_size")),
            help=f"Length of the side that --resize scales, in pixels.  [default: {ResizeOptions().image_size}]",
        ),
        click.option("--only-if-bigger", is_flag=True, help="Smaller images keep their size, without a border."),
        click.option(
            "--encode-format",
            type=click.Choice([name.value for name in EncodeFormat]),
            help="Format of saved images.  [default: jpg if resized, else as downloaded]",
        ),
        click.option(
            "--quality",
            type=int_range(bounds_of(ResizeOptions, "quality")),
            help=f"Quality of encoded images. For png, which is lossless, the compression level. {_QUALITIES}.",
        ),
        click.option(
            "--skip-reencode",
            is_flag=True,
            help="Save an image as downloaded if it already has the right size, format, orientation and colours.",
        ),
        click.option(
            "--upscale",
            type=click.Choice([name.value for name in Interpolation]),
            help=f"Interpolation for enlarged images.  [default: {Interpolation.LANCZOS}]",
        ),
        click.option(
            "--downscale",
            type=click.Choice([name.value for name in Interpolation]),
            help="Interpolation for reduced images.  [default: the fastest one without visible loss]",
        ),
        click.option(
            "--background",
            type=Colour(),
            metavar="COLOUR",
            help="Colour of a border, and of transparent areas in a JPEG: a name, or #rrggbb.  [default: white]",
        ),
    ),
    cloup.option_group(
        "Choosing images",
        click.option(
            "--min-size",
            type=int_range(bounds_of(FilterOptions, "min_size")),
            help="Minimum length of the smaller side of a downloaded image, in pixels.",
        ),
        click.option(
            "--max-area",
            type=int_range(bounds_of(FilterOptions, "max_area")),
            help="Maximum area (width times height) of a downloaded image, in pixels.",
        ),
        click.option(
            "--max-aspect-ratio",
            type=click.FloatRange(bounds_of(FilterOptions, "max_aspect_ratio").least),
            help="Maximum ratio of an image's larger side to its smaller side.",
        ),
        click.option(
            "--formats",
            type=Formats(),
            metavar="NAMES",
            help=f"Formats of images to save, separated by commas. On request: {', '.join(FORMATS_ON_REQUEST)}. For "
            f"example default,heic.  [default: {','.join(DEFAULT_FORMATS)}]",
        ),
    ),
    cloup.option_group(
        "Facts about images",
        click.option(
            "--extract-exif", is_flag=True, help="Record the most useful EXIF tags in the manifests, as JSON."
        ),
        click.option(
            "--phash",
            is_flag=True,
            help="Record the perceptual hash of each saved image in the manifests. Needs the extra phash.",
        ),
    ),
)
