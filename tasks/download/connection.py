"""Guarded HTTP connections: open a permitted socket, send a GET request, and parse the header of the response.

For an image of 15 KB, urllib3 and the standard library spend a third of the CPU time on headers. They parse the header
of a response as an email, and build each line of a request separately. Here, all lines of a request are built
together. A response's header is only split into lines and fields.
"""

from __future__ import annotations

import http
import http.client
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection

from tasks import file_descriptors
from tasks.download import content_codings
from tasks.download.guard import Guard
from tasks.download.sockets import CurrentDeadline, DeadlineSocket, PlainSocket
from tasks.download.tls import WRONG_HOST, Tls, certificate_names, is_avoidable
from tasks.errors import FetchError
from tasks.phases import Phase

#: The maximum size of a response header in bytes, and its maximum number of fields. Both limits are higher than in curl
#: and browsers.
MAX_HEADER_BYTES = 512 * 1024
MAX_FIELDS = 5000
#: Validators. If a response has two different values for the same validator, both values are ignored.
_VALIDATORS = ("etag", "last-modified")
#: The status line of HTTP/1.x, as servers write it. The reason and the space before it may be missing. HTTP/2 is
#: accepted, because some proxies copy the status line of another connection.
_STATUS_LINE = re.compile(rb"HTTP/(1\.[0-9]|2(?:\.0)?)[ \t]+([1-9][0-9]{2})(?![0-9])(.*)", re.IGNORECASE | re.DOTALL)
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")
#: The maximum length in bytes of a line that gives a chunk's size. Chunk extensions in the line are skipped.
_MAX_CHUNK_LINE = 64 * 1024
#: The maximum number of digits of a Content-Length, because no real body needs more digits.
_MAX_LENGTH_DIGITS = 18
_LEADING_ZEROS = re.compile(r"^0+(?=[0-9])")
#: Characters allowed in the target of a request; none of them ends the request line.
TARGET = re.compile(r"[\x21-\x7e]+")


class BadHeaderError(http.client.HTTPException):
    """A response header is valid HTTP, but it is too large or does not show where the body ends."""


