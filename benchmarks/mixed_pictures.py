"""Draw pictures of mixed kinds, like the pictures in real lists.

They differ in format, pixel format, orientation and profile, and some pictures are broken.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from PIL import ExifTags, Image, ImageCms

from producer.demo.drawing import draw_image

_SIZES = ((320, 200), (200, 320), (640, 480), (120, 90), (257, 255), (300, 300), (900, 100), (31, 47))


def pictures(count: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield ``count`` pictures, each with a name, a kind and its bytes.

    The kinds take turns, and so do the sizes.
    """
    kinds = list(KINDS.items())
    for number in range(count):
        kind, draw = kinds[number % len(kinds)]
        size = _SIZES[number // len(kinds) % len(_SIZES)]
        yield f"{number:05d}", kind, draw(Image.open(io.BytesIO(draw_image(number, *size, "png"))).convert("RGB"))


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _plain(kind: str, mode: str = "RGB", **options: Any) -> Callable[[Image.Image], bytes]:
    return lambda drawn: _encoded(drawn.convert(mode), kind, **options)


def _oriented(orientation: int) -> Callable[[Image.Image], bytes]:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return _plain("JPEG", exif=exif, quality=90)


def _transparent(mode: str, kind: str) -> Callable[[Image.Image], bytes]:
    def draw(drawn: Image.Image) -> bytes:
        image = drawn.convert("RGBA")
        image.putalpha(Image.linear_gradient("L").resize(drawn.size).point(lambda level: level // 64 * 85))
        return _encoded(image.quantize(64) if mode == "P" else image.convert(mode), kind)

    return draw


def _sixteen_bits(drawn: Image.Image) -> bytes:
    grey = drawn.convert("L")
    deep = Image.new("I;16", grey.size)
    deep.putdata([level * 257 for level in grey.tobytes()])
    return _encoded(deep, "PNG")


def _animated(kind: str) -> Callable[[Image.Image], bytes]:
    return lambda drawn: _encoded(drawn, kind, save_all=True, append_images=[drawn.rotate(180)], duration=100)


def _truncated(kind: str) -> Callable[[Image.Image], bytes]:
    def draw(drawn: Image.Image) -> bytes:
        body = _encoded(drawn, kind)
        return body[: len(body) * 2 // 3]

    return draw


_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": _plain("JPEG", quality=85),
    "progressive JPEG": _plain("JPEG", quality=85, progressive=True),
    "grey JPEG": _plain("JPEG", "L"),
    "JPEG with an sRGB profile": _plain("JPEG", icc_profile=_SRGB, quality=90),
    "PNG": _plain("PNG"),
    "grey PNG": _plain("PNG", "L"),
    "black and white PNG": _plain("PNG", "1"),
    "WebP": _plain("WEBP", quality=90),
    "BMP": _plain("BMP"),
    "TIFF": _plain("TIFF"),
    "PNG with a palette": lambda drawn: _encoded(drawn.quantize(64), "PNG"),
    "transparent PNG": _transparent("RGBA", "PNG"),
    "transparent WebP": _transparent("RGBA", "WEBP"),
    "PNG with a transparent palette": _transparent("P", "PNG"),
    "transparent grey PNG": _transparent("LA", "PNG"),
    **{f"JPEG with EXIF orientation {number}": _oriented(number) for number in range(1, 9)},
    "CMYK JPEG": _plain("JPEG", "CMYK", quality=90),
    "16-bit PNG": _sixteen_bits,
    "GIF": _plain("GIF"),
    "animated GIF": _animated("GIF"),
    "animated WebP": _animated("WEBP"),
    "AVIF": _plain("AVIF", quality=80),
    "ICO": lambda drawn: _encoded(drawn.resize((64, 64)), "ICO", sizes=[(64, 64)]),
    "truncated JPEG": _truncated("JPEG"),
    "truncated PNG": _truncated("PNG"),
    "truncated WebP": _truncated("WEBP"),
    "HTML page": lambda _: b"<!doctype html><html><title>Not found</title></html>",
    "no bytes of an image": lambda drawn: drawn.tobytes()[:2000],
}
