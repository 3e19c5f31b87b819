"""The gallery of the demo server: draws each image once and caches it as a complete response."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from producer.demo.drawing import LARGEST_SIDE, draw_image
from producer.demo.http import Request, number, response_head

__all__ = ["IMAGE_NAME", "IMAGE_PATH", "DrawingCache", "DrawnImage", "Gallery", "ImageSpec", "image_path"]

_KEPT_LIMIT = 256 * 1024**2  # bytes of cached images: about 17,000 of the default size
_LATENCY_LIMIT = 30.0  # largest ?latency=, in seconds
_FORMATS = {"jpg": "jpeg", "png": "png", "webp": "webp", "gif": "gif"}
_EXTENSIONS = tuple(_FORMATS)

IMAGE_NAME = re.compile(r"/([0-9]{1,100})\.(jpg|png|webp|gif)\Z")
"""The end of a path that names an image: `/17.png`."""

IMAGE_PATH = re.compile(r"/images" + IMAGE_NAME.pattern)
"""The full path of an image: `/images/17.png`."""


def image_path(index: int) -> str:
    """Return the path of image `index` in `/list`; the four formats alternate."""
    return f"/images/{index}.{_extension(index)}"


def _extension(index: int) -> str:
    return _EXTENSIONS[index % len(_EXTENSIONS)]


class ImageSpec(NamedTuple):
    """The properties of an image; width and height are in pixels."""

    number: int
    width: int
    height: int
    format: str


class DrawnImage(NamedTuple):
    """An image as a complete response."""

    response: bytes
    head_size: int
    content_type: str
    etag: str

    @property
    def head(self) -> bytes:
        """The status and the headers."""
        return self.response[: self.head_size]

    @property
    def body(self) -> bytes:
        """The image file."""
        return self.response[self.head_size :]


class Gallery:
    """Draws images, and caches the recently requested ones."""

    def __init__(self, width: int, height: int, latency: float) -> None:
        """Set the default size in pixels, and the default latency in seconds."""
        self._width = width
        self._height = height
        self._latency = latency
        self._kept = DrawingCache(_KEPT_LIMIT)
        self._drawing: dict[ImageSpec, asyncio.Future[DrawnImage]] = {}
        self._artists = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="demo")

    def requested_image(self, request: Request) -> ImageSpec:
        """Return the image that the request's path names, or image 0 if the path names no image.

        The image has the size given in the request's query.

        Raises:
            RequestRefusedError: the size is out of range.
        """
        named = IMAGE_NAME.search(request.path)
        index, extension = named.groups() if named else ("0", "jpg")
        width, height = self._width, self._height
        if request.query:
            width = int(number(request, "width", width, 1, LARGEST_SIDE))
            height = int(number(request, "height", height, 1, LARGEST_SIDE))
        return ImageSpec(int(index), width, height, _FORMATS[extension])

    def cached_reply(self, request: Request) -> DrawnImage | None:
        """Return the reply to a plain request for a cached image; None if the reply must wait, or has a condition."""
        if self._latency or request.query or request.if_none_match or not IMAGE_PATH.match(request.path):
            return None
        return self._kept.get(self.requested_image(request))

    async def draw(self, request: Request) -> DrawnImage:
        """Return the requested image after its latency.

        Raises:
            RequestRefusedError: a value in the query is out of range.
        """
        wanted = self.requested_image(request)
        latency = self._latency
        if "latency" in request.query:
            latency = min(number(request, "latency", 0.0), _LATENCY_LIMIT)
        if latency:
            await asyncio.sleep(latency)
        kept = self._kept.get(wanted)
        # The drawing is shielded, because other requests may still wait for it when this client disconnects.
        return await asyncio.shield(self._draw(wanted)) if kept is None else kept

    async def prepare(self, count: int) -> None:
        """Draw and cache the first `count` images of `image_path`."""
        formats = [_FORMATS[_extension(index)] for index in range(count)]
        firsts = [ImageSpec(index, self._width, self._height, format) for index, format in enumerate(formats)]
        await asyncio.gather(*map(self._draw, firsts))

    def close(self) -> None:
        """Stop drawing, and cancel the requests waiting for a drawing."""
        self._artists.shutdown(wait=False, cancel_futures=True)
        for drawing in list(self._drawing.values()):
            drawing.cancel()

    def _draw(self, wanted: ImageSpec) -> asyncio.Future[DrawnImage]:
        """Draw an image in a thread; concurrent requests for the same image share one drawing."""
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
    content_type, etag = f"image/{wanted.format}", f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
    head = response_head(
        200,
        ("Content-Type", content_type),
        ("Content-Length", len(body)),
        ("ETag", etag),
        ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
    )
    return DrawnImage(head + body, len(head), content_type, etag)


class DrawingCache:
    """A least-recently-used cache of drawn images, limited in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._images: OrderedDict[ImageSpec, DrawnImage] = OrderedDict()

    def get(self, wanted: ImageSpec) -> DrawnImage | None:
        """Return the image if it is cached, and mark it as recently used."""
        drawn = self._images.get(wanted)
        if drawn is not None:
            self._images.move_to_end(wanted)
        return drawn

    def put(self, wanted: ImageSpec, drawn: DrawnImage) -> None:
        """Add an image that is not cached yet."""
        self._images[wanted] = drawn
        self._size += len(drawn.response)
        while self._size > self._limit:
            self._size -= len(self._images.popitem(last=False)[1].response)
