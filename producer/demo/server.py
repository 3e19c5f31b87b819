"""The demo image server: deterministic pictures over HTTP/1.1 on loopback, with a route per fault.

    bytes of a client ⇒ Connection ⇒ Request ⇒ route ⇒ Reply ⇒ bytes to the client
                                                 ↑
                                   Gallery: pictures, drawn once and kept

It serves the tests, the demo command and small benchmarks, and imports nothing of the fleet. To add a route, see
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
from producer.demo.faults import FAULTS
from producer.demo.gallery import DrawnImage, Gallery
from producer.demo.http import Reply, Request, RequestRefusedError
from producer.demo.pages import PAGES
from producer.demo.pictures import LARGEST_SIDE, draw_image

__all__ = ["ROUTES", "DemoError", "DemoOptions", "DemoServer", "draw_image", "serve"]

_READY_LIMIT = 10_000  # pictures; of the usual size they are 150 MB, and a minute's drawing
_VISITS_LIMIT = 1_000_000  # URLs of the `-once` routes; the oldest is forgotten first
_ENDS = (signal.SIGINT, signal.SIGTERM)

_HANDLERS = {**PAGES.handlers, **FAULTS.handlers}

ROUTES: Mapping[str, str] = MappingProxyType({name: handler.__doc__ or "" for name, handler in _HANDLERS.items()})
"""Each route and what it does, in one sentence; a route is also every path below it."""


class DemoError(OSError):
    """The demo server cannot listen; the message says where, why, and what to do."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(
            f"The demo server cannot listen on {where}: {why}. Choose an address of this machine and a free port (0 "
            "takes any)."
        )
        self.why = why


@dataclass(frozen=True)
class DemoOptions:
    """Where the server listens and what it serves.

    Attributes:
        host: the address or name to listen on; loopback unless told otherwise.
        port: 0 takes any free port.
        latency: seconds of waiting before every picture.
        width: pixels, 1 to 4096, of a picture whose URL does not say.
        height: likewise.
        ready: the first pictures of `/list`, by their number, that are drawn and kept before the server listens, so
            that nobody waits for their drawing. At most 10,000 are, and 256 MiB of them stay; it takes about
            7 ms each.

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
            # asyncio takes an empty host for every interface of the machine.
            raise ValueError("host must not be empty; 0.0.0.0 is every interface")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 to 65535, not {self.port}")
        if not 0 <= self.latency < math.inf:
            raise ValueError(f"latency must be 0 seconds or more, not {self.latency}")
        if self.ready < 0:
            raise ValueError(f"ready must be 0 pictures or more, not {self.ready}")
        for name, side in (("width", self.width), ("height", self.height)):
            if not 1 <= side <= LARGEST_SIDE:
                raise ValueError(f"{name} must be 1 to {LARGEST_SIDE} pixels, not {side}")


class DemoServer:
    """The server. It starts once, and all of it belongs to the event loop that started it."""

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
        """Take the address, draw what is to be ready, then listen, and answer from now on.

        Raises:
            DemoError: the address cannot be listened on.
        """
        host, port = self.options.host, self.options.port
        loop = asyncio.get_running_loop()
        with _explained(host, port):
            # Taken before anything is drawn, so that a taken port is known at once.
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
        """The address and the port listened on; to be asked between `start` and `stop`."""
        if self._server is None:
            raise RuntimeError("the demo server is not listening")
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def url(self) -> str:
        """`http://HOST:PORT`, as this machine can reach it."""
        host, port = self.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening and end every connection, whatever it is doing. Harmless when repeated."""
        self.stopping = True
        self.gallery.close()
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        answering = [connection.answering for connection in self.connections if connection.answering]
        for connection in self.connections:
            connection.abort()
        while self.connections:  # each leaves when the loop tells it that its socket is gone
            await asyncio.sleep(0)
        await asyncio.gather(*answering, return_exceptions=True)
        await server.wait_closed()

    def cached_reply(self, request: Request) -> DrawnImage | None:
        """The answer to a plain request for a kept picture, which need not wait for anything; else None."""
        drawn = self.gallery.cached_reply(request)
        if drawn is not None:
            self.counts["/images"] += 1
        return drawn

    async def reply(self, request: Request) -> Reply:
        """Find the route of `request`, count it, and let it answer."""
        name = _route_name(request.path)
        self.counts[name or "unknown"] += 1
        try:
            if name is None:
                raise RequestRefusedError(404, "No such route; / lists them all.")
            return await _HANDLERS[name](self, request)
        except RequestRefusedError as refused:
            return refused.reply()

    def first_visit(self, request: Request) -> bool:
        """Whether nobody has asked for this path and query before."""
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
        return "This cannot be a host name"
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)  # asyncio's own text names the address again


def serve(options: DemoOptions, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; to be called from the main thread.

    Args:
        options: where and what.
        announce: called with the URL once the server listens; never, if the signal comes before.

    Raises:
        DemoError: the address cannot be listened on.
    """
    before = {number: signal.getsignal(number) for number in _ENDS}
    try:
        asyncio.run(_serve(options, announce))
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was not set from Python, and cannot be set back from it
                signal.signal(number, handler)


async def _serve(options: DemoOptions, announce: Callable[[str], None]) -> None:
    ended = asyncio.Event()
    for number in _ENDS:
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = DemoServer(options)
    ending = asyncio.create_task(ended.wait())
    starting = asyncio.create_task(server.start())
    try:
        # A signal need not wait until everything is drawn.
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
    """The route that a path belongs to: `/fault/stall` for `/fault/stall/17.jpg`."""
    segments = path.split("/")
    name = "/".join(segments[:3] if segments[1] == "fault" else segments[:2])
    return name if name in _HANDLERS else None
