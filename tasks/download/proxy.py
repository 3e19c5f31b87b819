"""The proxy that a worker's operator names, and guarded connections through it.

An ``http`` URL is asked for at the proxy itself, in absolute form, so all hosts share one connection; for ``https`` the
proxy opens a tunnel (CONNECT), and TLS is with the host behind it. The proxy's password (``Proxy-Authorization``) is
sent to the proxy and to nobody else: inside a tunnel nothing is added.

urllib3 can do that too, and reads as many lines of the answer to CONNECT as come, each within a timeout of its own.
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

#: Without what a URL's userinfo looks like: that is redacted wherever this is shown.
_FORM = "http://host:port, with user:password@ before the host if the proxy requires them"
_OTHER_PROXIES = ("https", "socks4", "socks4a", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy: its address, and what it asks of those who use it."""

    host: str
    port: int
    #: The value of Proxy-Authorization.
    credentials: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Return the proxy that a URL stands for; what is escaped in its user and password is unescaped.

        Raises:
            ValueError: it is none. The text quotes nothing of it, which may be a password.
        """
        scheme = url.partition(":")[0].lower()
        if scheme in _OTHER_PROXIES:
            raise ValueError(f"{scheme}:// proxies are not supported; it must be {_FORM}; https goes through it, too")
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
        """What a request to the proxy says besides the URL."""
        return {} if self.credentials is None else {"Proxy-Authorization": self.credentials}

    def auth_error(self) -> ConnectError:
        """Return what it means that the proxy asks for credentials: those that it was given, if any, are wrong."""
        failure = ConnectError(
            f"{self} refuses this worker: HTTP 407 "
            "(the worker's operator sets user and password with IMAGEFLEET_PROXY and IMAGEFLEET_PROXY_PASSWORD_FILE)"
        )
        failure.is_worker_fault = True
        return failure


class ForwardedConnection(GuardedConnection):
    """A connection to the proxy, which asks it for URLs of any host."""

    #: Not `proxy`, which is urllib3's.
    through: Proxy

    def _new_conn(self) -> Any:
        return _connect_to_proxy(self)

    def request(  # type: ignore[override]
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **_: Any
    ) -> None:
        """Send the head of a GET.

        Args:
            method: GET.
            url: all of it; its host is what Host says.
            headers: the fields besides Host.

        Raises:
            http.client.InvalidURL: the URL would end its line.
        """
        self._host_field = url.partition("://")[2].partition("/")[0]
        super().request(method, url, headers={**(headers or {}), **self.through.headers})

    def getresponse(self) -> Any:
        """Return the response, with its body unread.

        Raises:
            http.client.HTTPException, OSError, ConnectError: there is none, it is not HTTP, or the proxy refuses.
        """
        try:
            response = super().getresponse()
        except http.client.RemoteDisconnected as error:
            raise ConnectError(f"{self.through} closed the connection without a response") from error
        if response.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            response.close()
            raise self.through.auth_error()
        return response


class TunnelledConnection(GuardedTlsConnection):
    """A connection inside TLS with a host, through a tunnel that the proxy opens."""

    through: Proxy

    def _new_conn(self) -> Any:
        connection = _connect_to_proxy(self)
        try:
            connection.use_deadline(self.current_deadline)
            self._open_tunnel(connection)
            # The handshake follows, which takes this timeout for all of it.
            connection.settimeout(self.current_deadline.deadline.wait())
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_tunnel(self, connection: PlainSocket) -> None:
        name = self.full_host
        target = f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"
        if not TARGET.fullmatch(target):
            raise http.client.InvalidURL(f"a host can't be {target[:80]!r}")
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        lines += [f"{name}: {value}" for name, value in self.through.headers.items()]
        try:
            connection.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii"))
            # What may come with the head is lost, and nothing should: in TLS the client speaks first.
            answer = Response(connection, method="CONNECT")
            with closing(answer):
                answer.begin()
        except TimeoutError as error:
            passed = self.current_deadline.deadline.timeout_message
            raise FetchTimeoutError(f"{self.through} {passed}, and opened no tunnel to {target}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ConnectError(f"{self.through} opened no tunnel to {target}: {error}") from error
        if answer.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise self.through.auth_error()
        if not 200 <= answer.status < 300:
            status = f"HTTP {answer.status} {answer.reason}".strip()
            raise ConnectError(f"{self.through} opened no tunnel to {target}: {status}")


def _connect_to_proxy(connection: ForwardedConnection | TunnelledConnection) -> PlainSocket:
    """Return a socket connected to a connection's proxy."""
    through = connection.through
    opened: PlainSocket = connection.connect_socket(connection.guard.connect_to_proxy, through.host, through.port)
    return opened
