"""Serve the metrics of a registry by HTTP, at every path."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from socket import AF_INET6
from socketserver import TCPServer, ThreadingMixIn
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
        self._app, self._before_read = make_wsgi_app(registry), before_read
        #: Set by each response to a request that arrived after this event became the current one.
        self._sent = threading.Event()
        self._has_been_read = False
        self._server = (_Server6 if ":" in address else _Server)((address, port), _Handler)
        self._server.set_app(self._respond)
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    @property
    def has_been_read(self) -> bool:
        """Whether a client has got a response."""
        return self._has_been_read

    def wait_for_read(self, seconds: float) -> bool:
        """Wait at most this long for a response to a request that arrives from now on; return whether there was one."""
        # A response that is being made now may have the values of a moment ago. It has the former event.
        sent = self._sent = threading.Event()
        return sent.wait(seconds)

    def _respond(self, *request: Any) -> _Response:
        sent = self._sent

        def note() -> None:
            sent.set()
            self._has_been_read = True

        self._before_read()
        return _Response(self._app(*request), note)

    def close(self) -> None:
        """End the server, and free its port."""
        self._server.shutdown()
        self._server.server_close()


class _Response:
    """The body of a response, with a note when it has been sent."""

    def __init__(self, parts: Iterable[bytes], note: Callable[[], None]) -> None:
        self._parts, self._note = parts, note

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)

    def close(self) -> None:
        """Note that the response has been sent. The server calls this, as PEP 3333 says."""
        self._note()


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_SECONDS

    def log_message(self, *_: Any) -> None:
        """Log nothing, because a request comes every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Listen, without the look-up of the address's name in http.server. It may take long without a name server."""
        TCPServer.server_bind(self)
        address, self.server_port = self.server_address[:2]
        self.server_name = str(address)
        self.setup_environ()

    def handle_error(self, *_: Any) -> None:
        """Ignore the error of a client that is slow or gone."""


class _Server6(_Server):
    address_family = AF_INET6
