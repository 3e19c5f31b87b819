"""Sessions keep connections open, enforce deadlines against slow servers, and verify TLS."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from config import VERSION
from producer.demo import DemoServer
from tasks.deadline import Deadline
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.errors import BlockedAddressError, FetchError, FetchTimeoutError, TlsError
from tasks.model import FetchOptions
from tests.unit.conftest import ONCE, Answer, Canned, always, response

_SECONDS = 1.0  # deadline of the slow downloads
_LATEST = 1.1  # maximum duration of a slow download
#: On a busy machine, a thread may run late once. A wait that ignores the deadline is late each time.
_TRIES = 3


def get(url: str, sessions: Sessions, options: FetchOptions = ONCE) -> bytes:
    """Return the body of a URL, fetched in one attempt."""
    deadline = Deadline(options.timeout, options.deadline)
    return Downloader(sessions).download(url, options, deadline, lambda _: None).body


def timed(url: str, sessions: Sessions, timeout: float) -> tuple[FetchError, float]:
    """Return the error of a download with the short deadline, and the download's duration in seconds."""
    started = monotonic()
    with pytest.raises(FetchError) as caught:
        get(url, sessions, FetchOptions(timeout=timeout, deadline=_SECONDS, retries=0))
    return caught.value, monotonic() - started


def drip(head: bytes, ended: Callable[[], threading.Event]) -> Answer:
    """Send the header, then a byte every 20 ms."""

    def answer(_: bytes) -> Iterator[bytes]:
        yield head
        while not ended().wait(0.02):
            yield b"x"

    return answer


_SLOW_DOWNLOADS = {
    "body, one byte a second": ("demo", "/fault/drip"),
    "headers, one byte a second": ("demo", "/fault/slow-header"),
    "half a body": ("demo", "/fault/stall"),
    "no answer": ("demo", "/fault/silent"),
    "body, one byte at a time": ("body", "/"),
    "headers, one byte at a time": ("headers", "/"),
    "body inside TLS": ("tls body", "/"),
    "headers inside TLS": ("tls headers", "/"),
    "no handshake": ("mute", "/"),
}


@pytest.fixture(scope="module")
def slow_downloads(
    demo: DemoServer, certificate: Path, server_context: ssl.SSLContext
) -> Iterator[dict[str, tuple[FetchError, float]]]:
    """Run slow downloads at the same time, and return the error and the duration of each.

    Downloads that end late are tried again.
    """
    long = response(b"", "200 OK", "Content-Length: 100000", length=False)
    started = b"HTTP/1.1 200 OK\r\nX-Long: "
    with ExitStack() as stack:
        servers: dict[str, Canned] = {}

        def serve(name: str, head: bytes, tls: ssl.SSLContext | None) -> str:
            servers[name] = stack.enter_context(Canned(drip(head, lambda: servers[name].ended), tls))
            return servers[name].url

        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        urls = {
            "demo": demo.url,
            "body": serve("body", long, None),
            "headers": serve("headers", started, None),
            "tls body": serve("tls body", long, server_context),
            "tls headers": serve("tls headers", started, server_context),
            "mute": f"https://127.0.0.1:{mute.getsockname()[1]}",
        }
        sessions = Sessions(Guard(["127.0.0.1"]), certificate)
        with ThreadPoolExecutor(len(_SLOW_DOWNLOADS)) as pool:
            found: dict[str, tuple[FetchError, float]] = {}
            for _ in range(_TRIES):
                jobs = {
                    name: pool.submit(timed, urls[server] + path, sessions, 10.0)
                    for name, (server, path) in _SLOW_DOWNLOADS.items()
                    if name not in found or found[name][1] > _LATEST
                }
                found |= {name: job.result() for name, job in jobs.items()}
            yield found


@pytest.mark.parametrize("name", _SLOW_DOWNLOADS)
def test_deadline_ends_a_slow_download(slow_downloads: dict[str, tuple[FetchError, float]], name: str) -> None:
    """A download ends at the deadline, even if the server sends slowly and each single wait is short."""
    error, seconds = slow_downloads[name]
    assert type(error) is FetchTimeoutError
    assert _SECONDS * 0.9 <= seconds <= _LATEST


