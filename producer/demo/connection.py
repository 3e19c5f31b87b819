"""A connection of the demo server: a client's bytes cut into requests, answered one after the other."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from typing import Protocol

from producer.demo.gallery import DrawnImage
from producer.demo.http import Pieces, Reply, Request, RequestRefusedError, parse

__all__ = ["Answerer", "Connection"]

_HEAD_LIMIT = 16 * 1024  # bytes of a request line and its headers
_AHEAD_LIMIT = 64 * 1024  # bytes that a client may send while its last request is being answered


class Answerer(Protocol):
    """What a connection needs of its server."""

    connections: set[Connection]
    counts: Counter[str]
    stopping: bool

    def cached_reply(self, request: Request) -> DrawnImage | None:
        """The answer, if it need not be waited for."""

    async def reply(self, request: Request) -> Reply:
        """The answer, whatever it takes."""
        ...


class Connection(asyncio.Protocol):
    """One client: its bytes cut into requests, which are answered one after the other."""

    _transport: asyncio.Transport

    def __init__(self, server: Answerer) -> None:
        self._server = server
        self._received = b""
        self._refused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self.answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the server's connections."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)
        if self._server.stopping:  # it was accepted, but not yet here, when the others were ended
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the server's connections, and end what was being answered."""
        self._server.connections.discard(self)
        if self.answering is not None:
            self.answering.cancel()

    def pause_writing(self) -> None:
        """Wait, because the client does not keep up."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on, because the client has caught up."""
        self._writable.set()
        self._answer_received()

    def abort(self) -> None:
        """End at once; what was not sent yet is dropped."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Answer what is complete now."""
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
                self._answer(parse(head))
        except RequestRefusedError as refused:
            self._refuse(refused.reply())

    def _cut_head(self) -> bytes | None:
        """Take one request out of what was received; None if it has not arrived whole."""
        received = self._received.lstrip(b"\r\n")
        if received and not received[:1].isalpha():
            # Such as a TLS handshake, whose end would be waited for in vain.
            raise RequestRefusedError(400, "This is not a request of HTTP/1.1.")
        head, end, rest = received.partition(b"\r\n\r\n")
        if len(head) > _HEAD_LIMIT:
            raise RequestRefusedError(431, f"The head of a request may have {_HEAD_LIMIT} bytes.")
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
                    await asyncio.sleep(0)  # a client that keeps up would otherwise have the loop to itself
                    await self._writable.wait()

    def _refuse(self, reply: Reply) -> None:
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
