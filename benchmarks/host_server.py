"""Serve many hosts from one process: all addresses of 127.0.0.0/8, each with the latency that the URL asks for.

``python -m benchmarks.host_server FOLDER`` prints its port, and serves ``/LATENCY_MS/NAME`` and ``/queue/NAME`` from
the folder. Images of ``/queue`` are answered one at a time, one second after another. When its input ends, it prints a
JSON object: for each first part of a path, the number of complete answers, and the time of the last one in seconds
since the first request.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from functools import cache
from pathlib import Path

#: Linux's option that limits a socket to one network interface.
_BIND_TO_DEVICE = 25
#: The first part of the paths of a host that answers one image a second.
QUEUE = "queue"
_QUEUE_SECONDS = 1.0


class _Server:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._answers: dict[str, tuple[int, float]] = {}
        self._began = 0.0
        self._free_at = 0.0
        self.read = cache(self._read)

    def summary(self) -> str:
        """Return the counted answers as JSON."""
        return json.dumps(self._answers)

    def wait_seconds(self, kind: str) -> float:
        """Return the wait before the answer to a request that has just arrived."""
        now = time.monotonic()
        self._began = self._began or now
        if kind != QUEUE:
            return int(kind) / 1000
        self._free_at = max(self._free_at, now) + _QUEUE_SECONDS
        return self._free_at - now

    def count(self, kind: str) -> None:
        """Count an answer."""
        number, _ = self._answers.get(kind, (0, 0.0))
        self._answers[kind] = number + 1, time.monotonic() - self._began

    def _read(self, name: str) -> bytes:
        body = (self._folder / name).read_bytes()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


class _Connection(asyncio.Protocol):
    """One connection. It carries one request at a time, as the clients of the benchmark send them."""

    _transport: asyncio.Transport

    def __init__(self, server: _Server) -> None:
        self._server, self._received = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(b"\r\n\r\n"):
            return
        path = self._received.split(b" ", 2)[1].decode()
        self._received = b""
        kind, name = path.removeprefix("/").split("?")[0].split("/")
        wait = self._server.wait_seconds(kind)
        if wait:
            asyncio.get_running_loop().call_later(wait, self._answer, kind, name)
        else:
            self._answer(kind, name)

    def _answer(self, kind: str, name: str) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._server.read(name))
            self._server.count(kind)


async def _serve(folder: Path) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, _BIND_TO_DEVICE, b"lo\0")
    listener.bind(("0.0.0.0", 0))  # noqa: S104  # only of the loopback interface
    state = _Server(folder)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(state), sock=listener, backlog=4096)
    print(listener.getsockname()[1], flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        print(state.summary(), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
