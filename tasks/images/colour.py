"""Convert decoded pixels: to a mode that can be resampled, to sRGB, and onto a background."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from itertools import product

from PIL import Image, ImageChops, ImageCms

from tasks.errors import UndecodableError
from tasks.images.metadata.limits import MAX_PROFILE_BYTES

#: The mode in which an image is resampled, for each mode that an image can have. An alpha channel is added if needed.
#: Modes without a defined white are missing: 32-bit integers, floating-point numbers, Lab.
_BASES = {
    **dict.fromkeys(("1", "L", "LA", "La"), "L"),
    **dict.fromkeys(("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "YCbCr"), "RGB"),
    "CMYK": "CMYK",
}
#: 16-bit grey, in either byte order.
_GREY_16_BIT = "I;16"
#: Number of colour profiles to cache.
_MAX_PROFILES = 16
#: Largest colour difference to ignore, out of 255. A profile counts as sRGB if it changes no colour by more than this
#: difference.
_MAX_COLOUR_DIFFERENCE = 2


def resampling_mode(image: Image.Image) -> str:
    """Return the mode in which an image is resampled: grey, RGB or CMYK, with an alpha channel if it has transparency.

    Raises:
        UndecodableError: the image's mode does not define white.
    """
    if image.mode.startswith(_GREY_16_BIT):
        return image.mode
    base = _BASES.get(image.mode)
    if base is None:
        raise UndecodableError(
            f"the image can't be converted: its pixels are of mode {image.mode}, which does not define white"
        )
    return f"{base}A" if image.has_transparency_data else base


def convert_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; return any other image unchanged."""
    if not image.mode.startswith(_GREY_16_BIT):
        return image
    # Pillow's own conversion would turn all values above 255 into white.
    return image.convert("I").point(lambda value: value / 257 + 0.5).convert("L")


def flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return an image on a background. An image without an alpha channel is returned unchanged."""
    if image.mode not in ("LA", "RGBA"):
        return image
    below = blank(image.mode.removesuffix("A"), image.size, background)
    below.paste(image.convert("RGBA") if below.mode == "RGB" else image, mask=image.getchannel("A"))
    below.info = image.info
    return below


def blank(mode: str, size: tuple[int, int], background: tuple[int, int, int]) -> Image.Image:
    """Return an opaque image in one colour. It is grey only if ``mode`` and the background are grey."""
    is_grey = mode.startswith("L") and len(set(background)) == 1
    alpha = "A" if mode.endswith("A") else ""
    if is_grey:
        return Image.new(f"L{alpha}", size, (background[0], 255) if alpha else background[0])
    return Image.new(f"RGB{alpha}", size, (*background, 255) if alpha else background)


def convert_to_srgb(image: Image.Image) -> Image.Image:
    """Return the image in sRGB, because readers of data sets ignore profiles and treat every image as sRGB."""
    if image.mode in ("LA", "RGBA"):
        base = image.convert(image.mode.removesuffix("A"))
        base.info = image.info
        if (transform := _profile_transform(base)) is None:
            return image
        converted = _apply(transform, base)
        converted.putalpha(image.getchannel("A"))
        return converted
    transform = _profile_transform(image)
    if transform is not None:
        return _apply(transform, image)
    return image.convert("RGB") if image.mode == "CMYK" else image


def is_srgb(image: Image.Image) -> bool:
    """Return whether an image is 8-bit sRGB. A reader of such an image needs no colour management."""
    return image.mode in ("L", "LA", "RGB", "RGBA") and _profile_transform(image) is None


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    return transform.apply(image).convert("L" if image.mode == "L" else "RGB")


def _profile_transform(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from an image's profile to sRGB; None if there is nothing to convert."""
    profile = image.info.get("icc_profile")
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return None
    return _srgb_transform(profile, image.mode.removesuffix("A"))


@lru_cache(maxsize=_MAX_PROFILES)
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile's colours to sRGB; None if the profile is sRGB or unusable.

    A broken profile is ignored, as in browsers. A profile that does not fit the image's mode is ignored, too.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            # Threads share the transform, but must not share its cache of one pixel.
            flags=ImageCms.Flags.NOCACHE,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    bands = len(Image.getmodebandnames(mode))
    colours = list(product(range(0, 256, 17 if bands < 4 else 51), repeat=bands))
    probe = Image.frombytes(mode, (len(colours), 1), bytes(level for colour in colours for level in colour))
    difference = ImageChops.difference(probe.convert("RGB"), transform.apply(probe))
    return transform if max(difference.tobytes()) > _MAX_COLOUR_DIFFERENCE else None
