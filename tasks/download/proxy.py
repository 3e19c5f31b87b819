"""The proxy that a worker's operator sets, and guarded connections through this proxy.

An ``http`` URL is requested from the proxy itself, in absolute form, so all hosts share one connection. For ``https``,
the proxy opens a tunnel (CONNECT) to the host, and TLS runs inside the tunnel. The proxy's password
(``Proxy-Authorization``) is sent only to the proxy, so requests inside a tunnel do not contain it.

The library urllib3 supports proxies, too. But in the response to CONNECT, urllib3 reads any number of lines, each with
its own timeout.
"""

from __future__ import annotations

import base64
import http
import http.client
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from tasks.download import urls
from tasks.download.connection import TARGET, GuardedConnection, GuardedTlsConnection, Response
from tasks.download.sockets import PlainSocket
from tasks.errors import ConnectError, FetchTimeoutError, InvalidUrlError

#: The form of a proxy's URL, for messages. A URL with userinfo would be redacted, so the userinfo is described in
#: words.
_FORM = "http://host:port, with user:password@ before the host if the proxy requires them"
_OTHER_PROXIES = ("https", "socks4", "socks4a", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy: its address and credentials."""

    host: str
    port: int
    #: The value of Proxy-Authorization.
    credentials: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Parse a proxy's URL. Percent-escapes in the user and password are decoded.

        Raises:
            ValueError: the URL is invalid. The message quotes no part of the URL, because each part may be the
                password.
        """
        scheme = url.partition(":")[0].lower()
        if scheme in _OTHER_PROXIES:
            raise ValueError(
                f"{scheme}:// proxies are not supported; it must be {_FORM}; an http proxy is also used for https URLs"
            )
        if scheme != "http":
            raise ValueError(f"it must be {_FORM}")
        try:
            parts = urls.parse(url)
        except InvalidUrlError as error:
            raise ValueError(
                f"it must be {_FORM}: {error} (percent-escape special characters in the password, or put "
                "the password into the file named by IMAGEFLEET_PROXY_PASSWORD_FILE)"
            ) from error
        if parts.target != "/":
            raise ValueError(f"it must be {_FORM}: nothing may follow the port")
        if parts.userinfo is None:
            return cls(parts.host, parts.port)
        name, _, password = map(unquote_to_bytes, parts.userinfo.partition(":"))
        return cls(parts.host, parts.port, "Basic " + base64.b64encode(name + b":" + password).decode())

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy {host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """The additional headers of a request to the proxy."""
        return {} if self.credentials is None else {"Proxy-Authorization": self.credentials}

    def auth_error(self) -> ConnectError:
        """Return the error for a proxy that requires credentials. The credentials are either missing or wrong."""
        failure = ConnectError(
            f"{self} refuses this worker: HTTP 407 "
            "(the worker's operator can set the user and password with IMAGEFLEET_PROXY and "
            "IMAGEFLEET_PROXY_PASSWORD_FILE)"
        )
        failure.is_worker_fault = True
        return failure


class ForwardedConnection(GuardedConnection):
    """A connection to the proxy, for ``http`` URLs of any host."""

    #: Not named `proxy`, because urllib3 uses that name.
    http_proxy: Proxy

    def _new_conn(self) -> Any:
        return _connect_to_proxy(self)

    def request(  # type: ignore[override]
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **_: Any
    ) -> None:
        """Send a GET request.

        Args:
            method: GET.
            url: the whole URL; its host is sent as Host.
            headers: the header fields except Host.

        Raises:
            http.client.InvalidURL: the URL has characters that would end the request line.
        """
        self._host_field = url.partition("://")[2].partition("/")[0]
        super().request(method, url, headers={**(headers or {}), **self.http_proxy.headers})

    def getresponse(self) -> Any:
        """Return the response, with its body unread.

        Raises:
            http.client.HTTPException, OSError: there is no response, or it is not HTTP.
            ConnectError: the proxy closes the connection, or requires other credentials.
        """
        try:
            response = super().getresponse()
        except http.client.RemoteDisconnected as error:
            raise ConnectError(f"{self.http_proxy} closed the connection without a response") from error
        if response.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            response.close()
            raise self.http_proxy.auth_error()
        return response


class TunnelledConnection(GuardedTlsConnection):
    """A TLS connection to a host, through a tunnel opened by the proxy."""

    http_proxy: Proxy

    def _new_conn(self) -> Any:
        connection = _connect_to_proxy(self)
        try:
            connection.use_deadline(self.current_deadline)
            self._open_tunnel(connection)
            # The TLS handshake follows, and this timeout applies to the whole handshake.
            connection.settimeout(self.current_deadline.deadline.wait())
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_tunnel(self, connection: PlainSocket) -> None:
        name = self.full_host
        target = f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"
        if not TARGET.fullmatch(target):
            raise http.client.InvalidURL(f"the host has characters not allowed in a request: {target[:80]!r}")
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        lines += [f"{name}: {value}" for name, value in self.http_proxy.headers.items()]
        try:
            connection.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii"))
            # Bytes received after the header are lost. No such bytes should exist, because the client sends first in
            # TLS.
            answer = Response(connection, method="CONNECT")
            with closing(answer):
                answer.begin()
        except TimeoutError as error:
            message = self.current_deadline.deadline.timeout_message
            raise FetchTimeoutError(f"{self.http_proxy} {message}, and opened no tunnel to {target}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ConnectError(f"{self.http_proxy} opened no tunnel to {target}: {error}") from error
        if answer.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise self.http_proxy.auth_error()
        if not 200 <= answer.status < 300:
            status = f"HTTP {answer.status} {answer.reason}".strip()
            raise ConnectError(f"{self.http_proxy} opened no tunnel to {target}: {status}")


def _connect_to_proxy(connection: ForwardedConnection | TunnelledConnection) -> PlainSocket:
    """Connect to the proxy that a connection uses; return the socket."""
    http_proxy = connection.http_proxy
    opened: PlainSocket = connection.connect_socket(connection.guard.connect_to_proxy, http_proxy.host, http_proxy.port)
    return opened
