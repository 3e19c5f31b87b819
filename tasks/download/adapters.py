"""Adapters for the requests library, one for each thread. Their connections are guarded.

Creating an `ssl.SSLContext` takes 20 ms, so all threads share one. By default, the requests library loads the CA
certificates again for every connection. Here, the library loads them only once.
"""

from __future__ import annotations

import http
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager

from config import VERSION
from tasks import file_descriptors
from tasks.deadline import Deadline
from tasks.download.connection import GuardedConnection, GuardedTlsConnection
from tasks.download.guard import Guard
from tasks.download.headers import checked_header, checked_value
from tasks.download.proxy import ForwardedConnection, Proxy, TunnelledConnection
from tasks.download.sockets import CurrentDeadline, TlsSocket
from tasks.download.tls import Tls
from tasks.download.urls import Url
from tasks.errors import ConnectError
from tasks.model import HeaderOptions

USER_AGENT = f"imagefleet/{VERSION}"
#: The number of hosts to which a thread keeps a connection open.
_POOLED_HOSTS = 10


class _Request(PreparedRequest):
    """A request that keeps its parsed URL, because the requests library would parse the URL's text five times."""

    parsed_url: Url


class _Pool:
    """One host's connection, without urllib3's own retries, redirects, proxies and timeouts.

    imagefleet has its own code for these.
    """

    def urlopen(self: Any, method: str, url: str, *, headers: Mapping[str, str], **_: Any) -> HTTPResponse:
        """Send a request and return the response, with its body unread.

        A server may close an idle connection just when a request is sent. So a request is repeated once, on a new
        connection, if a reused connection fails before the first byte of the response. Browsers and curl do the same.
        A request is also repeated after a 408 on a reused connection, because some servers send 408 when they close an
        idle connection.
        """
        connection = self._get_conn()
        reused = connection.sock
        try:
            if reused is not None:
                reused.has_received = False
            try:
                response = _exchange(connection, method, url, headers)
                stale = reused is not None and response.status == http.HTTPStatus.REQUEST_TIMEOUT
            except (OSError, ConnectError) as error:
                if reused is None or reused.has_received or isinstance(error, TimeoutError):
                    raise
                stale = True
            if stale:
                connection.close()
                response = _exchange(connection, method, url, headers)
        except BaseException:
            connection.close()
            self._put_conn(connection)
            raise
        # With these attributes, the response returns the connection to the pool after the body is read.
        response._connection, response._pool = connection, self
        return response

    def _put_conn(self: Any, connection: Any) -> None:
        """Keep a connection for the next request. An idle connection may be closed to free a file descriptor."""
        if connection is not None and connection.sock is not None:
            file_descriptors.IDLE_CONNECTIONS.add(connection.sock)
        super()._put_conn(connection)  # type: ignore[misc]


def _exchange(connection: GuardedConnection, method: str, url: str, headers: Mapping[str, str]) -> HTTPResponse:
    connection.request(method, url, headers=headers)
    return connection.getresponse()


