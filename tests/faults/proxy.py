"""A TCP proxy that can stall, break or half-close its connections."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 65536


class Proxy:
    """A context manager that forwards connections to a port of loopback."""

    def __init__(self, target: int) -> None:
        """Take the target port."""
        self._target = target
        self._forwarding = threading.Event()
        self._forwarding.set()
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.forward()
        self.cut()

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._pairs)

    def move_to(self, target: int) -> None:
        """Forward new connections to another port, as after a change in DNS. Open connections stay unchanged."""
        self._target = target

    def stall(self) -> None:
        """Stop forwarding. The proxy still accepts data, but holds the data back."""
        self._forwarding.clear()

    def forward(self) -> None:
        """Continue forwarding."""
        self._forwarding.set()

    def cut(self) -> None:
        """Break all connections. New connections are forwarded."""
        for pair in self._open_pairs():
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """Close one direction of each connection, so that Redis gets data but nothing arrives from Redis."""
        for client, _ in self._open_pairs():
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def _open_pairs(self) -> list[tuple[socket.socket, socket.socket]]:
        with self._lock:
            return list(self._pairs)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.add((client, server))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=[source, sink, (client, server)], daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        try:
            while data := source.recv(_CHUNK):
                self._forwarding.wait()
                sink.sendall(data)
        except OSError:
            pass
        finally:
            # If one direction ends, the proxy ends the other direction too, because real peers would also do this
            # sooner or later.
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            with self._lock:
                done = pair not in self._pairs
                self._pairs.discard(pair)
            if done:
                for end in pair:
                    end.close()
