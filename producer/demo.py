"""The demo image server: deterministic pictures over HTTP/1.1 on loopback, with a route per fault.

    bytes of a client ⇒ _Connection ⇒ _Request ⇒ route ⇒ _Reply ⇒ bytes to the client
                                                   ↑
                                     pictures, drawn once and kept

It serves the tests, the demo command and small benchmarks, and imports nothing of the fleet. To add a route:
a handler with `@_route` below, whose docstring is its sentence in `ROUTES` and on `/`; or a line of `_fixed`.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gzip
import hashlib
import html
import json
import math
import os
import random
import re
import signal
import socket
import struct
import sys
import zlib
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple, NoReturn
from urllib.parse import parse_qsl, quote

from producer.pictures import LARGEST_SIDE, picture

__all__ = ["ROUTES", "DemoError", "DemoOptions", "DemoServer", "picture", "serve"]

_HEAD_LIMIT = 16 * 1024  # bytes of a request line and its headers
_AHEAD_LIMIT = 64 * 1024  # bytes that a client may send while its last request is being answered
_KEPT_LIMIT = 256 * 1024**2  # bytes of drawn pictures: about 17,000 of the usual size
_VISITS_LIMIT = 1_000_000  # URLs of the `-once` routes; the oldest is forgotten first
_LATENCY_LIMIT = 30.0  # seconds that a URL may ask for
_LIST_LIMIT = 1_000_000  # lines
_GIBIBYTE = 1024**3
_ENDS = (signal.SIGINT, signal.SIGTERM)

_FORMATS = {"jpg": "jpeg", "png": "png", "webp": "webp", "gif": "gif"}
_EXTENSIONS = tuple(_FORMATS)
_PICTURE_NAME = re.compile(r"/([0-9]{1,100})\.(jpg|png|webp|gif)\Z")
_IMAGE_PATH = re.compile(r"/images" + _PICTURE_NAME.pattern)


class DemoError(OSError):
    """The demo server cannot listen; the message says where, why, and what to do."""


@dataclass(frozen=True)
class DemoOptions:
    """Where the server listens and what it serves.

    Attributes:
        host: the address or name to listen on; loopback unless told otherwise.
        port: 0 takes any free port.
        latency: seconds of waiting before every picture.
        width: pixels, 1 to 4096, of a picture whose URL does not say.
        height: likewise.

    Raises:
        ValueError: a value is out of its range.
    """

    host: str = "127.0.0.1"
    port: int = 0
    latency: float = 0.0
    width: int = 400
    height: int = 200

    def __post_init__(self) -> None:
        if not self.host:
            # asyncio takes an empty host for every interface of the machine.
            raise ValueError("host must not be empty; 0.0.0.0 is every interface")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 to 65535, not {self.port}")
        if not 0 <= self.latency < math.inf:
            raise ValueError(f"latency must be 0 seconds or more, not {self.latency}")
        for name, side in (("width", self.width), ("height", self.height)):
            if not 1 <= side <= LARGEST_SIDE:
                raise ValueError(f"{name} must be 1 to {LARGEST_SIDE} pixels, not {side}")


class DemoServer:
    """The server. It starts once, and all of it belongs to the event loop that started it."""

    def __init__(self, options: DemoOptions | None = None) -> None:
        self.options = options or DemoOptions()
        self.counts: Counter[str] = Counter()
        self.connections: set[_Connection] = set()
        self.changes = 0
        self.stopping = False
        self._kept = _Kept(_KEPT_LIMIT)
        self._visits: OrderedDict[str, None] = OrderedDict()
        self._drawing: dict[_Wanted, asyncio.Future[_Drawn]] = {}
        self._artists = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="demo")
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            DemoError: the address cannot be listened on.
        """
        host, port = self.options.host, self.options.port
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: _Connection(self), host, port, backlog=1024)
        except (OSError, UnicodeError) as error:
            raise DemoError(
                f"The demo server cannot listen on {host}:{port}: {_reason(error)}. "
                "Choose an address of this machine and a free port (0 takes any)."
            ) from error

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
        self._artists.shutdown(wait=False, cancel_futures=True)
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
        for drawing in list(self._drawing.values()):
            drawing.cancel()
        await server.wait_closed()

    def ready(self, request: _Request) -> _Drawn | None:
        """The answer to a plain request for a kept picture, which need not wait for anything; else None."""
        if self.options.latency or request.query or not _IMAGE_PATH.match(request.path):
            return None
        drawn = self._kept.get(_wanted(self, request))
        if drawn is not None:
            self.counts["/images"] += 1
        return drawn

    async def reply(self, request: _Request) -> _Reply:
        """Find the route of `request`, count it, and let it answer."""
        name = _route_name(request.path)
        self.counts[name or "unknown"] += 1
        try:
            if name is None:
                raise _Refused(404, "No such route; / lists them all.")
            return await _HANDLERS[name](self, request)
        except _Refused as refused:
            return refused.reply()

    async def drawn(self, request: _Request) -> _Drawn:
        """The picture that `request` asks for, after the latency that it is to have."""
        wanted = _wanted(self, request)
        latency = self.options.latency
        if "latency" in request.query:
            latency = min(_number(request, "latency", 0.0), _LATENCY_LIMIT)
        if latency:
            await asyncio.sleep(latency)
        kept = self._kept.get(wanted)
        # Shielded, because others may be waiting for the same drawing when this client goes away.
        return await asyncio.shield(self._draw(wanted)) if kept is None else kept

    def _draw(self, wanted: _Wanted) -> asyncio.Future[_Drawn]:
        """Draw in a thread, once however many ask for it meanwhile."""
        drawing = self._drawing.get(wanted)
        if drawing is None:
            drawing = asyncio.get_running_loop().run_in_executor(self._artists, _draw, wanted)
            self._drawing[wanted] = drawing
            drawing.add_done_callback(functools.partial(self._keep, wanted))
        return drawing

    def _keep(self, wanted: _Wanted, drawing: asyncio.Future[_Drawn]) -> None:
        del self._drawing[wanted]
        if not drawing.cancelled() and drawing.exception() is None:
            self._kept.put(wanted, drawing.result())

    def first_visit(self, request: _Request) -> bool:
        """Whether nobody has asked for this path and query before."""
        if request.target in self._visits:
            return False
        self._visits[request.target] = None
        if len(self._visits) > _VISITS_LIMIT:
            self._visits.popitem(last=False)
        return True


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
        announce: called with the URL once the server listens.

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
    try:
        await server.start()
        announce(server.url)
        await ended.wait()
    finally:
        await server.stop()


