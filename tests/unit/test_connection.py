"""Heads of requests and responses, as a connection writes and reads them."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.connection import GuardedConnection, Response
from tasks.errors import BadResponse, FetchError, Truncated
from tasks.guard import Guard
from tasks.model import FetchOptions
from tasks.session import Sessions
from tests.unit.conftest import Answer, Canned, always
from tests.unit.test_session import get

_OK = b"HTTP/1.1 200 OK\r\n"
_BODY = b"Content-Length: 4\r\n\r\nbody"


def then_close(answer: bytes) -> Answer:
    """Send this, and close the connection."""

    def sent(_: bytes) -> Iterator[bytes]:
        yield answer
        raise ConnectionAbortedError

    return sent


@pytest.fixture
def answered(sessions_to: Callable[..., Sessions]) -> Callable[[bytes], bytes]:
    """Give what is fetched from a server that answers with these bytes."""

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
        _OK + b"".join(b"X-%d: a\r\n" % number for number in range(90)) + _BODY,
    ],
)
def test_head_is_read(answered: Callable[[bytes], bytes], head: bytes) -> None:
    """Heads that browsers understand, in all their forms, are understood."""
    assert answered(head) == b"body"


def test_body_may_end_with_the_connection(sessions_to: Callable[..., Sessions]) -> None:
    """A response without a length is read until the server closes."""
    with Canned(then_close(_OK + b"Connection: close\r\n\r\nbody")) as server:
        assert get(server.url, sessions_to(server.address)) == b"body"


@pytest.mark.parametrize(
    "head",
    [
        b"SMTP ready\r\n\r\n",
        b"HTTP/2 200 OK\r\n" + _BODY,
        b"HTTP/1.1 two OK\r\n" + _BODY,
        b"HTTP/1.1 99 OK\r\n" + _BODY,
        _OK + b"Content-Length: 4, 4\r\n\r\nbody",
        _OK + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
        _OK + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
        _OK + b"X-Long: " + b"a" * 70_000 + b"\r\n" + _BODY,
        _OK + b"X-Many: a\r\n" * 110 + _BODY,
        _OK + (b"X-Much: " + b"a" * 1000 + b"\r\n") * 70 + _BODY,
    ],
)
def test_head_that_is_none_is_refused(answered: Callable[[bytes], bytes], head: bytes) -> None:
    """What is not HTTP, or has too much of a head, is a bad response."""
    with pytest.raises(BadResponse):
        answered(head)


def test_short_body_is_truncated(sessions_to: Callable[..., Sessions]) -> None:
    """A body that is shorter than announced is not taken for whole."""
    with Canned(then_close(_OK + b"Content-Length: 9\r\n\r\nbody")) as server, pytest.raises(Truncated):
        get(server.url, sessions_to(server.address))


def test_request_is_one_head(sessions_to: Callable[..., Sessions]) -> None:
    """A request says what is asked for and of whom, and its fields are each a line."""
    with Canned(always(_OK + _BODY)) as server:
        get(server.url + "/a%20b?c=d", sessions_to(server.address))
        lines = server.requests[0].split(b"\r\n")
    assert lines[0] == b"GET /a%20b?c=d HTTP/1.1"
    assert lines[1] == b"Host: " + server.address.encode()
    assert lines[-2:] == [b"", b""]
    assert all(line.count(b": ") == 1 for line in lines[1:-2])


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/a\x00", "/ä", ""])
def test_target_that_would_end_its_line_is_never_sent(target: str) -> None:
    """The last line of defence: no URL can add a field to a request."""
    made = type("Made", (GuardedConnection,), {"guard": Guard()})
    connection = made("127.0.0.1", 9)
    with pytest.raises(http.client.InvalidURL):
        connection.request("GET", target)
    assert connection.sock is None


def test_silence_within_a_body_times_out(sessions_to: Callable[..., Sessions]) -> None:
    """The wait for the rest of a body is bounded by the timeout."""
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
    *(b"0\r\n\r\n", b"99999999999999999999", b"-1", b"\xff\x85", b"X: a"),
)


@given(st.lists(st.sampled_from(_PIECES) | st.binary(max_size=8), max_size=20).map(b"".join))
@settings(max_examples=200)
def test_whatever_a_server_sends_is_read_or_refused(sent: bytes) -> None:
    """A response made of anything is one, or an error that the downloader translates; nothing else is raised."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        answer = Response(ours, method="GET")
        with closing(answer), suppress(http.client.HTTPException, ConnectionError, ValueError):
            answer.begin()
            assert 200 <= answer.status <= 999 or answer.status == 101
            answer.read()
