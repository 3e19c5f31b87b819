"""A connection of the demo server: splits a client's bytes into requests and answers them in turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from typing import Protocol

from producer.demo.gallery import DrawnImage
from producer.demo.http import Pieces, Reply, Request, RequestRefusedError, parse

__all__ = ["Answerer", "Connection"]

_HEAD_LIMIT = 16 * 1024  # bytes of a request line and its headers
_AHEAD_LIMIT = 64 * 1024  # bytes a client may send while its previous request is being answered


class Answerer(Protocol):
    """The interface of the server for its connections."""

    connections: set[Connection]
    counts: Counter[str]
    stopping: bool

    def cached_reply(self, request: Request) -> DrawnImage | None:
        """Return the reply to a request if the reply is cached; otherwise None."""

    async def reply(self, request: Request) -> Reply:
        """Return the reply, after waiting as long as needed."""
        ...


class Connection(asyncio.Protocol):
    """One client's connection; its requests are answered in turn."""

    _transport: asyncio.Transport

    def __init__(self, server: Answerer) -> None:
        self._server = server
        self._received = b""
        self._refused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self.answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register with the server."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)
        if self._server.stopping:  # the server closed all other connections before this one was registered
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister from the server, and cancel the running answer."""
        self._server.connections.discard(self)
        if self.answering is not None:
            self.answering.cancel()

    def pause_writing(self) -> None:
        """Pause, because the client does not keep up."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Continue, because the client has caught up."""
        self._writable.set()
        self._answer_received()

    def abort(self) -> None:
        """Close the connection at once, and drop unsent data."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Add the data, and answer the complete requests."""
        if self._refused:
            return
        self._received += data
        if self.answering is not None and len(self._received) > _AHEAD_LIMIT:
            self.abort()
        self._answer_received()

    def _answer_received(self) -> None:
        """Answer the received requests. Stop if an answer has to wait, or if the client has too much unread data."""
        try:
            while self.answering is None and self._writable.is_set() and not self._transport.is_closing():
                head = self._cut_head()
                if head is None:
                    return
                self._answer(parse(head))
        except RequestRefusedError as refused:
            self._refuse(refused.reply())

    def _cut_head(self) -> bytes | None:
        """Remove the first request's head from the received bytes and return it; None if the head is incomplete."""
        received = self._received.lstrip(b"\r\n")
        if received and not received[:1].isalpha():
            # These bytes may be a TLS handshake, for example. A handshake never contains the end of a head.
            raise RequestRefusedError(400, "This is not an HTTP/1.1 request.")
        head, end, rest = received.partition(b"\r\n\r\n")
        if len(head) > _HEAD_LIMIT:
            raise RequestRefusedError(431, f"The head of a request may have at most {_HEAD_LIMIT} bytes.")
        self._received = rest if end else received
        return head if end else None

    def _answer(self, request: Request) -> None:
        drawn = self._server.cached_reply(request)
        if drawn is None:
            self.answering = asyncio.get_running_loop().create_task(self._answer_in_time(request))
            return
        self._transport.write(drawn.head if request.method == "HEAD" else drawn.response)
        if not request.keep_alive:
            self._transport.close()

    async def _answer_in_time(self, request: Request) -> None:
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

    async def _send(self, head: Pieces, body: Pieces) -> None:
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
                    await asyncio.sleep(0)  # otherwise a fast client would block the event loop
                    await self._writable.wait()

    def _refuse(self, reply: Reply) -> None:
        """Answer an invalid request and end the connection, because the start of the next request is unknown."""
        assert isinstance(reply.head, bytes)
        assert isinstance(reply.body, bytes)
        self._server.counts["refused"] += 1
        self._refused, self._received = True, b""
        self._transport.write(reply.head + reply.body)
        # Closing a socket with unread bytes resets the connection, and the client may lose the answer. So close only
        # our side of the connection, and drop further bytes until the client closes its side.
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(1.0, self.abort)