# --- Pictures, kept as complete responses ---


class _Wanted(NamedTuple):
    """What tells one picture from another; sides in pixels."""

    number: int
    width: int
    height: int
    format: str


class _Drawn(NamedTuple):
    """A picture as the response it is sent in."""

    response: bytes
    head_size: int
    content_type: str

    @property
    def head(self) -> bytes:
        return self.response[: self.head_size]

    @property
    def body(self) -> bytes:
        return self.response[self.head_size :]


def _draw(wanted: _Wanted) -> _Drawn:
    body = picture(*wanted)
    content_type = f"image/{wanted.format}"
    head = _head(
        200,
        ("Content-Type", content_type),
        ("Content-Length", len(body)),
        ("ETag", f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'),
        ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
    )
    return _Drawn(head + body, len(head), content_type)


class _Kept:
    """Drawn pictures within a bound in bytes; the one least recently asked for goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._pictures: OrderedDict[_Wanted, _Drawn] = OrderedDict()

    def get(self, wanted: _Wanted) -> _Drawn | None:
        drawn = self._pictures.get(wanted)
        if drawn is not None:
            self._pictures.move_to_end(wanted)
        return drawn

    def put(self, wanted: _Wanted, drawn: _Drawn) -> None:
        self._pictures[wanted] = drawn
        self._size += len(drawn.response)
        while self._size > self._limit:
            self._size -= len(self._pictures.popitem(last=False)[1].response)


# --- HTTP ---


class _Request(NamedTuple):
    method: str
    target: str  # as sent: path and query
    path: str
    query: Mapping[str, str]
    host: str  # with its port; empty if the client did not say
    keep_alive: bool


_Pieces = bytes | AsyncGenerator[bytes, None]


class _Reply(NamedTuple):
    """What goes over the wire, whole or in pieces; nothing is added to it."""

    head: _Pieces
    body: _Pieces = b""
    close: bool = False


class _Refused(Exception):
    """A request that is answered with a status of its own and a line that says why."""

    def __init__(self, status: int, message: str, *fields: tuple[str, object]) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields

    def reply(self) -> _Reply:
        return _page(self.status, f"{self}\n", *self.fields)


def _head(status: int, *fields: tuple[str, object]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Server: imagefleet-demo"]
    lines += [f"{name}: {value}" for name, value in fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _answer(body: bytes, content_type: str, *fields: tuple[str, object], status: int = 200) -> _Reply:
    return _Reply(_head(status, ("Content-Type", content_type), ("Content-Length", len(body)), *fields), body)


def _page(status: int, text: str, *fields: tuple[str, object]) -> _Reply:
    return _answer(text.encode(), "text/plain; charset=utf-8", *fields, status=status)


def _parse(head: bytes) -> _Request:
    """Read a request's head, without the empty line that ends it."""
    line, *fields = head.decode("latin-1").split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[1].startswith("/") or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise _Refused(400, "This is not a request of HTTP/1.1.")
    method, target, version = words
    headers = {}
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon:
            raise _Refused(400, "A header has no colon.")
        headers[name.lower()] = value.strip()
    if method not in ("GET", "HEAD"):
        raise _Refused(405, "Only GET and HEAD are served.", ("Allow", "GET, HEAD"))
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise _Refused(400, "A request with a body is not served.")
    path, _, query = target.partition("?")
    return _Request(
        method,
        target,
        path,
        dict(parse_qsl(query, keep_blank_values=True)) if query else {},
        headers.get("host", ""),
        version == "HTTP/1.1" and headers.get("connection", "").lower() != "close",
    )


def _number(request: _Request, name: str, default: float, low: float = 0, high: float = math.inf) -> float:
    """The query's `name`, which must be a number from `low` to `high`."""
    try:
        value = float(request.query.get(name, default))
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        limits = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
        raise _Refused(400, f"{name} must be a number, {limits}.")
    return value


class _Connection(asyncio.Protocol):
    """One client: its bytes cut into requests, which are answered one after the other."""

    _transport: asyncio.Transport

    def __init__(self, server: DemoServer) -> None:
        self._server = server
        self._received = b""
        self._refused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self.answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)
        if self._server.stopping:  # it was accepted, but not yet here, when the others were ended
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self.answering is not None:
            self.answering.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        self._answer_received()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._received += data
        if self.answering is not None and len(self._received) > _AHEAD_LIMIT:
            self.abort()
        self._answer_received()

    def _answer_received(self) -> None:
        """Answer what has arrived until a request must wait, or the client must read first."""
        try:
            while self.answering is None and self._writable.is_set() and not self._transport.is_closing():
                head = self._cut_head()
                if head is None:
                    return
                self._answer(_parse(head))
        except _Refused as refused:
            self._refuse(refused.reply())

    def _cut_head(self) -> bytes | None:
        """Take one request out of what was received; None if it has not arrived whole."""
        received = self._received.lstrip(b"\r\n")
        if received and not received[:1].isalpha():
            # Such as a TLS handshake, whose end would be waited for in vain.
            raise _Refused(400, "This is not a request of HTTP/1.1.")
        head, end, rest = received.partition(b"\r\n\r\n")
        if len(head) > _HEAD_LIMIT:
            raise _Refused(431, f"The head of a request may have {_HEAD_LIMIT} bytes.")
        self._received = rest if end else received
        return head if end else None

    def _answer(self, request: _Request) -> None:
        drawn = self._server.ready(request)
        if drawn is None:
            self.answering = asyncio.get_running_loop().create_task(self._answer_in_time(request))
            return
        self._transport.write(drawn.head if request.method == "HEAD" else drawn.response)
        if not request.keep_alive:
            self._transport.close()

    async def _answer_in_time(self, request: _Request) -> None:
        try:
            reply = await self._server.reply(request)
            await self._send(reply.head, b"" if request.method == "HEAD" else reply.body)
        except BaseException:
            self.abort()
            raise
        self.answering = None
        if reply.close or not request.keep_alive:
            self._transport.close()
        else:
            self._answer_received()

    async def _send(self, head: _Pieces, body: _Pieces) -> None:
        if isinstance(head, bytes) and isinstance(body, bytes):
            self._transport.write(head + body)
            return
        for part in (head, body):
            if isinstance(part, bytes):
                self._transport.write(part)
                continue
            async with aclosing(part) as pieces:
                async for piece in pieces:
                    self._transport.write(piece)
                    await asyncio.sleep(0)  # a client that keeps up would otherwise have the loop to itself
                    await self._writable.wait()

    def _refuse(self, reply: _Reply) -> None:
        """Answer what is no request, and end the connection: where the next one begins is unknown."""
        assert isinstance(reply.head, bytes)
        assert isinstance(reply.body, bytes)
        self._server.counts["refused"] += 1
        self._refused, self._received = True, b""
        self._transport.write(reply.head + reply.body)
        # A socket closed with unread bytes is reset, and the client may lose the answer. So only our side is
        # closed, and the rest of what it sends is dropped until it closes its own.
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(1.0, self.abort)