class GuardedAdapter(HTTPAdapter):
    """The adapter of one thread. The guard opens the adapter's keep-alive connections."""

    def __init__(self, guard: Guard, tls: Tls, lenient: bool) -> None:
        self._guard, self._tls, self._lenient, self._current_deadline = guard, tls, lenient, CurrentDeadline()
        #: The host and pool of the last request. In most URL lists, the next image is on the same host, so reuse the
        #: pool.
        self._last: tuple[tuple[str, str, int], Any] | None = None
        super().__init__(pool_connections=_POOLED_HOSTS, pool_maxsize=1)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """Create the pools of guarded connections; the requests library does this for each new adapter."""
        plain, tls = self._connection_classes()
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._tls.context, **options)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = {
            "http": type("GuardedPool", (_Pool, HTTPConnectionPool), {"ConnectionCls": plain}),
            "https": type("GuardedTlsPool", (_Pool, HTTPSConnectionPool), {"ConnectionCls": tls}),
        }

    @property
    def tls_unverified(self) -> bool:
        """Whether the last request went to a server that was not verified."""
        return self._current_deadline.tls_unverified

    @property
    def _tls_settings(self) -> dict[str, Any]:
        """The settings shared by this thread's TLS connections."""
        return {"tls": self._tls, "lenient": self._lenient}

    def _connection_classes(self) -> tuple[type, type]:
        """Return the connection classes of this thread, for http and https."""
        # urllib3 takes the connection class from the class of the pool, so each thread has its own classes.
        shared = {"guard": self._guard, "current_deadline": self._current_deadline}
        return (
            type("GuardedConnection", (GuardedConnection,), shared),
            type("GuardedTlsConnection", (GuardedTlsConnection,), {**shared, **self._tls_settings}),
        )

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """Return the pool for the request's host, with the TLS context that all pools share."""
        assert isinstance(request, _Request)
        url = request.parsed_url
        host = (url.scheme, url.host, url.port)
        if self._last is None or self._last[0] != host:
            self._last = host, self.poolmanager.connection_from_host(url.host, url.port, url.scheme)
        return self._last[1]

    def request_url(self, request: PreparedRequest, proxies: Any) -> str:
        """Return path and query."""
        assert isinstance(request, _Request)
        return request.parsed_url.target

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """Return the response. The response's cookies and text encoding are not parsed, because images need neither."""
        response = Response()
        response.status_code, response.reason, response.raw = resp.status, resp.reason, resp
        # urllib3's mapping of the headers ignores case, like the mapping of the requests library.
        response.headers = resp.headers
        return response

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Load no certificates, because the shared context has them and verifies every server."""

    def get(self, url: Url, deadline: Deadline, headers: Mapping[str, str]) -> Response:
        """Send one GET request without following redirects, and return the response with its body unread.

        Args:
            url: the URL to request.
            deadline: the download's deadline.
            headers: the header fields, except Host and the Authorization for the URL's userinfo.

        Raises:
            requests.RequestException, tasks.errors.FetchError: raised by the requests library and by the guard.
        """
        self._current_deadline.deadline = deadline
        self._current_deadline.tls_unverified = False
        request = _Request()
        request.method, request.url, request.parsed_url = "GET", url.text, url
        # The connection sends the request's headers unchanged, and the requests library reads none of them.
        request.headers = headers  # type: ignore[assignment]
        if url.userinfo is not None:
            name, _, password = url.userinfo.partition(":")
            request.headers = CaseInsensitiveDict(headers)
            HTTPBasicAuth(unquote(name).encode(), unquote(password).encode())(request)
        return self.send(request, stream=True, timeout=deadline.wait())


class ProxiedAdapter(GuardedAdapter):
    """The adapter of one thread. All requests go through the operator's proxy.

    Before each request, the guard checks only the port and the host as written in the URL, because the proxy resolves
    host names.
    """

    def __init__(self, guard: Guard, tls: Tls, lenient: bool, proxy: Proxy) -> None:
        self._proxy = proxy
        super().__init__(guard, tls, lenient)

    def _connection_classes(self) -> tuple[type, type]:
        """Return the connection classes of this thread, for http and https."""
        shared = {"guard": self._guard, "current_deadline": self._current_deadline, "http_proxy": self._proxy}
        return (
            type("ForwardedConnection", (ForwardedConnection,), shared),
            type("TunnelledConnection", (TunnelledConnection,), {**shared, **self._tls_settings}),
        )

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """Return the proxy's pool for http, or the pool of the request's host for https."""
        assert isinstance(request, _Request)
        if request.parsed_url.scheme == "http":
            return self.poolmanager.connection_from_host(self._proxy.host, self._proxy.port, "http")
        return super().get_connection_with_tls_context(request, verify, proxies, cert)

    def request_url(self, request: PreparedRequest, proxies: Any) -> str:
        """Return the request target: the whole URL for http, or path and query for https inside a tunnel."""
        assert isinstance(request, _Request)
        return request.parsed_url.text if request.parsed_url.scheme == "http" else super().request_url(request, proxies)

    def get(self, url: Url, deadline: Deadline, headers: Mapping[str, str]) -> Response:
        """Send one GET request through the proxy if the guard permits the URL's host.

        Raises:
            requests.RequestException, tasks.errors.FetchError: raised by the requests library and by the guard.
        """
        self._guard.check_host(url.host, url.port)
        return super().get(url, deadline, headers)


@lru_cache(maxsize=64)
def request_headers(options: HeaderOptions, contact: str | None, same_host: bool) -> Mapping[str, str]:
    """Return the header fields of a request; the fields are cached for each run.

    Args:
        options: the run's header options.
        contact: where to complain about our requests; added to the default User-Agent.
        same_host: whether the request goes to the host in the URL list. Extra fields may be credentials, so they are
            sent only to the host in the URL list.

    Raises:
        ValueError: a field would end its line, or is reserved.
    """
    agent = options.user_agent or (USER_AGENT if contact is None else f"{USER_AGENT} (+{contact})")
    known = CaseInsensitiveDict(
        {"User-Agent": checked_value(agent), "Accept": "image/*,*/*;q=0.8", "Accept-Encoding": "identity"}
    )
    if options.referer is not None:
        known["Referer"] = checked_value(options.referer)
    if same_host:
        known.update(checked_header(name, value) for name, value in options.extra)
    # Return a plain dict, because the connection writes a dict's fields in a third of the time.
    return dict(known.items())


class Sessions:
    """The adapters of a process, one for each thread."""

    def __init__(
        self,
        guard: Guard,
        ca_bundle: Path | None = None,
        contact: str | None = None,
        proxy: Proxy | None = None,
        allow_insecure_tls: bool = False,
    ) -> None:
        """Set the objects and settings that all requests of the process share.

        Args:
            guard: opens the connections, to permitted addresses only.
            ca_bundle: a PEM file of CA certificates to trust instead of the default ones.
            contact: where to complain about our requests.
            proxy: the proxy for all requests; None to connect directly.
            allow_insecure_tls: whether runs with ``--insecure`` may skip the verification of servers.

        Raises:
            OSError: the certificates can't be read.
        """
        self._guard, self._proxy, self.contact = guard, proxy, contact
        self._tls = Tls(ca_bundle, allow_insecure_tls, TlsSocket)
        self._local = threading.local()

    @property
    def allows_insecure_tls(self) -> bool:
        """Whether runs with ``--insecure`` may skip the verification of servers."""
        return self._tls.unverified is not None

    def look_up_ahead(self, host: str, port: int, on_answer: Callable[[], object]) -> bool:
        """Start to resolve a name before a request needs it, as `Resolver.look_up_ahead` does.

        With a proxy, the result is always False, because the proxy resolves the names.
        """
        return self._proxy is None and self._guard.look_up_ahead(host, port, on_answer)

    def adapter(self, insecure: bool = False) -> GuardedAdapter:
        """Return the calling thread's adapter.

        Args:
            insecure: whether to accept servers that can't be verified, if the worker's operator allows this. A run with
                ``--insecure`` has its own adapter, so that a run with verification never uses an unverified connection.
        """
        lenient = insecure and self.allows_insecure_tls
        name = "lenient_adapter" if lenient else "adapter"
        adapter: GuardedAdapter | None = getattr(self._local, name, None)
        if adapter is None:
            adapter = (
                GuardedAdapter(self._guard, self._tls, lenient)
                if self._proxy is None
                else ProxiedAdapter(self._guard, self._tls, lenient, self._proxy)
            )
            setattr(self._local, name, adapter)
        return adapter
