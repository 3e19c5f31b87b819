"""A connection writes request headers and reads response headers."""

from __future__ import annotations

import gzip
import http.client
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.download.adapters import Sessions
from tasks.download.connection import GuardedConnection, Response
from tasks.download.guard import Guard
from tasks.errors import BadResponseError, FetchError, TruncatedError
from tasks.model import FetchOptions
from tests.unit.conftest import Answer, Canned, always
from tests.unit.download.test_adapters import get

_OK = b"HTTP/1.1 200 OK\r\n"
_BODY = b"Content-Length: 4\r\n\r\nbody"


def chunk(body: bytes) -> bytes:
    """Return the body as a single chunk."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def then_close(answer: bytes) -> Answer:
    """Send this answer, then close the connection."""

    def sent(_: bytes) -> Iterator[bytes]:
        yield answer
        raise ConnectionAbortedError

    return sent


@pytest.fixture
def answered(sessions_to: Callable[..., Sessions]) -> Callable[[bytes], bytes]:
    """Return a function that fetches the body from a server that sends these bytes."""

    def fetched(answer: bytes) -> bytes:
        with Canned(always(answer)) as server:
            return get(server.url, sessions_to(server.address))

    return fetched


@pytest.mark.parametrize(
    "head",
    [
        _OK + _BODY,
        b"HTTP/1.1 200\r\n" + _BODY,
        b"HTTP/1.0 200 OK\r\n" + _BODY,
        _OK + b"content-LENGTH:4\r\n\r\nbody",
        _OK + b"Content-Length:   4  \r\n\r\nbody",
        b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
        _OK + b"X-Folded: a\r\n  b\r\n" + _BODY,
        _OK + b" folded into nothing\r\n" + _BODY,
        _OK + b"no field at all\r\n" + _BODY,
        _OK + b": no name\r\n" + _BODY,
        _OK + b"X-Bytes: \xff\xfe\r\n" + _BODY,
        b"HTTP/1.1 100 Continue\r\n\r\n" + _OK + _BODY,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _OK + _BODY,
        _OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        _OK + b"Transfer-Encoding: Chunked\r\nContent-Length: 99\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
        b"HTTP/1.1 200OK\r\n" + _BODY,
        b"http/1.1 200 ok\r\n" + _BODY,
        b"HTTP/2 200\r\n" + _BODY,
        _OK + b"Transfer-Encoding: chunked\r\ntransfer-encoding: Chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        _OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        _OK + b"Transfer-Encoding: identity\r\n" + _BODY,
        _OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk(gzip.compress(b"body", mtime=0)),
        _OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(gzip.compress(b"body", mtime=0)),
        _OK
        + b"Transfer-Encoding: x-gzip , chunked\r\nContent-Encoding: deflate\r\n\r\n"
        + chunk(gzip.compress(zlib.compress(b"body"), mtime=0)),
        _OK + b"Transfer-Encoding: chunked\r\n\r\n0004 ;a=b\r\nbody\n0\nX-Trailer: a\n\n",
        _OK + b"Content-Length: 4, 4\r\n\r\nbody",
        _OK + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
        _OK + b"Content-Length: 004\r\nContent-Length: 4\r\n\r\nbody",
        _OK + b"X-Long: " + b"a" * 500_000 + b"\r\n" + _BODY,
        _OK + b"X-Many: a\r\n" * 4900 + _BODY,
        _OK + b"".join(b"X-%d: a\r\n" % number for number in range(4900)) + _BODY,
    ],
)
def test_valid_headers_are_read(answered: Callable[[bytes], bytes], head: bytes) -> None:
    """Response headers that browsers understand are read, in all their forms."""
    assert answered(head) == b"body"


def test_body_may_end_with_the_connection(sessions_to: Callable[..., Sessions]) -> None:
    """A response without a length is read until the server closes the connection."""
    with Canned(then_close(_OK + b"Connection: close\r\n\r\nbody")) as server:
        assert get(server.url, sessions_to(server.address)) == b"body"


@pytest.mark.parametrize("length", [b"-1", b"", b"abc", b"4 bytes", b"+4"])
def test_malformed_length_is_ignored(sessions_to: Callable[..., Sessions], length: bytes) -> None:
    """The body is read until the connection closes, and the connection is not reused."""
    with Canned(then_close(_OK + b"Content-Length: " + length + b"\r\n\r\nbody")) as server:
        assert get(server.url, sessions_to(server.address)) == b"body"


@pytest.mark.parametrize(
    "head",
    [
        _OK + b"Transfer-Encoding: gzip\r\n\r\n" + gzip.compress(b"body", mtime=0),
        _OK + b"Transfer-Encoding: gzip\r\nContent-Length: 3\r\n\r\n" + gzip.compress(b"body", mtime=0),
    ],
)
def test_body_without_chunks_ends_with_the_connection(sessions_to: Callable[..., Sessions], head: bytes) -> None:
    """A body whose transfer coding is not chunked ends when the connection closes, whatever Content-Length says."""
    with Canned(then_close(head)) as server:
        assert get(server.url, sessions_to(server.address)) == b"body"


_CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("head", "connections"),
    [
        (_OK + _CHUNKED * 2, 1),
        (_OK + b"Content-Length: 14\r\n" + _CHUNKED, 2),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + _CHUNKED, 2),
    ],
    ids=["chunked twice", "chunked with a length", "HTTP/1.0"],
)
def test_connection_with_an_ambiguous_end_is_not_reused(
    sessions_to: Callable[..., Sessions], head: bytes, connections: int
) -> None:
    """If a response states its end in two ways, the next response might be read wrongly."""
    with Canned(always(head + b"\r\n4\r\nbody\r\n0\r\n\r\n")) as server:
        sessions = sessions_to(server.address)
        assert [get(server.url, sessions) for _ in range(2)] == [b"body"] * 2
        assert server.connections == connections


@pytest.mark.parametrize("length", [b"4, 5", b"4\r\nContent-Length: 5", b"4, abc", b"4,", b"4\r\nContent-Length:"])
def test_conflicting_lengths_are_refused(sessions_to: Callable[..., Sessions], length: bytes) -> None:
    """Two different lengths may be an attack on a later request, so nothing is read and the connection is closed."""
    with Canned(always(_OK + b"Content-Length: " + length + b"\r\n\r\nbody!")) as server:
        sessions = sessions_to(server.address)
        for _ in range(2):
            with pytest.raises(BadResponseError, match="Content-Length has two different values"):
                get(server.url, sessions)
        assert server.connections == 2


@pytest.mark.parametrize(
    "body",
    [b"-4\r\nbody", b"0x4\r\nbody", b"4_0\r\nbody", b"\r\nbody", b"3\r\nbody", b"5\r\nbody\r\n", b"4\r\nbody\r\r\n"],
)
def test_malformed_chunk_is_truncated(sessions_to: Callable[..., Sessions], body: bytes) -> None:
    """A chunk's size must be in hexadecimal digits, and the chunk must have exactly this size."""
    with (
        Canned(then_close(_OK + _CHUNKED + b"\r\n" + body + b"\r\n0\r\n\r\n")) as server,
        pytest.raises(TruncatedError),
    ):
        get(server.url, sessions_to(server.address))