# --- How routes are made ---

_Handler = Callable[[DemoServer, _Request], Awaitable[_Reply]]
_HANDLERS: dict[str, _Handler] = {}


def _route(name: str) -> Callable[[_Handler], _Handler]:
    """Make a handler that of the path `name` and of all below it."""

    def add(handler: _Handler) -> _Handler:
        _HANDLERS[name] = handler
        return handler

    return add


def _fixed(name: str, description: str, reply: _Reply) -> _Handler:
    """Make a route that always gives the same reply."""

    async def handler(server: DemoServer, request: _Request) -> _Reply:
        return reply

    handler.__doc__ = description
    return _route(name)(handler)


def _once(fault: str, handler: _Handler) -> None:
    """Make `/fault/{fault}-once` of the handler of `/fault/{fault}`."""

    async def once(server: DemoServer, request: _Request) -> _Reply:
        return await (handler if server.first_visit(request) else _whole)(server, request)

    once.__doc__ = f"As {fault} at the first hit of each URL, then the picture."
    _route(f"/fault/{fault}-once")(once)


def _route_name(path: str) -> str | None:
    """The route that a path belongs to: `/fault/stall` for `/fault/stall/17.jpg`."""
    segments = path.split("/")
    name = "/".join(segments[:3] if segments[1] == "fault" else segments[:2])
    return name if name in _HANDLERS else None


