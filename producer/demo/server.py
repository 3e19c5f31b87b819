"""The demo image server: deterministic images over HTTP/1.1 on loopback, with a route for each fault.

    bytes of a client ⇒ Connection ⇒ Request ⇒ route ⇒ Reply ⇒ bytes to the client
                                                 ↑
                                   Gallery: images, drawn once and cached

The tests, the demo command and small benchmarks use it. It imports nothing of the fleet. To add a route, see
`routes.py`.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from producer.demo.connection import Connection
from producer.demo.drawing import LARGEST_SIDE, draw_image
from producer.demo.faults import FAULTS
from producer.demo.gallery import DrawnImage, Gallery
from producer.demo.http import Reply, Request, RequestRefusedError
from producer.demo.pages import PAGES

__all__ = ["ROUTES", "DemoError", "DemoOptions", "DemoServer", "draw_image", "serve"]

_READY_LIMIT = 10_000  # images; at the default size, they take 150 MB and a minute to draw
_VISITS_LIMIT = 1_000_000  # URLs remembered for the `-once` routes; the oldest is forgotten first
_ENDS = (signal.SIGINT, signal.SIGTERM)

_HANDLERS = {**PAGES.handlers, **FAULTS.handlers}

ROUTES: Mapping[str, str] = MappingProxyType({name: handler.__doc__ or "" for name, handler in _HANDLERS.items()})
"""The routes, each with a sentence about its effect. A route also answers every path below it."""


class DemoError(OSError):
    """The demo server cannot listen. The message contains the address, the reason and the remedy."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(
            f"The demo server cannot listen on {where}: {why}. Choose an address of this machine and a free port (0 "
            "takes any)."
        )
        self.why = why


@dataclass(frozen=True)
class DemoOptions:
    """The address and the images of the server.

    Attributes:
        host: the address or name to listen on; default: loopback.
        port: 0 takes any free port.
        latency: seconds to wait before every image.
        width: default width of an image in pixels, 1 to 4096.
        height: default height of an image in pixels, 1 to 4096.
        ready: the server draws and caches this many images before it listens, starting with the first of `/list`. So no
            request for these images waits for a drawing. At most 10,000 images are drawn, each in about 7 ms. At most
            256 MiB are cached.

    Raises:
        ValueError: a value is out of its range.
    """

    host: str = "127.0.0.1"
    port: int = 0
    latency: float = 0.0
    width: int = 400
    height: int = 200
    ready: int = 0

    def __post_init__(self) -> None:
        if not self.host:
            # For asyncio, an empty host means every interface of the machine.
            raise ValueError("host must not be empty; to listen on every interface, use 0.0.0.0")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 to 65535, not {self.port}")
        if not 0 <= self.latency < math.inf:
            raise ValueError(f"latency must be 0 seconds or more, not {self.latency}")
        if self.ready < 0:
            raise ValueError(f"ready must be 0 images or more, not {self.ready}")
        for name, side in (("width", self.width), ("height", self.height)):
            if not 1 <= side <= LARGEST_SIDE:
                raise ValueError(f"{name} must be 1 to {LARGEST_SIDE} pixels, not {side}")


class DemoServer:
    """The server. A server can be started only once, and belongs to the event loop that started it."""

    def __init__(self, options: DemoOptions | None = None) -> None:
        self.options = options or DemoOptions()
        self.counts: Counter[str] = Counter()
        self.connections: set[Connection] = set()
        self.changes = 0
        self.stopping = False
        self.routes = ROUTES
        self.gallery = Gallery(self.options.width, self.options.height, self.options.latency)
        self._visits: OrderedDict[str, None] = OrderedDict()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Bind the address, draw the `ready` images, then listen and answer.

        Raises:
            DemoError: the server cannot listen on the address.
        """
        host, port = self.options.host, self.options.port
        loop = asyncio.get_running_loop()
        with _explained(host, port):
            # Bind before drawing, so that a port in use is reported at once.
            server = await loop.create_server(lambda: Connection(self), host, port, backlog=1024, start_serving=False)
        self._server = server
        try:
            await self.gallery.prepare(min(self.options.ready, _READY_LIMIT))
            with _explained(host, port):
                await server.start_serving()
        except BaseException:
            await self.stop()
            raise

    @property
    def address(self) -> tuple[str, int]:
        """The address and port of the server; available between `start` and `stop`."""
        if self._server is None:
            raise RuntimeError("the demo server is not listening")
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def url(self) -> str:
        """The URL `http://HOST:PORT` for clients on this machine."""
        host, port = self.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening, and end all connections without waiting for them. Idempotent."""
        self.stopping = True
        self.gallery.close()
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        answering = [connection.answering for connection in self.connections if connection.answering]
        for connection in self.connections:
            connection.abort()
        while self.connections:  # each unregisters in connection_lost
            await asyncio.sleep(0)
        await asyncio.gather(*answering, return_exceptions=True)
        await server.wait_closed()

    def cached_reply(self, request: Request) -> DrawnImage | None:
        """Return the reply to a plain request for a cached image, or None if the reply must wait.

        A request that gets a reply is counted.
        """
        drawn = self.gallery.cached_reply(request)
        if drawn is not None:
            self.counts["/images"] += 1
        return drawn

    async def reply(self, request: Request) -> Reply:
        """Return the reply of the request's route, and count the request."""
        name = _route_name(request.path)
        self.counts[name or "unknown"] += 1
        try:
            if name is None:
                raise RequestRefusedError(404, "No such route. See / for all routes.")
            return await _HANDLERS[name](self, request)
        except RequestRefusedError as refused:
            return refused.reply()

    def first_visit(self, request: Request) -> bool:
        """Return whether this is the first request for this path and query."""
        if request.target in self._visits:
            return False
        self._visits[request.target] = None
        if len(self._visits) > _VISITS_LIMIT:
            self._visits.popitem(last=False)
        return True


@contextmanager
def _explained(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise DemoError(f"{host}:{port}", _reason(error)) from error


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "It is not a valid host name"
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)  # asyncio's own text repeats the address


def serve(options: DemoOptions, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Call it from the main thread.

    Args:
        options: the address and the images.
        announce: called with the URL once the server listens, unless a signal comes first.

    Raises:
        DemoError: the server cannot listen on the address.
    """
    before = {number: signal.getsignal(number) for number in _ENDS}
    try:
        asyncio.run(_serve(options, announce))
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: the handler was not set from Python, so Python cannot restore it
                signal.signal(number, handler)


async def _serve(options: DemoOptions, announce: Callable[[str], None]) -> None:
    ended = asyncio.Event()
    for number in _ENDS:
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = DemoServer(options)
    ending = asyncio.create_task(ended.wait())
    starting = asyncio.create_task(server.start())
    try:
        # A signal ends the server even while it is drawing.
        await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            announce(server.url)
            await ending
    finally:
        starting.cancel()
        ending.cancel()
        await server.stop()


def _route_name(path: str) -> str | None:
    """Return the route of a path, such as `/fault/stall` for `/fault/stall/17.jpg`; None if the path has no route."""
    segments = path.split("/")
    name = "/".join(segments[:3] if segments[1] == "fault" else segments[:2])
    return name if name in _HANDLERS else None
