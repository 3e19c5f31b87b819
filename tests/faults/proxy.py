"""A proxy of TCP that can misbehave: it stalls, cuts or half-closes what goes through it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 65536


class Proxy:
    """Forwards connections to a port of loopback; a context manager."""

    def __init__(self, target: int) -> None:
        """Take the port that connections are forwarded to."""
        self._target = target
        self._flows = threading.Event()
        self._flows.set()
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
        self.flow()
        self.cut()

    @property
    def connections(self) -> int:
        """How many connections go through it."""
        return len(self._pairs)

    def lead_to(self, target: int) -> None:
        """Forward new connections to another port, as a name that moves; those that are open stay as they are."""
        self._target = target

    def stall(self) -> None:
        """Forward nothing more; what comes is accepted, and waits."""
        self._flows.clear()

    def flow(self) -> None:
        """Forward again."""
        self._flows.set()

    def cut(self) -> None:
        """Break all connections off; new ones are forwarded."""
        for pair in self._taken():
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """End what Redis says over each connection; what is said to Redis still arrives."""
        for client, _ in self._taken():
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def _taken(self) -> list[tuple[socket.socket, socket.socket]]:
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
                self._flows.wait()
                sink.sendall(data)
        except OSError:
            pass
        finally:
            # Whichever direction ends first ends the other, as it would between two real ends sooner or later.
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            with self._lock:
                done = pair not in self._pairs
                self._pairs.discard(pair)
            if done:
                for end in pair:
                    end.close()