@pytest.mark.parametrize("route", ["stall", "silent", "drip"])
def test_timeout_bounds_each_wait(demo: DemoServer, demo_sessions: Sessions, route: str) -> None:
    """A silent server times out before the deadline."""
    error, seconds = timed(f"{demo.url}/fault/{route}", demo_sessions, 0.05)
    assert type(error) is FetchTimeoutError
    assert seconds < _SECONDS


def test_wait_is_the_minimum_of_timeout_and_deadline() -> None:
    """A single wait lasts at most the timeout, and is shorter if the deadline is near."""
    assert Deadline(timeout=1.0, seconds=60.0).wait() == 1.0
    near = Deadline(timeout=60.0, seconds=1.0)
    assert 0.0 < near.wait() <= 1.0
    assert near.wait() <= near.remaining + 0.1
    with pytest.raises(TimeoutError, match="deadline"):
        Deadline(timeout=1.0, seconds=0.0).wait()


def test_message_names_the_exceeded_limit() -> None:
    """The message about a slow server names the option responsible."""
    assert Deadline(timeout=1.0, seconds=60.0).timeout_message == "sent nothing for 1 s (--timeout)"
    assert Deadline(timeout=1.0, seconds=0.0).timeout_message == "did not finish within 0 s (--deadline)"


def test_connection_is_kept_open(sessions_to: Callable[..., Sessions]) -> None:
    """If a thread downloads twice from one host, both downloads share a connection."""
    with Canned(always(response())) as server:
        sessions = sessions_to(server.address)
        for _ in range(2):
            assert get(server.url, sessions) == b"body"
        assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize(
    "first",
    [response(b"gone", "404 Not Found"), response(b"", "302 Found", "Location: /b"), response(b"", "500 Oops")],
    ids=["404", "redirect", "500"],
)
def test_connection_stays_open_after_an_error_status(first: bytes, sessions_to: Callable[..., Sessions]) -> None:
    """A short unwanted body is read to its end, so the connection serves the next image."""
    replies = iter([first, response(), response()])
    with Canned(lambda _: [next(replies)]) as server:
        sessions = sessions_to(server.address)
        options = FetchOptions(retries=1, backoff=0)
        if first.startswith(b"HTTP/1.1 404"):
            with pytest.raises(FetchError, match="404"):
                get(server.url, sessions, options)
        assert get(server.url, sessions, options) == b"body"
        assert (len(server.requests), server.connections) == (2, 1)


def test_dead_connection_is_replaced(sessions_to: Callable[..., Sessions]) -> None:
    """If the server has closed a kept connection, the next download needs a retry, but does not fail."""
    with Canned(always(response())) as server:
        sessions = sessions_to(server.address)
        assert get(server.url, sessions) == b"body"
        server.drop_clients()
        assert get(server.url, sessions, FetchOptions(retries=1, backoff=0)) == b"body"
        assert server.connections == 2


def test_threads_share_no_connection() -> None:
    """Each thread has its own adapter, and keeps it."""
    sessions = Sessions(Guard())
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(sessions.adapter).result()
        assert pool.submit(sessions.adapter).result() is other
    assert sessions.adapter() is sessions.adapter()
    assert sessions.adapter() is not other


def test_request_headers(sessions_to: Callable[..., Sessions]) -> None:
    """A request has our User-Agent, asks for unencoded images, and carries nothing from the environment."""
    with Canned(always(response())) as server:
        get(f"{server.url}/b%20c.jpg?d=e", sessions_to(server.address))
        line, *headers = server.requests[0].decode().strip().split("\r\n")
    assert line == "GET /b%20c.jpg?d=e HTTP/1.1"
    assert sorted(headers) == [
        "Accept-Encoding: identity",
        "Accept: image/*,*/*;q=0.8",
        f"Host: {server.address}",
        f"User-Agent: imagefleet/{VERSION}",
    ]


@pytest.mark.parametrize(
    "variable",
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"],
)
def test_ignores_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    server_context: ssl.SSLContext,
    sessions_to: Callable[..., Sessions],
    variable: str,
) -> None:
    """Environment variables of other tools can't redirect a request past the guard, or change the trusted CAs."""
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with Canned(always(response())) as plain, Canned(always(response()), server_context) as tls:
        sessions = sessions_to(plain.address, tls.address)
        assert [get(server.url, sessions) for server in (plain, tls)] == [b"body"] * 2


