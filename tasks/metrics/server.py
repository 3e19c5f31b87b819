"""Serve the metrics of a registry by HTTP, at every path."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from socket import AF_INET6
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

#: Seconds to wait for a client. A silent client must not hold a thread and a file descriptor forever.
_CLIENT_SECONDS = 10.0


class MetricsServer:
    """A server in a thread of its own, until `close` or until the process ends."""

    def __init__(
        self, registry: CollectorRegistry, address: str, port: int, before_read: Callable[[], None] = lambda: None
    ) -> None:
        """Start the server at an IP address and a port. It calls ``before_read`` before each read of the registry.

        Raises:
            OSError: this machine does not have the address, or the port is taken.
        """
        app = make_wsgi_app(registry)
        self._sent = threading.Event()
        self._server = (_Server6 if ":" in address else _Server)((address, port), _Handler)

        def respond(*request: Any) -> _Response:
            before_read()
            return _Response(app(*request), self._sent)

        self._server.set_app(respond)
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    @property
    def has_been_read(self) -> bool:
        """Whether a client has got a response."""
        return self._sent.is_set()

    def wait_for_read(self, seconds: float) -> bool:
        """Wait at most this long for the next response to a client; return whether there was one."""
        self._sent.clear()
        return self._sent.wait(seconds)

    def close(self) -> None:
        """End the server, and free its port."""
        self._server.shutdown()
        self._server.server_close()


class _Response:
    """The body of a response, with a note when it has been sent."""

    def __init__(self, parts: Iterable[bytes], sent: threading.Event) -> None:
        self._parts, self._sent = parts, sent

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)

    def close(self) -> None:
        """Note that the response has been sent. The server calls this, as PEP 3333 says."""
        self._sent.set()


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_SECONDS

    def log_message(self, *_: Any) -> None:
        """Log nothing, because a request comes every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Ignore the error of a client that is slow or gone."""


class _Server6(_Server):
    address_family = AF_INET6
