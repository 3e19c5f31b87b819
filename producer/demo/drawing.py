"""Draw an image from its number: hills under a sky. The same number always gives the same bytes.

Positions are in units of the image's height. So a number shows the same scene at any size.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

__all__ = ["FORMATS", "LARGEST_SIDE", "draw_image"]

LARGEST_SIDE = 4096
"""The largest width and the largest height, in pixels."""

_ENCODING: dict[str, dict[str, Any]] = {
    "jpeg": {"quality": 94, "subsampling": 0},
    "png": {"compress_level": 3},
    "webp": {"quality": 85, "method": 1},
    "gif": {"optimize": False},
}
"""The arguments of Pillow's `save` for each format: small files of about 15 KB, encoded quickly."""

FORMATS = tuple(_ENCODING)
"""The formats of an image, by Pillow's names in lower case."""

Colour = tuple[int, int, int]
Point = tuple[float, float]
Ridge = Callable[[float], float]


class _Mood(NamedTuple):
    """The colours of a time of day."""

    zenith: Colour
    horizon: Colour
    sun: Colour
    far: Colour
    near: Colour
    stars: bool = False


_MOODS = (
    _Mood((58, 110, 180), (255, 214, 170), (255, 244, 214), (150, 165, 195), (28, 52, 72)),  # morning
    _Mood((64, 46, 110), (255, 150, 96), (255, 226, 160), (176, 98, 128), (38, 22, 52)),  # sunset
    _Mood((84, 164, 214), (226, 243, 240), (255, 253, 235), (140, 186, 190), (30, 84, 78)),  # noon
    _Mood((14, 20, 52), (72, 92, 150), (238, 240, 226), (58, 74, 122), (8, 12, 30), stars=True),  # night
    _Mood((240, 138, 120), (255, 226, 178), (255, 250, 226), (218, 146, 128), (92, 42, 62)),  # coral
    _Mood((70, 130, 140), (238, 226, 176), (255, 246, 206), (140, 172, 140), (24, 58, 50)),  # meadow
    _Mood((126, 104, 178), (250, 200, 210), (255, 238, 226), (166, 140, 190), (52, 38, 88)),  # lavender
    _Mood((206, 108, 60), (252, 214, 132), (255, 246, 204), (204, 128, 80), (84, 34, 26)),  # desert
    _Mood((10, 38, 58), (74, 178, 156), (226, 250, 236), (34, 104, 112), (4, 22, 34), stars=True),  # northern
    _Mood((120, 150, 172), (234, 232, 226), (255, 252, 244), (160, 176, 186), (44, 60, 74)),  # mist
    _Mood((34, 60, 128), (246, 168, 178), (255, 232, 216), (118, 110, 170), (22, 26, 66)),  # blue hour
    _Mood((92, 156, 190), (255, 232, 190), (255, 250, 228), (190, 158, 110), (96, 52, 24)),  # autumn
)


def draw_image(index: int, width: int = 400, height: int = 200, format: str = "jpeg") -> bytes:
    """Draw image number `index` and encode it.

    Args:
        index: any integer from 0. Each number has its own scene.
        width: pixels, 1 to 4096.
        height: pixels, 1 to 4096.
        format: one of `FORMATS`.

    Returns:
        A complete image file. The same arguments give the same bytes with the same version of Pillow.

    Raises:
        ValueError: an argument is out of its range.
    """
    if index < 0:
        raise ValueError(f"index must be 0 or more, not {index}")
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise ValueError(f"width and height must be 1 to {LARGEST_SIDE}, not {width} x {height}")
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    image = _scene(index, width, height)
    if format == "gif":
        palette = image.quantize(128, Image.Quantize.FASTOCTREE)
        image = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    encoded = io.BytesIO()
    image.save(encoded, format, **_ENCODING[format])
    return encoded.getvalue()