class Response(http.client.HTTPResponse):
    """The standard library's response class, with our own header parser.

    The standard library parses headers with its email parser, which takes three times as long. If a line is not a
    field, the email parser treats the rest of the header as the body.
    """

    headers: HTTPHeaderDict  # type: ignore[assignment]

    def begin(self) -> None:
        """Read the header (RFC 9112); interim responses are skipped.

        Raises:
            http.client.HTTPException: the header is not HTTP, is incomplete or too large, or is ambiguous about the
                body.
        """
        while True:
            version, status, reason = self._read_status_line()
            self.headers = self.msg = self._read_header_fields()  # type: ignore[assignment]
            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                break
        self.code = self.status = status
        self.reason = reason
        self.version = 10 if version == "1.0" else 11
        self.chunked, self.chunk_left = False, None
        coded = "transfer-encoding" in self.headers and self._read_transfer_codings()
        self.length = None if coded else self._announced_length()
        if status in (http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED, http.HTTPStatus.SWITCHING_PROTOCOLS):
            self.length, self.chunked = 0, False
        # A body without a length ends when the server closes the connection.
        self.will_close = (
            self.will_close is True
            or self._check_close()  # type: ignore[attr-defined]
            or (not self.chunked and self.length is None)
        )

    def _read_status_line(self) -> tuple[str, int, str]:
        """Return version, status and reason.

        Raises:
            http.client.HTTPException: the line is not HTTP.
        """
        line = self.fp.readline(MAX_HEADER_BYTES + 1)
        if not line:
            raise http.client.RemoteDisconnected("the server closed the connection without a response")
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise http.client.BadStatusLine(repr(line[:40].decode("latin-1").rstrip()))
        return found[1].decode(), int(found[2]), found[3].decode("latin-1").strip()

    def _read_header_fields(self) -> HTTPHeaderDict:
        """Return the header fields up to the empty line.

        Lines that are not fields are skipped, as in browsers. A field repeated with the same value counts once.

        Raises:
            BadHeaderError: there are too many bytes or fields.
            http.client.IncompleteRead: the connection ended before the empty line.
        """
        fields: list[tuple[str, str]] = []
        rest = MAX_HEADER_BYTES
        while line := self.fp.readline(rest + 1):
            rest -= len(line)
            if rest < 0:
                raise BadHeaderError(f"it has more than {MAX_HEADER_BYTES // 1024} KiB")
            if line in (b"\r\n", b"\n"):
                break
            if len(fields) >= MAX_FIELDS:
                raise BadHeaderError(f"it has more than {MAX_FIELDS:,} fields")
            text = line.decode("latin-1")
            if line[0] in b" \t":
                # The line continues a folded value, which is obsolete syntax.
                if fields:
                    name, value = fields[-1]
                    fields[-1] = name, f"{value} {text.strip()}"
                continue
            name, colon, value = text.partition(":")
            if colon and name and not name[-1].isspace():
                fields.append((name.lower(), value.strip()))
        else:
            # One of the missing fields may be the length of the body.
            raise http.client.IncompleteRead(b"")
        found = HTTPHeaderDict()
        different = dict.fromkeys(fields)
        for name, value in different:
            found.add(name, value)
        if len(found) < len(different):
            for name in _VALIDATORS:
                if len(found.getlist(name)) > 1:
                    del found[name]
        return found

    def _read_transfer_codings(self) -> bool:
        """Parse Transfer-Encoding, and tell whether it determines the end of the body (RFC 9112, section 6.3).

        Codings other than chunked are appended to the content codings, because content and transfer codings are decoded
        in the same way.

        Raises:
            BadHeaderError: Transfer-Encoding does not end with chunked, so the end of the body is unknown.
        """
        names = content_codings.parse(self.headers["transfer-encoding"])
        if not names:
            return False
        while names and names[-1] == "chunked":
            names.pop()
            self.chunked = True
        if "chunked" in names:
            raise BadHeaderError("Transfer-Encoding does not end with chunked")
        if names:
            applied = [*content_codings.parse(self.headers.get("content-encoding", "")), *names]
            self.headers["content-encoding"] = ", ".join(applied)
        # If Transfer-Encoding applies, a Content-Length is ignored. The Content-Length may be an attempt to make us
        # misread the next response, so the connection is not reused. A connection with HTTP/1.0 is not reused either,
        # because HTTP/1.0 has no transfer codings.
        if "content-length" in self.headers or self.version == 10:
            self.headers.discard("content-length")
            self.will_close = True
        return True

    def _announced_length(self) -> int | None:
        """Return the Content-Length; None if it is missing or not a number.

        If no length is given, the body ends when the server closes the connection.

        Raises:
            BadHeaderError: there are two different lengths, one of which may be meant for another recipient. This error
                is also raised if the length has too many digits.
        """
        announced = self.headers.get("content-length")
        if announced is None:
            return None
        if announced.isascii() and announced.isdigit() and len(announced) <= _MAX_LENGTH_DIGITS:
            return int(announced)
        lengths = {_LEADING_ZEROS.sub("", value.strip()) for value in announced.split(",")}
        if len(lengths) > 1:
            raise BadHeaderError(f"Content-Length has two different values: {announced[:80]}")
        length = lengths.pop()
        if not (length.isascii() and length.isdigit()):
            # Some programs write `-1` for an unknown length.
            self.headers.discard("content-length")
            return None
        if len(length) > _MAX_LENGTH_DIGITS:
            raise BadHeaderError(f"Content-Length has {len(length)} digits")
        self.headers["content-length"] = length
        return int(length)

    def _get_chunk_left(self) -> int | None:
        """Return the number of unread bytes of the current chunk; None at the end of the body.

        If the current chunk is finished, the size of the next chunk is read first.

        Raises:
            http.client.IncompleteRead: a chunk does not end at its size, or its size is invalid.
        """
        if not self.chunk_left:
            if self.chunk_left is not None and self.fp.readline(3) not in (b"\r\n", b"\n"):
                raise http.client.IncompleteRead(b"")
            line = self.fp.readline(_MAX_CHUNK_LINE + 1)
            size = _CHUNK_SIZE.fullmatch(line.partition(b";")[0].strip())
            if size is None or len(line) > _MAX_CHUNK_LINE:
                self._close_conn()  # type: ignore[attr-defined]
                raise http.client.IncompleteRead(b"")
            self.chunk_left = int(size[0], 16) or None
            if self.chunk_left is None:
                self._read_and_discard_trailer()  # type: ignore[attr-defined]
                self._close_conn()  # type: ignore[attr-defined]
        return self.chunk_left


