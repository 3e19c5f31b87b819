"""A guarded HTTP connection of one thread: heads are written and read in one go.

At 15 KB an image, urllib3 and the standard library spend a third of a download's CPU on the few lines around it: they
read a response's head as if it were a mail, and write a request's line by line.
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

#: The longest head in bytes, and the most fields in it: more than curl and browsers read.
MAX_HEADER_BYTES = 512 * 1024
MAX_FIELDS = 5000
#: Validators: a response that has two different ones has none.
_VALIDATORS = ("etag", "last-modified")
#: HTTP/1.x, as servers write it; what follows the status may lack its space or be missing. HTTP/2 comes from proxies
#: that copy the status line of another connection.
_STATUS_LINE = re.compile(rb"HTTP/(1\.[0-9]|2(?:\.0)?)[ \t]+([1-9][0-9]{2})(?![0-9])(.*)", re.IGNORECASE | re.DOTALL)
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")
#: The longest line of a chunk's size, in bytes: its extensions are skipped.
_MAX_CHUNK_LINE = 64 * 1024
#: More digits than the length of any body has.
_MAX_LENGTH_DIGITS = 18
_LEADING_ZEROS = re.compile(r"^0+(?=[0-9])")
#: What can stand in the line that a request begins with, and not end it.
TARGET = re.compile(r"[\x21-\x7e]+")


class BadHeaderError(http.client.HTTPException):
    """A response's head that is HTTP and can't be accepted: it is too large, or says two things about the body."""


class Response(http.client.HTTPResponse):
    """The standard library's response with a head that is read field by field, and no more.

    Its own parser is the one for mail: three times the time, and where a line is none, the rest counts as the body.
    """

    headers: HTTPHeaderDict  # type: ignore[assignment]

    def begin(self) -> None:
        """Read the head (RFC 9112); interim responses are skipped.

        Raises:
            http.client.HTTPException: it is not HTTP, has no end, or says in two ways how long the body is.
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
        # A body without a length of its own ends with the connection.
        self.will_close = (
            self.will_close is True
            or self._check_close()  # type: ignore[attr-defined]
            or (not self.chunked and self.length is None)
        )

    def _read_status_line(self) -> tuple[str, int, str]:
        """Return version, status and reason.

        Raises:
            http.client.HTTPException: it is not HTTP.
        """
        line = self.fp.readline(MAX_HEADER_BYTES + 1)
        if not line:
            raise http.client.RemoteDisconnected("the server closed the connection without a response")
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise http.client.BadStatusLine(repr(line[:40].decode("latin-1").rstrip()))
        return found[1].decode(), int(found[2]), found[3].decode("latin-1").strip()

    def _read_header_fields(self) -> HTTPHeaderDict:
        """Return the fields up to the empty line.

        A line that is no field is left out, as browsers do. A field that comes twice with the same value counts once.

        Raises:
            BadHeaderError: there is too much of them.
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
                # A folded value, which is obsolete.
                if fields:
                    name, value = fields[-1]
                    fields[-1] = name, f"{value} {text.strip()}"
                continue
            name, colon, value = text.partition(":")
            if colon and name and not name[-1].isspace():
                fields.append((name.lower(), value.strip()))
        else:
            # What came may lack the very field that says how long the body is.
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
        """Read Transfer-Encoding, and tell whether it says where the body ends (RFC 9112, 6.3).

        Codings besides chunked are handed on as the last content codings: both are undone in the same way.

        Raises:
            BadHeaderError: chunked is not the last one, so nobody can say where the body ends.
        """
        names = content_codings.parse(self.headers["transfer-encoding"])
        if not names:
            return False
        while names and names[-1] == "chunked":
            names.pop()
            self.chunked = True
        if "chunked" in names:
            raise BadHeaderError("chunked is not the last transfer coding")
        if names:
            applied = [*content_codings.parse(self.headers.get("content-encoding", "")), *names]
            self.headers["content-encoding"] = ", ".join(applied)
        # A length besides it counts for nothing, and may be an attempt to have the next response read wrongly: the
        # connection is not used again. Nor is one of HTTP/1.0, which knows no transfer coding.
        if "content-length" in self.headers or self.version == 10:
            self.headers.discard("content-length")
            self.will_close = True
        return True

    def _announced_length(self) -> int | None:
        """Return the length that is announced; None where it is no number: then the body ends with the connection.

        Raises:
            BadHeaderError: there are two lengths, of which one may be meant for somebody else.
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
            # `-1` is how some programs write that they don't know the length.
            self.headers.discard("content-length")
            return None
        if len(length) > _MAX_LENGTH_DIGITS:
            raise BadHeaderError(f"Content-Length has {len(length)} digits")
        self.headers["content-length"] = length
        return int(length)

    def _get_chunk_left(self) -> int | None:
        """Return how much of the current chunk is unread, after the next one's size if need be; None at the end.

        Raises:
            http.client.IncompleteRead: a chunk does not end where its size says.
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
    """A connection that the guard opens, and that sends nothing but GET."""

    guard: Guard
    current_deadline: CurrentDeadline
    _host_field: str | None = None

    def __init__(self, host: str, *args: Any, **options: Any) -> None:
        super().__init__(host, *args, **options)
        #: The host with its trailing dot, which `host` drops: names are resolved as given.
        self.full_host = host

    def _new_conn(self) -> Any:
        connection = self.connect_socket(self.guard.connect, self.full_host, self.port)
        # What may follow is the handshake of TLS, which takes this timeout for all of it.
        connection.settimeout(self.current_deadline.deadline.wait())
        return connection

    def open_socket(self, family: int, kind: int, protocol: int) -> PlainSocket:
        """Return a new socket; where no descriptor is left, idle connections are closed for it."""
        opened = file_descriptors.wait_for_descriptors(lambda: PlainSocket(family, kind, protocol), 0.0)
        file_descriptors.IDLE_CONNECTIONS.make_room(opened.fileno())
        return opened

    def connect_socket(self, connect: Callable[..., Any], host: str, port: int) -> Any:
        """Return a connected socket; while all descriptors are in use, it waits for one until the deadline.

        Args:
            connect: one of the guard's ways to connect.
            host: where to.
            port: where to.
        """
        deadline = self.current_deadline.deadline
        return file_descriptors.wait_for_descriptors(
            lambda: connect(host, port, deadline.wait(), self.open_socket), max(deadline.remaining, 0.0)
        )

    @property
    def is_connected(self) -> bool:
        """Whether the connection can be used again; urllib3 asks when it takes one out of its pool.

        A connection in a pool is among the idle ones, where another thread may have closed it to make room.
        """
        return self.sock is not None and file_descriptors.IDLE_CONNECTIONS.take(self.sock) and super().is_connected

    def close(self) -> None:
        """Close the connection."""
        if self.sock is not None:
            file_descriptors.IDLE_CONNECTIONS.take(self.sock)
        super().close()

    def connect(self) -> None:
        """Open the connection."""
        super().connect()
        if isinstance(self.sock, DeadlineSocket):
            self.sock.use_deadline(self.current_deadline)

    def request(  # type: ignore[override]
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **_: Any
    ) -> None:
        """Send the head of a GET.

        Args:
            method: GET.
            url: path and query, as they stand in the head.
            headers: the fields besides Host.

        Raises:
            http.client.InvalidURL: the URL would end its line.
        """
        if not TARGET.fullmatch(url):
            raise http.client.InvalidURL(f"a URL can't hold {url[:80]!r}")
        if self._host_field is None:
            host = f"[{self.host}]" if ":" in self.host else self.host
            self._host_field = host if self.port == self.default_port else f"{host}:{self.port}"
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self.send(f"{method} {url} HTTP/1.1\r\nHost: {self._host_field}\r\n{fields}\r\n".encode("ascii"))

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        """Return the response, with its body unread.

        Raises:
            http.client.HTTPException, OSError: there is none, or it is not HTTP.
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
    """The same inside TLS.

    Where ``lenient`` is set, a handshake that fails because the server can't be verified is made again without that.
    """

    tls: Tls
    lenient = False

    def connect(self) -> None:
        """Open the connection, and verify the server.

        Raises:
            ssl.SSLError: the handshake failed; for a certificate of another host, ``certified_names`` says of which.
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
        """Send the head of a GET, and note whether the server is one that could not be verified."""
        super().request(method, url, headers=headers, **options)
        if not self.is_verified:
            self.current_deadline.tls_unverified = True

    def _connect_unverified(self) -> None:
        """Open the connection without verifying the server; the next one begins with that again."""
        context, required = self.ssl_context, self.cert_reqs
        self.ssl_context, self.cert_reqs = self.tls.unverified, ssl.CERT_NONE
        try:
            super().connect()
        finally:
            self.ssl_context, self.cert_reqs = context, required

    def _certified_names(self) -> str:
        """Return the names that the server's certificate is for; of each server they are asked for once in a while."""
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