def test_incomplete_header_is_truncated(sessions_to: Callable[..., Sessions]) -> None:
    """If the connection closes before the header ends, the field that gives the body's length may be missing."""
    with Canned(then_close(_OK + b"Content-Type: image/png\r\n")) as server, pytest.raises(TruncatedError):
        get(server.url, sessions_to(server.address))


@pytest.mark.parametrize(
    ("head", "bound"),
    [
        (_OK + b"X-Long: " + b"a" * 530_000 + b"\r\n" + _BODY, "512 KiB"),
        (_OK + (b"X-Much: " + b"a" * 1000 + b"\r\n") * 530 + _BODY, "512 KiB"),
        (_OK + b"X: a\r\n" * 5001 + _BODY, "5,000 fields"),
    ],
)
def test_oversized_header_names_its_limit(answered: Callable[[bytes], bytes], head: bytes, bound: str) -> None:
    """A header above a limit is refused, and the error names the limit."""
    with pytest.raises(BadResponseError, match=f"sent an invalid header: it has more than {bound}"):
        answered(head)


@pytest.mark.parametrize(
    "head",
    [
        b"SMTP ready\r\n\r\n",
        b"HTTP/3 200 OK\r\n" + _BODY,
        b"HTTP/1.1 2000 OK\r\n" + _BODY,
        b"HTTP/1.1 two OK\r\n" + _BODY,
        b"HTTP/1.1 99 OK\r\n" + _BODY,
        _OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + gzip.compress(b"body", mtime=0),
        _OK + b"Transfer-Encoding: compress, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ],
)
def test_invalid_header_is_refused(answered: Callable[[bytes], bytes], head: bytes) -> None:
    """A response is bad if it is not HTTP, or if we can't decode its codings."""
    with pytest.raises(BadResponseError):
        answered(head)


def test_short_body_is_truncated(sessions_to: Callable[..., Sessions]) -> None:
    """A body shorter than its Content-Length is not accepted as complete."""
    with Canned(then_close(_OK + b"Content-Length: 9\r\n\r\nbody")) as server, pytest.raises(TruncatedError):
        get(server.url, sessions_to(server.address))


def test_request_header_is_well_formed(sessions_to: Callable[..., Sessions]) -> None:
    """A request has a request line and a Host header. Each header is on one line."""
    with Canned(always(_OK + _BODY)) as server:
        get(server.url + "/a%20b?c=d", sessions_to(server.address))
        lines = server.requests[0].split(b"\r\n")
    assert lines[0] == b"GET /a%20b?c=d HTTP/1.1"
    assert lines[1] == b"Host: " + server.address.encode()
    assert lines[-2:] == [b"", b""]
    assert all(line.count(b": ") == 1 for line in lines[1:-2])


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/a\x00", "/ä", ""])
def test_target_with_a_line_break_is_never_sent(target: str) -> None:
    """As a last line of defence, no URL can add a header to a request."""
    made = type("Made", (GuardedConnection,), {"guard": Guard()})
    connection = made("127.0.0.1", 9)
    with pytest.raises(http.client.InvalidURL):
        connection.request("GET", target)
    assert connection.sock is None


def test_silence_within_a_body_times_out(sessions_to: Callable[..., Sessions]) -> None:
    """The wait for the rest of a body is limited by the timeout."""
    with (
        Canned(always(_OK + b"Content-Length: 9\r\n\r\nbody")) as server,
        pytest.raises(FetchError, match=r"sent nothing for 0\.1 s \(--timeout\)$"),
    ):
        get(server.url, sessions_to(server.address), FetchOptions(timeout=0.1, retries=0))


_PIECES = (
    *(
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"\0",
    ),
    *(b"Content-Length: 4", b"Content-Length: ", b"Transfer-Encoding: chunked", b"Connection: close", b"4\r\nbody\r\n"),
    *(b"0\r\n\r\n", b"99999999999999999999", b"-1", b", ", b"gzip", b"\xff\x85", b"X: a"),
)


@given(st.lists(st.sampled_from(_PIECES) | st.binary(max_size=8), max_size=20).map(b"".join))
@settings(max_examples=200)
def test_any_response_is_read_or_refused(sent: bytes) -> None:
    """Arbitrary bytes are read as a response, or raise an error that the downloader maps.

    No other exception may be raised.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        answer = Response(ours, method="GET")
        with closing(answer), suppress(http.client.HTTPException, ConnectionError, ValueError):
            answer.begin()
            assert 200 <= answer.status <= 999 or answer.status == 101
            answer.read()