def _wanted(server: DemoServer, request: _Request) -> _Wanted:
    """The picture that a path ends in, in the size that the query asks for; number 0 if it ends in none."""
    named = _PICTURE_NAME.search(request.path)
    number, extension = named.groups() if named else ("0", "jpg")
    width, height = server.options.width, server.options.height
    if request.query:
        width = int(_number(request, "width", width, 1, LARGEST_SIDE))
        height = int(_number(request, "height", height, 1, LARGEST_SIDE))
    return _Wanted(int(number), width, height, _FORMATS[extension])


async def _whole(server: DemoServer, request: _Request) -> _Reply:
    drawn = await server.drawn(request)
    return _Reply(drawn.head, drawn.body)


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


async def _never() -> NoReturn:
    """Wait until the connection is lost, which cancels whoever waits."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody sets this future")


# --- Routes: pictures, and what is known about them ---


@_route("/")
async def _index(server: DemoServer, request: _Request) -> _Reply:
    """This list, with a few pictures."""
    samples = "".join(f'<img src="/images/{n}.jpg?width=200&amp;height=100" alt="">' for n in range(6))
    rows = "".join(f'<tr><td><a href="{name}">{name}</a><td>{html.escape(text)}' for name, text in ROUTES.items())
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>imagefleet demo images</title>'
        "<style>body{font:16px system-ui;margin:2em}td{padding:.2em 1em .2em 0}img{margin-right:4px}</style>"
        f"<h1>imagefleet demo images</h1><p>{samples}<table>{rows}</table>"
    )
    return _answer(page.encode(), "text/html; charset=utf-8")


@_route("/images")
async def _images(server: DemoServer, request: _Request) -> _Reply:
    """A picture: /images/INDEX.jpg, .png, .webp or .gif, with ?width=&height=&latency= if wanted."""
    if not _IMAGE_PATH.match(request.path):
        raise _Refused(404, "A picture is /images/INDEX.jpg, .png, .webp or .gif.")
    return await _whole(server, request)


@_route("/list")
async def _list(server: DemoServer, request: _Request) -> _Reply:
    """A list of ?count= picture URLs, 100 unless told, one a line, in the four formats by turns."""
    count = int(_number(request, "count", 100, 0, _LIST_LIMIT))
    host = request.host or server.url.removeprefix("http://")
    return await asyncio.to_thread(_list_of, host, count)


def _list_of(host: str, count: int) -> _Reply:
    return _page(200, "".join(f"http://{host}/images/{n}.{_EXTENSIONS[n % 4]}\n" for n in range(count)))


@_route("/changing")
async def _changing(server: DemoServer, request: _Request) -> _Reply:
    """Another picture in another format at each hit."""
    hit = server.changes
    server.changes += 1
    return await _whole(server, request._replace(path=f"/images/{hit}.{_EXTENSIONS[hit % 4]}"))


_fixed("/healthcheck", "Says ok.", _page(200, "ok\n"))


@_route("/stats")
async def _stats(server: DemoServer, request: _Request) -> _Reply:
    """How many requests each route has had, as JSON; "unknown" had no route, "refused" was no request."""
    return _answer(json.dumps(server.counts, indent=2).encode() + b"\n", "application/json")


# --- Routes: statuses ---

_fixed("/fault/not-found", "Status 404.", _page(404, "404\n"))
_fixed("/fault/forbidden", "Status 403.", _page(403, "403\n"))
_fixed("/fault/gone", "Status 410.", _page(410, "410\n"))


@_route("/fault/rate-limited")
async def _rate_limited(server: DemoServer, request: _Request) -> _Reply:
    """Status 429 with Retry-After: ?after= seconds, 1 unless told."""
    return _page(429, "429\n", ("Retry-After", int(_number(request, "after", 1, 0, 10**9))))


_once("rate-limited", _rate_limited)
_once("server-error", _fixed("/fault/server-error", "Status 500.", _page(500, "500\n")))
_fixed("/fault/no-content", "Status 204, which has no body.", _Reply(_head(204)))
_fixed("/fault/not-modified", "Status 304, though nobody asked.", _Reply(_head(304)))


@_route("/fault/partial")
async def _partial(server: DemoServer, request: _Request) -> _Reply:
    """Status 206 with the first half of the picture, though nobody asked for a range."""
    drawn = await server.drawn(request)
    half = _half(drawn.body)
    sent = ("Content-Range", f"bytes 0-{len(half) - 1}/{len(drawn.body)}")
    return _answer(half, drawn.content_type, sent, status=206)


# --- Routes: connections ---

_once("drop", _fixed("/fault/drop", "Closes the connection without a word.", _Reply(b"", close=True)))


@_route("/fault/silent")
async def _silent(server: DemoServer, request: _Request) -> _Reply:
    """Takes the request and never answers."""
    await _never()


@_route("/fault/stall")
async def _stall(server: DemoServer, request: _Request) -> _Reply:
    """Half the picture, then nothing more, until the client goes away."""
    drawn = await server.drawn(request)
    return _Reply(drawn.head, _then_nothing(_half(drawn.body)))


async def _then_nothing(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
    await _never()


@_route("/fault/drip")
async def _drip(server: DemoServer, request: _Request) -> _Reply:
    """The picture, one byte a second."""
    drawn = await server.drawn(request)
    return _Reply(drawn.head, _drops(drawn.body, together=1))


@_route("/fault/slow-header")
async def _slow_header(server: DemoServer, request: _Request) -> _Reply:
    """The status line at once, then one byte of the headers a second."""
    drawn = await server.drawn(request)
    return _Reply(_drops(drawn.head, together=drawn.head.index(b"\n") + 1), drawn.body)


async def _drops(data: bytes, together: int) -> AsyncGenerator[bytes, None]:
    """The first `together` bytes at once, then one byte a second."""
    yield data[:together]
    for at in range(together, len(data)):
        await asyncio.sleep(1.0)
        yield data[at : at + 1]


@_route("/fault/truncated")
async def _truncated(server: DemoServer, request: _Request) -> _Reply:
    """Declares the whole picture, sends half, and closes."""
    drawn = await server.drawn(request)
    return _Reply(drawn.head, _half(drawn.body), close=True)


# --- Routes: what HTTP must cope with ---


@_route("/fault/wrong-length")
async def _wrong_length(server: DemoServer, request: _Request) -> _Reply:
    """The picture with the Content-Length "abc"; with ?conflicting, with two that differ."""
    drawn = await server.drawn(request)
    size = len(drawn.body)
    lengths = (size, size + 7) if "conflicting" in request.query else ("abc",)
    fields = [("Content-Length", length) for length in lengths]
    return _Reply(_head(200, ("Content-Type", drawn.content_type), *fields), drawn.body, close=True)


@_route("/fault/bad-chunk")
async def _bad_chunk(server: DemoServer, request: _Request) -> _Reply:
    """A chunked body whose second chunk has a size that is no number."""
    drawn = await server.drawn(request)
    head = _head(200, ("Content-Type", drawn.content_type), ("Transfer-Encoding", "chunked"))
    half = _half(drawn.body)
    return _Reply(head, b"%x\r\n%b\r\nxyz\r\n%b\r\n" % (len(half), half, half), close=True)


@_route("/fault/huge-header")
async def _huge_header(server: DemoServer, request: _Request) -> _Reply:
    """The picture behind a header of 1 MiB."""
    drawn = await server.drawn(request)
    return _answer(drawn.body, drawn.content_type, ("X-Padding", "x" * 1024**2))


@_route("/fault/gzip")
async def _gzip(server: DemoServer, request: _Request) -> _Reply:
    """The picture with Content-Encoding: gzip, which is legal."""
    drawn = await server.drawn(request)
    return _answer(gzip.compress(drawn.body, mtime=0), drawn.content_type, ("Content-Encoding", "gzip"))


# --- Routes: bodies that are no picture ---

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _big_png() -> bytes:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)  # 8 bits of grey
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(50_001))), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


_fixed(
    "/fault/html",
    "A web page that calls itself image/jpeg.",
    _answer(b"<!doctype html><title>Sign in</title><p>Please sign in.\n", "image/jpeg"),
)
_fixed("/fault/json", "JSON, with status 200.", _answer(b'{"error": "no picture"}\n', "application/json"))
_fixed("/fault/empty", "No bytes at all, with status 200.", _answer(b"", "image/jpeg"))
_fixed(
    "/fault/big-pixels",
    "A PNG of about 100 bytes that declares 50000 x 50000 pixels.",
    _answer(_big_png(), "image/png"),
)


@_route("/fault/broken-image")
async def _broken_image(server: DemoServer, request: _Request) -> _Reply:
    """The first bytes of a JPEG (of a PNG if the URL ends in .png), then garbage."""
    wanted = _wanted(server, request)
    garbage = random.Random(str(wanted.number)).randbytes(4096)  # noqa: S311 - any bytes will do
    if wanted.format == "png":
        return _answer(_PNG_SIGNATURE + garbage, "image/png")
    return _answer(b"\xff\xd8\xff\xe0" + garbage, "image/jpeg")


@_route("/fault/huge")
async def _huge(server: DemoServer, request: _Request) -> _Reply:
    """A body of ?bytes= zeros, 1 GiB unless told; with ?declared=no, without a Content-Length."""
    size = int(_number(request, "bytes", _GIBIBYTE, 0, 2**60))
    undeclared = request.query.get("declared") == "no"
    length = ("Connection", "close") if undeclared else ("Content-Length", size)
    return _Reply(_head(200, ("Content-Type", "image/jpeg"), length), _zeros(size), close=undeclared)


async def _zeros(size: int) -> AsyncGenerator[bytes, None]:
    block = bytes(64 * 1024)
    for left in range(size, 0, -len(block)):
        yield block[:left]


@_route("/fault/gzip-bomb")
async def _gzip_bomb(server: DemoServer, request: _Request) -> _Reply:
    """1 MiB with Content-Encoding: gzip that inflates to 1 GiB of zeros."""
    size = len(_BOMB_START) + 1024 * len(_deflated_mebibyte()) + len(_BOMB_END)
    fields = (("Content-Type", "image/jpeg"), ("Content-Encoding", "gzip"), ("Content-Length", size))
    return _Reply(_head(200, *fields), _bomb())


_BOMB_START = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
# A last, empty block; then the CRC-32 of 1 GiB of zeros, and how many they are.
_BOMB_END = b"\x03\0" + struct.pack("<II", 0x5B64C2B0, _GIBIBYTE)


@functools.cache
def _deflated_mebibyte() -> bytes:
    """1 MiB of zeros as deflate blocks that refer to nothing before them, and so can be repeated."""
    deflate = zlib.compressobj(9, wbits=-15)
    return deflate.compress(bytes(1024**2)) + deflate.flush(zlib.Z_FULL_FLUSH)


async def _bomb() -> AsyncGenerator[bytes, None]:
    yield _BOMB_START
    for _ in range(1024):
        yield _deflated_mebibyte()
    yield _BOMB_END


# --- Routes: redirects ---


def _redirect(location: str) -> _Reply:
    # What a header cannot hold (line ends, letters beyond ASCII) is percent-encoded; the rest stays as given.
    return _page(302, "302\n", ("Location", quote(location, safe="%/:?#[]@!$&'()*+,;=~")))


@_route("/fault/redirect")
async def _redirect_once(server: DemoServer, request: _Request) -> _Reply:
    """Status 302 to the picture."""
    named = _PICTURE_NAME.search(request.path)
    return _redirect(f"/images{named[0] if named else '/0.jpg'}")


@_route("/fault/redirect-loop")
async def _redirect_loop(server: DemoServer, request: _Request) -> _Reply:
    """Status 302 to itself."""
    return _redirect(request.target)


@_route("/fault/redirect-to")
async def _redirect_to(server: DemoServer, request: _Request) -> _Reply:
    """Status 302 to ?url=, whatever it is."""
    if not request.query.get("url"):
        raise _Refused(400, "?url= says where to.")
    return _redirect(request.query["url"])


@_route("/fault/redirect-chain")
async def _redirect_chain(server: DemoServer, request: _Request) -> _Reply:
    """?hops= redirects, 3 unless told, then the picture."""
    hops = int(_number(request, "hops", 3, 0, 1000))
    return _redirect(f"{request.path}?hops={hops - 1}") if hops else await _whole(server, request)


ROUTES: Mapping[str, str] = MappingProxyType({name: handler.__doc__ or "" for name, handler in _HANDLERS.items()})
"""Each route and what it does, in one sentence; a route is also every path below it."""


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m producer.demo", description="Serve demo images.")
    defaults = DemoOptions()
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=defaults.port, help="0 takes any free port")
    parser.add_argument("--latency", type=float, default=defaults.latency, help="seconds before a picture")
    parser.add_argument("--width", type=int, default=defaults.width, help="pixels")
    parser.add_argument("--height", type=int, default=defaults.height, help="pixels")
    try:
        options = DemoOptions(**vars(parser.parse_args()))
    except ValueError as error:
        parser.error(str(error))
    try:
        serve(options, lambda url: print(url, flush=True))  # noqa: T201 - other processes wait for this line
    except DemoError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