class GuardedConnection(HTTPConnection):
    """A connection opened by the guard. It sends only GET requests."""

    guard: Guard
    current_deadline: CurrentDeadline
    _host_field: str | None = None

    def __init__(self, host: str, *args: Any, **options: Any) -> None:
        super().__init__(host, *args, **options)
        #: The host as given, which is the form for name resolution. A trailing dot is kept in this form, but dropped in
        #: `host`.
        self.full_host = host

    def _new_conn(self) -> Any:
        connection = self.connect_socket(self.guard.connect, self.full_host, self.port)
        # A TLS handshake may follow, and this timeout applies to the whole handshake.
        connection.settimeout(self.current_deadline.deadline.wait())
        return connection

    def open_socket(self, family: int, kind: int, protocol: int) -> PlainSocket:
        """Return a new socket; if no file descriptor is free, idle connections are closed first."""
        opened = file_descriptors.wait_for_descriptors(lambda: PlainSocket(family, kind, protocol), 0.0)
        file_descriptors.IDLE_CONNECTIONS.make_room(opened.fileno())
        return opened

    def connect_socket(self, connect: Callable[..., Any], host: str, port: int) -> Any:
        """Return a connected socket; if all file descriptors are in use, wait for a free one until the deadline.

        Args:
            connect: the guard's method that connects to a host or to the proxy.
            host: the host to connect to.
            port: its port.
        """
        deadline = self.current_deadline.deadline
        return file_descriptors.wait_for_descriptors(
            lambda: connect(host, port, deadline.wait(), self.open_socket), max(deadline.remaining, 0.0)
        )

    @property
    def is_connected(self) -> bool:
        """Whether the connection can be reused; urllib3 reads this value when it takes the connection out of its pool.

        A connection in the pool is registered as idle. To free a file descriptor, another thread may have closed it.
        """
        return self.sock is not None and file_descriptors.IDLE_CONNECTIONS.take(self.sock) and super().is_connected

    def close(self) -> None:
        """Close the connection."""
        if self.sock is not None:
            file_descriptors.IDLE_CONNECTIONS.take(self.sock)
        super().close()

    def connect(self) -> None:
        """Open the connection. The next phase of the download is the wait for the response."""
        clock = self.current_deadline.deadline.clock
        clock.enter(Phase.CONNECT)
        super().connect()
        clock.enter(Phase.FIRST_BYTE)
        if isinstance(self.sock, DeadlineSocket):
            self.sock.use_deadline(self.current_deadline)

    def request(  # type: ignore[override]
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **_: Any
    ) -> None:
        """Send a GET request.

        Args:
            method: GET.
            url: path and query, as sent in the request line.
            headers: the header fields except Host.

        Raises:
            http.client.InvalidURL: the URL has characters that would end the request line.
        """
        if not TARGET.fullmatch(url):
            raise http.client.InvalidURL(f"the URL has characters not allowed in a request: {url[:80]!r}")
        if self._host_field is None:
            host = f"[{self.host}]" if ":" in self.host else self.host
            self._host_field = host if self.port == self.default_port else f"{host}:{self.port}"
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self.send(f"{method} {url} HTTP/1.1\r\nHost: {self._host_field}\r\n{fields}\r\n".encode("ascii"))

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        """Return the response, with its body unread.

        Raises:
            http.client.HTTPException, OSError: there is no response, or it is not HTTP.
        """
        answer = Response(self.sock, method="GET")
        try:
            answer.begin()
            response = HTTPResponse(
                body=answer,
                headers=answer.headers,
                status=answer.status,
                version=answer.version,
                reason=answer.reason,
                preload_content=False,
                decode_content=False,
                original_response=answer,
                request_method="GET",
            )
        except BaseException:
            answer.close()
            self.close()
            raise
        if answer.will_close:
            # The response holds the socket until its body is read.
            self.close()
        return response


class GuardedTlsConnection(GuardedConnection, HTTPSConnection):
    """A guarded connection with TLS.

    If ``lenient`` is set and the server can't be verified, the handshake is repeated without verification.
    """

    tls: Tls
    lenient = False

    def connect(self) -> None:
        """Open the connection and verify the server.

        Raises:
            ssl.SSLError: the handshake failed. If the certificate is for another host, ``certified_names`` has the
                names in the certificate.
        """
        server = (self.host, self.port)
        if self.lenient and self.tls.unverifiable.get(server):
            self._connect_unverified()
            return
        try:
            super().connect()
        except ssl.SSLError as error:
            self.close()
            if self.lenient and is_avoidable(error):
                self._connect_unverified()
                self.tls.unverifiable.put(server, True)
                return
            if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in WRONG_HOST:
                error.certified_names = self._certified_names()  # type: ignore[attr-defined]
            raise

    def request(  # type: ignore[override]
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        """Send a GET request, and record whether the server was unverified."""
        super().request(method, url, headers=headers, **options)
        if not self.is_verified:
            self.current_deadline.tls_unverified = True

    def _connect_unverified(self) -> None:
        """Open the connection without verifying the server, then restore the settings for verification."""
        context, required = self.ssl_context, self.cert_reqs
        self.ssl_context, self.cert_reqs = self.tls.unverified, ssl.CERT_NONE
        try:
            super().connect()
        finally:
            self.ssl_context, self.cert_reqs = context, required

    def _certified_names(self) -> str:
        """Return the names in the server's certificate; the names are cached for each server."""
        server = (self.host, self.port)
        names = self.tls.certified_names.get(server)
        if names is None:
            try:
                connection = self._new_conn()
                with connection, self.tls.any_name.wrap_socket(connection, server_hostname=self.host) as inside:
                    names = certificate_names(inside.getpeercert() or {})
            except (OSError, ValueError, FetchError):
                names = ""
            self.tls.certified_names.put(server, names)
        return names
