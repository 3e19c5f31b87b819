"""The gallery of the demo server: pictures, drawn once and kept, each as the response that it is sent in."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from producer.demo.http import Request, number, response_head
from producer.demo.pictures import LARGEST_SIDE, draw_image

__all__ = ["IMAGE_NAME", "IMAGE_PATH", "DrawingCache", "DrawnImage", "Gallery", "ImageSpec", "image_path"]

_KEPT_LIMIT = 256 * 1024**2  # bytes of drawn pictures: about 17,000 of the usual size
_LATENCY_LIMIT = 30.0  # seconds that a URL may ask for
_FORMATS = {"jpg": "jpeg", "png": "png", "webp": "webp", "gif": "gif"}
_EXTENSIONS = tuple(_FORMATS)

IMAGE_NAME = re.compile(r"/([0-9]{1,100})\.(jpg|png|webp|gif)\Z")
"""What a path ends in, if it names a picture: `/17.png`."""

IMAGE_PATH = re.compile(r"/images" + IMAGE_NAME.pattern)
"""The path of a picture, and of nothing else: `/images/17.png`."""


def image_path(index: int) -> str:
    """The path of picture `index` where pictures are counted through, in the four formats by turns."""
    return f"/images/{index}.{_extension(index)}"


def _extension(index: int) -> str:
    return _EXTENSIONS[index % len(_EXTENSIONS)]


class ImageSpec(NamedTuple):
    """What tells one picture from another; sides in pixels."""

    number: int
    width: int
    height: int
    format: str


class DrawnImage(NamedTuple):
    """A picture as the response it is sent in."""

    response: bytes
    head_size: int
    content_type: str

    @property
    def head(self) -> bytes:
        """The status and the headers."""
        return self.response[: self.head_size]

    @property
    def body(self) -> bytes:
        """The picture itself."""
        return self.response[self.head_size :]


class Gallery:
    """All pictures there are; those asked for lately are at hand."""

    def __init__(self, width: int, height: int, latency: float) -> None:
        """Take the pixels and the seconds of waiting of a picture whose URL does not say."""
        self._width = width
        self._height = height
        self._latency = latency
        self._kept = DrawingCache(_KEPT_LIMIT)
        self._drawing: dict[ImageSpec, asyncio.Future[DrawnImage]] = {}
        self._artists = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="demo")

    def requested_image(self, request: Request) -> ImageSpec:
        """The picture that a path ends in, in the size that the query asks for; number 0 if it ends in none.

        Raises:
            RequestRefusedError: the query asks for a size that there is not.
        """
        named = IMAGE_NAME.search(request.path)
        index, extension = named.groups() if named else ("0", "jpg")
        width, height = self._width, self._height
        if request.query:
            width = int(number(request, "width", width, 1, LARGEST_SIDE))
            height = int(number(request, "height", height, 1, LARGEST_SIDE))
        return ImageSpec(int(index), width, height, _FORMATS[extension])

    def cached_reply(self, request: Request) -> DrawnImage | None:
        """The answer to a plain request for a kept picture, which need not wait for anything; else None."""
        if self._latency or request.query or not IMAGE_PATH.match(request.path):
            return None
        return self._kept.get(self.requested_image(request))

    async def draw(self, request: Request) -> DrawnImage:
        """The picture that `request` asks for, after the latency that it is to have.

        Raises:
            RequestRefusedError: the query asks for what there is not.
        """
        wanted = self.requested_image(request)
        latency = self._latency
        if "latency" in request.query:
            latency = min(number(request, "latency", 0.0), _LATENCY_LIMIT)
        if latency:
            await asyncio.sleep(latency)
        kept = self._kept.get(wanted)
        # Shielded, because others may be waiting for the same drawing when this client goes away.
        return await asyncio.shield(self._draw(wanted)) if kept is None else kept

    async def prepare(self, count: int) -> None:
        """Draw and keep the first `count` pictures, as `image_path` names them."""
        formats = [_FORMATS[_extension(index)] for index in range(count)]
        firsts = [ImageSpec(index, self._width, self._height, format) for index, format in enumerate(formats)]
        await asyncio.gather(*map(self._draw, firsts))

    def close(self) -> None:
        """Draw no more. Who waits for a drawing is cancelled."""
        self._artists.shutdown(wait=False, cancel_futures=True)
        for drawing in list(self._drawing.values()):
            drawing.cancel()

    def _draw(self, wanted: ImageSpec) -> asyncio.Future[DrawnImage]:
        """Draw in a thread, once however many ask for it meanwhile."""
        drawing = self._drawing.get(wanted)
        if drawing is None:
            drawing = asyncio.get_running_loop().run_in_executor(self._artists, _draw, wanted)
            self._drawing[wanted] = drawing
            drawing.add_done_callback(functools.partial(self._keep, wanted))
        return drawing

    def _keep(self, wanted: ImageSpec, drawing: asyncio.Future[DrawnImage]) -> None:
        del self._drawing[wanted]
        if not drawing.cancelled() and drawing.exception() is None:
            self._kept.put(wanted, drawing.result())


def _draw(wanted: ImageSpec) -> DrawnImage:
    body = draw_image(*wanted)
    content_type = f"image/{wanted.format}"
    head = response_head(
        200,
        ("Content-Type", content_type),
        ("Content-Length", len(body)),
        ("ETag", f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'),
        ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
    )
    return DrawnImage(head + body, len(head), content_type)


class DrawingCache:
    """Drawn pictures within a bound in bytes; the one least recently asked for goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._pictures: OrderedDict[ImageSpec, DrawnImage] = OrderedDict()

    def get(self, wanted: ImageSpec) -> DrawnImage | None:
        """The picture, if it is kept; it stays longer for having been asked for."""
        drawn = self._pictures.get(wanted)
        if drawn is not None:
            self._pictures.move_to_end(wanted)
        return drawn

    def put(self, wanted: ImageSpec, drawn: DrawnImage) -> None:
        """Keep a picture that is not kept yet."""
        self._pictures[wanted] = drawn
        self._size += len(drawn.response)
        while self._size > self._limit:
            self._size -= len(self._pictures.popitem(last=False)[1].response)
