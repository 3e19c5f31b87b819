"""A request that fails on a reused connection is sent again on a fresh connection.

The failure does not count as an attempt.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.deadline import Deadline
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.download.proxy import Proxy
from tasks.errors import ConnectError, FetchError, FetchTimeoutError, HttpRetryableClientError
from tasks.model import FetchOptions
from tests.forward_proxy import ForwardProxy
from tests.unit.conftest import Canned, always, response
from tests.waiting import PATIENCE

#: The ways in which a server ends a connection instead of answering.
Ending = Callable[[socket.socket], None]
_TIMEOUT_ANSWER = response(b"", "408 Request Timeout", "Connection: close")


class EndingServer(Canned):
    """A server that answers the first request on each connection, and ends the connection at the second request."""

    def __init__(self, end: Ending, tls: ssl.SSLContext | None = None, answered_connections: int = 100) -> None:
        """Take two arguments: how to end a connection, and how many connections get an answer.

        Later connections get no answer.
        """
        super().__init__(always(), tls)
        self._end, self._answered = end, answered_connections

    def _converse(self, client: socket.socket) -> None:
        if self.connections <= self._answered and self._read(client):
            client.sendall(response())
        if self._read(client):
            self._end(client)

    def _read(self, client: socket.socket) -> bool:
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            block = client.recv(65536)
            if not block:
                return False
            received += block
        self.requests.append(received)
        return True


def close(_: socket.socket) -> None:
    """End the connection with FIN, as `Canned` does."""


def reset(client: socket.socket) -> None:
    """End with RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # A thread that is still reading would keep the connection open.
    client.close()


def send_408(client: socket.socket) -> None:
    """End the connection with 408, as some servers do with idle connections."""
    client.sendall(_TIMEOUT_ANSWER)


class Client:
    """A downloader that counts its attempts and its waits."""

    def __init__(self, sessions: Sessions, retries: int = 0, timeout: float = 10.0) -> None:
        self.attempts, self.waits = 0, list[float]()
        self._downloader = Downloader(sessions, sleep=self.waits.append)
        self._options = FetchOptions(retries=retries, timeout=timeout)

    def get(self, url: str) -> bytes:
        """Return the body of a URL."""
        return self._downloader.download(url, self._options, Deadline(self._options.timeout, 30.0), self._count).body

    def _count(self, _: FetchError | None) -> None:
        self.attempts += 1


@pytest.fixture
def direct(sessions_to: Callable[..., Sessions]) -> Sessions:
    """Return sessions to loopback."""
    return sessions_to("127.0.0.1")


@pytest.mark.parametrize("end", [close, reset, send_408])
def test_resends_on_a_fresh_connection(direct: Sessions, end: Ending) -> None:
    """Each second request finds its connection closed. Every image needs one attempt, and there are no waits."""
    client = Client(direct)
    with EndingServer(end) as server:
        assert [client.get(f"{server.url}/{number}") for number in range(4)] == [b"body"] * 4
    assert (client.attempts, client.waits) == (4, [])
    assert server.connections == 4


def test_resends_inside_tls(direct: Sessions, server_context: ssl.SSLContext) -> None:
    """When TLS ends, the connection has ended too, with or without TLS's closing message."""
    client = Client(direct)
    with EndingServer(close, server_context) as server:
        assert [client.get(f"{server.url}/{number}") for number in range(3)] == [b"body"] * 3
    assert (client.attempts, client.waits, server.connections) == (3, [], 3)


@pytest.fixture
def through(certificate: Path) -> Iterator[Callable[[int], Sessions]]:
    """Return sessions through the proxy at a port."""
    made: list[Sessions] = []

    def make(port: int) -> Sessions:
        made.append(Sessions(Guard(["127.0.0.1"]), certificate, proxy=Proxy.parse(f"http://127.0.0.1:{port}")))
        return made[-1]

    yield make
    for sessions in made:
        sessions.adapter().close()


def test_resends_through_a_proxy(through: Callable[[int], Sessions]) -> None:
    """A proxy that closes idle connections costs no attempt, either."""
    with EndingServer(close) as proxy:
        client = Client(through(proxy.port))
        assert [client.get(f"http://a.example/{number}") for number in range(3)] == [b"body"] * 3
    assert (client.attempts, client.waits, proxy.connections) == (3, [], 3)


def test_resends_inside_a_tunnel(through: Callable[[int], Sessions], server_context: ssl.SSLContext) -> None:
    """If the server behind a tunnel closes the tunnel, the next request opens a new tunnel."""
    with (
        EndingServer(close, server_context) as server,
        ForwardProxy({f"localhost:{server.port}": server.port}) as proxy,
    ):
        client = Client(through(proxy.port))
        assert [client.get(f"https://localhost:{server.port}/{number}") for number in range(3)] == [b"body"] * 3
        assert (client.attempts, client.waits, server.connections) == (3, [], 3)


@pytest.mark.parametrize("end", [close, reset])
def test_second_failure_is_an_attempt(direct: Sessions, end: Ending) -> None:
    """The request is sent again only once. A second failure counts as a failed attempt."""
    client = Client(direct, retries=1)
    with EndingServer(end, answered_connections=1) as server:
        assert client.get(f"{server.url}/1") == b"body"
        with pytest.raises(ConnectError):
            client.get(f"{server.url}/2")
    # The first image sends one request. The second image sends three: on the old connection, on a fresh connection at
    # no cost, and as a retry.
    assert len(server.requests) == 4
    assert (client.attempts, len(client.waits)) == (3, 1)


def test_408_on_a_fresh_connection_is_final(direct: Sessions) -> None:
    """On a fresh connection, a 408 is the answer to the request, so it counts as an attempt."""
    client = Client(direct)
    with EndingServer(send_408, answered_connections=1) as server:
        client.get(f"{server.url}/1")
        with pytest.raises(HttpRetryableClientError):
            client.get(f"{server.url}/2")
    assert (len(server.requests), client.attempts) == (3, 2)


@pytest.mark.parametrize(
    "begun",
    [b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Le", response(b"whole")[:-2]],
    ids=["status line", "header", "body"],
)
@pytest.mark.parametrize("end", [close, reset])
def test_partial_response_is_not_resent(direct: Sessions, begun: bytes, end: Ending) -> None:
    """When the first byte of the answer arrives, the server has received the request.

    A later failure counts as an attempt.
    """

    def part(client: socket.socket) -> None:
        client.sendall(begun)
        end(client)

    client = Client(direct)
    with EndingServer(part) as server:
        client.get(f"{server.url}/1")
        with pytest.raises(FetchError):
            client.get(f"{server.url}/2")
    assert (len(server.requests), client.attempts) == (2, 2)


def test_timeout_is_not_resent(direct: Sessions) -> None:
    """A server that is silent until the timeout may still be working, so the request is not sent again."""
    client = Client(direct, timeout=0.1)
    with ExitStack() as stack:

        def send_nothing(_: socket.socket) -> None:
            server.ended.wait(PATIENCE)

        server = stack.enter_context(EndingServer(send_nothing))
        client.get(f"{server.url}/1")
        with pytest.raises(FetchTimeoutError):
            client.get(f"{server.url}/2")
        assert (len(server.requests), client.attempts) == (2, 2)
