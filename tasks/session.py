"""A requests adapter whose sockets are guarded and keep a deadline; one for each thread.

requests times each wait on a socket, so a server that sends a byte a second can hold a download for ever. Here every
read looks at the deadline first, also while headers arrive and inside TLS: the sockets are subclasses that shorten
their timeout as the deadline comes near.

Building an `ssl.SSLContext` costs 20 ms, so one context serves all threads, and requests' own way of loading
certificates for every connection is switched off.
"""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import unquote

import certifi
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from config import VERSION
from tasks.guard import Guard
from tasks.urls import Url

USER_AGENT = f"imagefleet/{VERSION}"
#: Hosts to which a thread keeps a connection open.
_HOSTS = 10


class Deadline:
    """When a download has to be over, and how long one wait may take; in seconds."""

    __slots__ = ("ends", "timeout")

    def __init__(self, timeout: float, seconds: float) -> None:
        self.timeout = timeout
        self.ends = monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds until the end; negative when it is over."""
        return self.ends - monotonic()

    def wait(self) -> float:
        """Return how long the next wait on a socket may take.

        Raises:
            TimeoutError: the deadline is over.
        """
        remaining = self.remaining
        if remaining <= 0:
            raise TimeoutError("the deadline is over")
        return min(self.timeout, remaining)


class _Holder:
    """The deadline of the download that a thread is at; its sockets look here."""

    __slots__ = ("deadline",)

    def __init__(self) -> None:
        self.deadline = Deadline(0, 0)

    def pace(self, connection: socket.socket) -> None:
        wait = self.deadline.wait()
        if connection.gettimeout() != wait:
            connection.settimeout(wait)


class _Paced:
    """What both kinds of socket share: each read looks at the deadline first."""

    holder: _Holder | None = None

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if self.holder is not None:
            self.holder.pace(self)  # type: ignore[arg-type]
        return int(super().recv_into(*args, **kwargs))  # type: ignore[misc]


class _Socket(_Paced, socket.socket):
    """A plain connection."""


class _TlsSocket(_Paced, ssl.SSLSocket):
    """A connection inside TLS; the context makes it from a plain one."""


class _GuardedConnection(HTTPConnection):
    guard: Guard
    holder: _Holder

    def _new_conn(self) -> Any:
        # `host` loses a trailing dot that `_dns_host` keeps: the name is resolved as it was given.
        connection = self.guard.connect(self._dns_host, self.port, self.holder.deadline.wait(), _Socket)
        connection.holder = self.holder  # type: ignore[attr-defined]
        # What follows is the handshake of TLS, which takes this timeout for all of it.
        connection.settimeout(self.holder.deadline.wait())
        return connection


class _GuardedTlsConnection(HTTPSConnection):
    guard: Guard
    holder: _Holder

    _new_conn = _GuardedConnection._new_conn

    def connect(self) -> None:
        super().connect()
        if isinstance(self.sock, _TlsSocket):
            self.sock.holder = self.holder


class _Request(PreparedRequest):
    """A request that knows its URL in parts, which requests would take apart five times over."""

    parts: Url


class GuardedAdapter(HTTPAdapter):
    """requests' adapter for one thread: keep-alive connections that the guard has opened."""

    def __init__(self, guard: Guard, context: ssl.SSLContext) -> None:
        self._guard, self._context, self._holder = guard, context, _Holder()
        #: The host that was asked last, and its pool: in most lists the next image is there too.
        self._last: tuple[tuple[str, str, int], Any] | None = None
        super().__init__(pool_connections=_HOSTS, pool_maxsize=1)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """Build the pools of guarded connections; requests calls this when the adapter is made."""
        # urllib3 takes the class of a connection from the class of its pool, so each thread has classes of its own.
        shared = {"guard": self._guard, "holder": self._holder}
        plain = type("GuardedConnection", (_GuardedConnection,), shared)
        tls = type("GuardedTlsConnection", (_GuardedTlsConnection,), shared)
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **options)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = {
            "http": type("GuardedPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("GuardedTlsPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """Return the pool of the request's host; all share one TLS context."""
        assert isinstance(request, _Request)
        parts = request.parts
        host = (parts.scheme, parts.host, parts.port)
        if self._last is None or self._last[0] != host:
            self._last = host, self.poolmanager.connection_from_host(parts.host, parts.port, parts.scheme)
        return self._last[1]

    def request_url(self, request: PreparedRequest, proxies: Any) -> str:
        """Return path and query."""
        assert isinstance(request, _Request)
        return request.parts.target

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """Return the response, without the cookies and the encoding of text, which no image needs."""
        response = Response()
        response.status_code, response.reason, response.raw = resp.status, resp.reason, resp
        # Case does not matter in these, either.
        response.headers = resp.headers
        return response

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Load nothing: the shared context holds the certificates and verifies every server."""

    def get(self, url: Url, deadline: Deadline) -> Response:
        """Send one GET, follow nothing, and return the response with its body unread.

        Raises:
            requests.RequestException, tasks.errors.FetchError: as requests and the guard do.
        """
        self._holder.deadline = deadline
        request = _Request()
        request.method, request.url, request.parts = "GET", url.text, url
        request.headers = CaseInsensitiveDict(
            {"User-Agent": USER_AGENT, "Accept": "image/*,*/*;q=0.8", "Accept-Encoding": "identity"}
        )
        if url.userinfo is not None:
            name, _, password = url.userinfo.partition(":")
            HTTPBasicAuth(unquote(name).encode(), unquote(password).encode())(request)
        return self.send(request, stream=True, timeout=deadline.wait())


class Sessions:
    """The adapters of a process: one for each thread that asks."""

    def __init__(self, guard: Guard, ca_bundle: Path | None = None) -> None:
        """Take the guard, and a PEM file of certificates to trust in place of the usual ones.

        Raises:
            OSError: the certificates can't be read.
        """
        self._guard = guard
        self._context = ssl.create_default_context(cafile=str(ca_bundle or certifi.where()))
        self._context.sslsocket_class = _TlsSocket
        self._local = threading.local()

    def adapter(self) -> GuardedAdapter:
        """Return the calling thread's adapter."""
        adapter: GuardedAdapter | None = getattr(self._local, "adapter", None)
        if adapter is None:
            adapter = self._local.adapter = GuardedAdapter(self._guard, self._context)
        return adapter