def test_userinfo_is_basic_auth(sessions_to: Callable[..., Sessions]) -> None:
    """A URL's user and password are unescaped.

    User and password are sent as Basic credentials, not in the request line.
    """
    with Canned(always(response())) as server:
        get(f"http://us%C3%A9r:wo%40rd@{server.address}/b", sessions_to(server.address))
    expected = base64.b64encode("usér:wo@rd".encode()).decode()
    assert f"Authorization: Basic {expected}\r\n".encode() in server.requests[0]
    assert server.requests[0].startswith(b"GET /b HTTP/1.1\r\n")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_userinfo_does_not_cross_to_another_host(host: str, sessions_to: Callable[..., Sessions]) -> None:
    """After a redirect to another host, the first URL's credentials are not sent."""
    with (
        Canned(always(response())) as second,
        Canned(always(response(b"", "302 Found", f"Location: http://{host}:{second.port}/"))) as first,
    ):
        sessions = sessions_to(first.address, "127.0.0.1", "::1")
        get(f"http://user:word@{first.address}/", sessions)
    assert b"Authorization: Basic" in first.requests[0]
    assert b"Authorization" not in second.requests[0]


def test_credentials_are_not_kept(sessions_to: Callable[..., Sessions]) -> None:
    """Credentials sent over a connection are not sent for the next URL of the same host."""
    with Canned(always(response())) as server:
        sessions = sessions_to(server.address)
        get(f"http://user:word@{server.address}/", sessions)
        get(f"http://{server.address}/", sessions)
    assert [b"Authorization" in request for request in server.requests] == [True, False]


def test_cookies_are_not_kept(sessions_to: Callable[..., Sessions]) -> None:
    """A server's cookies for one image are not sent for the next."""
    with Canned(always(response(b"body", "200 OK", "Set-Cookie: a=b"))) as server:
        sessions = sessions_to(server.address)
        for _ in range(2):
            get(server.url, sessions)
    assert not any(b"Cookie" in request for request in server.requests)


def test_refuses_an_untrusted_certificate(server_context: ssl.SSLContext) -> None:
    """A server with an untrusted certificate receives no request."""
    with Canned(always(response()), server_context) as server, pytest.raises(TlsError, match="is self-signed"):
        get(server.url, Sessions(Guard([server.address])))
    assert server.requests == []


def test_trusts_the_operators_bundle(
    certificate: Path, server_context: ssl.SSLContext, sessions_to: Callable[..., Sessions]
) -> None:
    """With the operator's CA bundle, the same server is trusted, and its connection stays open."""
    with Canned(always(response()), server_context) as server:
        sessions = sessions_to("127.0.0.1", "::1")
        for _ in range(2):
            assert get(server.url, sessions) == b"body"
        assert server.connections == 1
        assert get(f"https://localhost:{server.port}/", sessions) == b"body"


def test_refuses_a_certificate_of_another_host(certificate: Path, server_context: ssl.SSLContext) -> None:
    """A trusted certificate is valid only for the names in it."""
    with (
        Canned(always(response()), server_context) as server,
        pytest.raises(TlsError, match=r"is for another host \(127\.0\.0\.1, localhost\)"),
    ):
        get(f"https://127.0.0.2:{server.port}/", Sessions(_ToLoopback(), certificate))
    assert server.requests == []


class _ToLoopback(Guard):
    """A guard that connects every host to 127.0.0.1."""

    def __init__(self) -> None:
        super().__init__(["127.0.0.1"])

    def resolve(self, host: str, port: int, timeout: float) -> list[tuple[Any, ...]]:
        """Return the server's address for any host."""
        return super().resolve("127.0.0.1", port, timeout)


def test_refuses_https_without_tls(demo: DemoServer, demo_sessions: Sessions) -> None:
    """An https URL of a server without TLS is a TLS failure."""
    with pytest.raises(TlsError):
        get(demo.url.replace("http:", "https:"), demo_sessions)


def test_blocked_https_is_blocked() -> None:
    """The guard refuses an address before TLS starts."""
    with pytest.raises(BlockedAddressError):
        get("https://127.0.0.1:1/", Sessions(Guard()))


def test_missing_bundle_fails_at_the_start(tmp_path: Path) -> None:
    """An unreadable CA bundle is reported when the process starts, not at the first image."""
    with pytest.raises(OSError, match="No such file"):
        Sessions(Guard(), tmp_path / "missing.pem")