def _scene(index: int, width: int, height: int) -> Image.Image:
    """Return the scene of `index` as an RGB image of this size in pixels."""
    # Python hashes a string seed with SHA-512. So similar numbers give unrelated scenes, and no number is too large.
    dice = random.Random(str(index))  # noqa: S311 - only decoration
    mood = _tinted(_MOODS[index % len(_MOODS)], dice)
    canvas = _gradient((width, height), mood.zenith, mood.horizon, depth=0.75)
    if mood.stars:
        _draw_stars(canvas, dice)
    _draw_sun(canvas, mood, dice)
    layers = dice.randint(4, 6)
    for layer in range(layers):
        _draw_layer(canvas, mood, layer / (layers - 1), dice)
    return canvas


class _Stencil:
    """A stencil for a canvas. Its resolution is higher than that of the canvas, so that edges are smooth."""

    def __init__(self, canvas: Image.Image) -> None:
        self._canvas = canvas
        self._fineness = 2 if canvas.width * canvas.height <= 4_000_000 else 1
        self._mask = Image.new("L", (canvas.width * self._fineness, canvas.height * self._fineness))
        self._cut = ImageDraw.Draw(self._mask)

    def disc(self, x: float, y: float, radius: float, opacity: int = 255) -> None:
        unit = self._mask.height
        self._cut.ellipse([unit * at for at in (x - radius, y - radius, x + radius, y + radius)], opacity)

    def polygon(self, corners: Iterable[Point]) -> None:
        unit = self._mask.height
        self._cut.polygon([(x * unit, y * unit) for x, y in corners], 255)

    def paint(self, paint: Colour | Image.Image, top: int = 0) -> None:
        """Paint the shape, from row `top` down."""
        mask = self._mask.reduce(self._fineness) if self._fineness > 1 else self._mask
        self._canvas.paste(paint, (0, top), mask.crop((0, top, mask.width, mask.height)))


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return `first` mixed with a `share` (0 to 1) of `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _tinted(mood: _Mood, dice: random.Random) -> _Mood:
    """Return `mood` with a little of a random colour mixed in, so that each image differs."""
    tint = (dice.randrange(256), dice.randrange(256), dice.randrange(256))
    share = dice.uniform(0.0, 0.12)
    return mood._replace(
        zenith=_mix(mood.zenith, tint, share),
        horizon=_mix(mood.horizon, tint, share / 2),
        far=_mix(mood.far, tint, share),
        near=_mix(mood.near, tint, share / 2),
    )


def _gradient(size: tuple[int, int], top: Colour, bottom: Colour, depth: float = 1.0) -> Image.Image:
    """Return an RGB gradient from `top` to `bottom`.

    The gradient ends at `depth`, which is a share of the image's height.
    """
    width, height = size
    # Mix only 33 colours here. Pillow interpolates between these colours, which is many times faster than mixing more.
    column = Image.new("RGB", (1, 33))
    column.putdata([_mix(top, bottom, min(1.0, row / 32 / depth)) for row in range(33)])
    column = column.resize((1, height), Image.Resampling.BILINEAR)
    return column.resize((width, height), Image.Resampling.NEAREST)


def _draw_stars(canvas: Image.Image, dice: random.Random) -> None:
    stencil = _Stencil(canvas)
    for _ in range(dice.randint(50, 90)):
        x, y = dice.random() * canvas.width / canvas.height, dice.random() ** 1.5 * 0.6
        stencil.disc(x, y, dice.uniform(0.0015, 0.005), opacity=dice.randint(120, 255))
    stencil.paint((255, 255, 255))


def _draw_sun(canvas: Image.Image, mood: _Mood, dice: random.Random) -> None:
    radius = dice.uniform(0.06, 0.13)
    x, y = dice.uniform(0.15, 0.85) * canvas.width / canvas.height, dice.uniform(0.18, 0.5)
    _draw_glow(canvas, mood.sun, (x * canvas.height, y * canvas.height), radius * 6 * canvas.height)
    stencil = _Stencil(canvas)
    stencil.disc(x, y, radius)
    stencil.paint(mood.sun)


def _draw_glow(canvas: Image.Image, colour: Colour, centre: Point, radius: float) -> None:
    """Brighten the area around `centre`; `centre` and `radius` are in pixels."""
    # Pillow's radial gradient goes from 0 in the centre to 181 at the middle of each edge. Inverted and squared,
    # it is a glow that fades out before the edge.
    glow = Image.radial_gradient("L").point([round(max(0.0, 1 - v / 181) ** 2 * 160) for v in range(256)])
    x, y = centre[0] - radius, centre[1] - radius
    left, top = max(0, math.ceil(x)), max(0, math.ceil(y))
    right = min(canvas.width, math.floor(x + 2 * radius))
    bottom = min(canvas.height, math.floor(y + 2 * radius))
    if right <= left or bottom <= top:
        return
    # Enlarge only the visible part, because the whole glow of a tall, narrow image would have 160 megapixels.
    shrink = glow.width / (2 * radius)
    shown = ((left - x) * shrink, (top - y) * shrink, (right - x) * shrink, (bottom - y) * shrink)
    mask = glow.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=shown)
    canvas.paste(colour, (left, top), mask)


def _draw_layer(canvas: Image.Image, mood: _Mood, nearness: float, dice: random.Random) -> None:
    """Draw one range of hills; `nearness` is 0 for the farthest and 1 for the nearest."""
    right = canvas.width / canvas.height
    rough = nearness < 0.5
    ridge = _ridge(0.52 + 0.36 * nearness, 0.17 - 0.08 * nearness, rough, dice)
    stretches = 160 if rough else 80
    line = [(x, ridge(x)) for x in (right * n / stretches for n in range(stretches + 1))]
    stencil = _Stencil(canvas)
    stencil.polygon([(0.0, 1.0), *line, (right, 1.0)])
    if nearness > 0.6:
        _draw_trees(stencil, right, ridge, nearness, dice)
    colour = _mix(mood.far, mood.near, nearness)
    # Haze at the foot of far layers gives an impression of depth.
    foot = _mix(colour, mood.horizon, 0.6 * (1 - nearness))
    highest = min(y for _, y in line) - 0.13  # no tree is higher than this
    top = max(0, min(canvas.height - 1, math.floor(highest * canvas.height)))
    stencil.paint(_gradient((canvas.width, canvas.height - top), colour, foot), top)


def _ridge(level: float, rise: float, rough: bool, dice: random.Random) -> Ridge:
    """Return a skyline: a function that maps the distance from the left edge to the distance from the top.

    Both distances are in image heights.

    The function is a sum of waves. Each wave has about twice the frequency and half the height of the wave before it.
    The waves of a rough skyline have sharp crests.
    """
    speed = dice.uniform(1.6, 2.6)
    waves = []
    for octave in range(5 if rough else 3):
        height = rise * 0.5**octave if rough else rise * 0.4**octave
        waves.append((speed * dice.uniform(1.8, 2.3) ** octave, dice.uniform(0, math.tau), height))

    def smooth_at(x: float) -> float:
        return level - sum(height * math.sin(speed * x + phase) for speed, phase, height in waves) / 2

    def rough_at(x: float) -> float:
        crests = sum(height * (0.6 - abs(math.sin(speed * x + phase))) for speed, phase, height in waves)
        return level - crests

    return rough_at if rough else smooth_at


def _draw_trees(stencil: _Stencil, right: float, ridge: Ridge, nearness: float, dice: random.Random) -> None:
    """Add groves of firs on `ridge` to the stencil. Nearer firs are taller."""
    x = dice.uniform(0.0, 0.4)
    while x < right:
        height = dice.uniform(0.07, 0.13) * nearness
        foot = ridge(x) + 0.01
        # Three tiers from the top down: the height of the tip, the height of the hem, and half the width.
        for tip, hem, half in ((1.0, 0.55, 0.13), (0.75, 0.3, 0.2), (0.5, 0.0, 0.27)):
            low = foot - hem * height
            stencil.polygon([(x - half * height, low), (x, foot - tip * height), (x + half * height, low)])
        x += dice.uniform(0.02, 0.06) if dice.random() < 0.8 else dice.uniform(0.3, 0.9)
