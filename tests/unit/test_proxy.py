"""Requests go through the operator's proxy and nowhere else, and what can be judged before it is."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from config import SettingsError
from config.settings import Settings, settings
from tasks import download
from tasks.connection import Deadline
from tasks.download import Downloader
from tasks.errors import BlockedAddress, ConnectFailed, FetchError, HttpFailed, TimedOut, TlsFailed
from tasks.guard import Guard
from tasks.model import FetchOptions, Reason
from tasks.proxy import Proxy
from tasks.session import Sessions
from tests.forward_proxy import ForwardProxy
from tests.unit.conftest import ONCE, Answer, Canned, always, response
from tests.unit.test_session import drip, get

_BASIC = "Basic " + base64.b64encode("usér:wo@rd".encode()).decode()
_ESCAPED = "us%C3%A9r:wo%40rd@"

#: Sessions through the proxy at a port, of a guard that allows and denies; ``userinfo`` is what the proxy is told.
Through = Callable[..., Sessions]


@pytest.fixture
def through(certificate: Path) -> Iterator[Through]:
    """Make such sessions, and close them at the end."""
    made: list[Sessions] = []

    def make(port: int, *allow: str, deny: tuple[str, ...] = (), userinfo: str = "") -> Sessions:
        proxy = Proxy.parse(f"http://{userinfo}127.0.0.1:{port}")
        made.append(Sessions(Guard(allow, deny), certificate, proxy=proxy))
        return made[-1]

    yield make
    for sessions in made:
        sessions.adapter().close()


def failure(url: str, sessions: Sessions, options: FetchOptions = ONCE) -> FetchError:
    """The error of a download."""
    with pytest.raises(FetchError) as caught:
        get(url, sessions, options)
    return caught.value


def test_http_is_asked_for_at_the_proxy(through: Through) -> None:
    """Names are the proxy's to resolve, URLs stand whole in the request, and all hosts share one connection."""
    with (
        Canned(always(response(b"first"))) as first,
        Canned(always(response(b"second"))) as second,
        ForwardProxy({"a.example:80": first.port, "b.example:8080": second.port}) as proxy,
    ):
        sessions = through(proxy.port)
        assert get("http://a.example/b%20c?d=e", sessions) == b"first"
        assert get("http://b.example:8080", sessions) == b"second"
        assert get("http://a.example/", sessions) == b"first"
        assert proxy.connections == 1
    assert [request.split(b"\r\n")[:2] for request in proxy.requests] == [
        [b"GET http://a.example/b%20c?d=e HTTP/1.1", b"Host: a.example"],
        [b"GET http://b.example:8080/ HTTP/1.1", b"Host: b.example:8080"],
        [b"GET http://a.example/ HTTP/1.1", b"Host: a.example"],
    ]
    assert b"Proxy-Authorization" not in b"".join(proxy.requests)


def test_https_goes_through_a_tunnel(through: Through, server_context: ssl.SSLContext) -> None:
    """TLS is with the host behind the proxy, whose certificate is verified, and a tunnel serves the next image too."""
    with (
        Canned(always(response()), server_context) as server,
        ForwardProxy({server.address: server.port}, _BASIC) as proxy,
    ):
        sessions = through(proxy.port, server.address, userinfo=_ESCAPED)
        for _ in range(2):
            assert get(server.url + "/b", sessions) == b"body"
        assert (proxy.connections, server.connections) == (1, 1)
    head = f"CONNECT {server.address} HTTP/1.1\r\nHost: {server.address}\r\nProxy-Authorization: {_BASIC}\r\n\r\n"
    assert proxy.requests == [head.encode()]
    assert server.requests[0].startswith(b"GET /b HTTP/1.1\r\n")
    assert b"Proxy" not in b"".join(server.requests)


def test_certificate_of_another_host_is_refused(through: Through, server_context: ssl.SSLContext) -> None:
    """A proxy that leads elsewhere gets no request to read."""
    with (
        Canned(always(response()), server_context) as server,
        ForwardProxy({"a.example:443": server.port}) as proxy,
    ):
        error = failure("https://a.example/", through(proxy.port))
    assert type(error) is TlsFailed
    assert "its certificate is for another host (127.0.0.1, localhost)" in str(error)
    assert server.requests == []


def test_credentials_are_for_the_proxy(through: Through) -> None:
    """User and password are unescaped and sent with each request, beside those of a URL, which are the host's."""
    with Canned(always(response())) as server, ForwardProxy({"a.example:80": server.port}, _BASIC) as proxy:
        assert get("http://me:mine@a.example/", through(proxy.port, userinfo=_ESCAPED)) == b"body"
    assert f"Proxy-Authorization: {_BASIC}\r\n".encode() in proxy.requests[0]
    assert b"\r\nAuthorization: Basic bWU6bWluZQ==\r\n" in server.requests[0]
    assert b"Proxy-" not in server.requests[0]


@pytest.mark.parametrize("url", ["http://a.example/", "https://a.example/"])
@pytest.mark.parametrize("userinfo", ["", "user:wrong-word@"])
def test_wrong_credentials(through: Through, url: str, userinfo: str) -> None:
    """A proxy that asks for other credentials is a failed connection, which says what to do and shows none."""
    with ForwardProxy({}, _BASIC) as proxy:
        error = failure(url, through(proxy.port, userinfo=userinfo))
    assert type(error) is ConnectFailed
    assert (error.reason, error.retryable, error.http_status) == (Reason.CONNECT, True, None)
    assert f"the proxy 127.0.0.1:{proxy.port} does not let this worker through: HTTP 407" in str(error)
    assert "IMAGEFLEET_PROXY" in str(error)
    assert "wrong-word" not in str(error)


def test_next_request_may_pass(through: Through, waits: list[float]) -> None:
    """What the proxy refused is tried again, on a connection of its own."""
    answers = iter([response(b"no", "407 Proxy Authentication Required"), response()])
    with Canned(lambda _: [next(answers)]) as proxy:
        options = FetchOptions(retries=1, backoff=0, timeout=2.0)
        deadline = Deadline(options.timeout, options.deadline)
        downloader = Downloader(through(proxy.port), waits.append)
        got = downloader.download("http://a.example/", options, deadline, lambda: None)
    assert (got.body, len(waits)) == (b"body", 1)


def test_what_the_proxy_does_not_know(through: Through) -> None:
    """For http its word can't be told from a host's; where it opens no tunnel, there was no host."""
    with ForwardProxy({}) as proxy:
        assert type(failure("http://a.example/", through(proxy.port))) is HttpFailed
        error = failure("https://a.example/", through(proxy.port))
    assert type(error) is ConnectFailed
    assert str(error) == f"the proxy 127.0.0.1:{proxy.port} opened no tunnel to a.example:443: HTTP 502 Bad Gateway"


def closing(_: bytes) -> Iterator[bytes]:
    """Close the connection without a word."""
    raise ConnectionAbortedError


#: What a proxy answers to CONNECT, and what is said of it.
_NO_TUNNEL: dict[str, tuple[Answer, str]] = {
    "forbidden": (always(b"HTTP/1.1 403 Forbidden\r\n\r\n"), "HTTP 403 Forbidden"),
    "redirect": (always(b"HTTP/1.1 302 Found\r\nLocation: http://b.example/\r\n\r\n"), "HTTP 302 Found"),
    "switched": (always(b"HTTP/1.1 101 Switching\r\n\r\n"), "HTTP 101 Switching"),
    "not HTTP": (always(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "SSH-2.0"),
    "closed": (closing, "closed the connection"),
    "long line": (always(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 530_000 + b"\r\n\r\n"), "more than 512 KiB"),
    "many lines": (always(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 5001 + b"\r\n"), "more than 5,000 fields"),
    "long head": (always(b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"a" * 1000 + b"\r\n") * 530), "more than 512 KiB"),
}


@pytest.mark.parametrize(("answer", "message"), _NO_TUNNEL.values(), ids=_NO_TUNNEL)
def test_tunnel_that_is_none(through: Through, answer: Answer, message: str) -> None:
    """Whatever a proxy answers instead is a failed connection, and no more than a head of it is read."""
    with Canned(answer) as proxy:
        error = failure("https://a.example/", through(proxy.port))
    assert type(error) is ConnectFailed
    assert f"the proxy 127.0.0.1:{proxy.port} opened no tunnel to a.example:443: " in str(error)
    assert message in str(error)


def test_proxy_that_says_nothing_to_http(through: Through) -> None:
    """A connection that is closed without an answer is the proxy's fault, and is told as that."""
    with Canned(closing) as proxy:
        error = failure("http://a.example/", through(proxy.port))
    assert type(error) is ConnectFailed
    assert str(error) == f"the proxy 127.0.0.1:{proxy.port} closed the connection without an answer"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-proxy.invalid"])
def test_proxy_that_is_not_there(certificate: Path, scheme: str, host: str) -> None:
    """A proxy at which nobody listens, or without an address, is a failed connection; the host's name is not asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sessions = Sessions(Guard(), certificate, proxy=Proxy(host, port))
    error = failure(f"{scheme}://a.example/", sessions)
    assert type(error) is ConnectFailed
    assert str(error).startswith("the proxy can't be reached: ")
    assert host in str(error)


_SECONDS = 0.4


def dripping(ended: Callable[[], threading.Event], *heads: bytes) -> Answer:
    """Send the heads one after the other, and then a byte at a time."""

    def answer(_: bytes) -> Iterator[bytes]:
        for head in heads:
            yield head
            ended().wait(0.05)
        yield from drip(b"", ended)(b"")

    return answer


@pytest.mark.parametrize(
    ("scheme", "heads"),
    [
        ("http", [b"HTTP/1.1 200 OK\r\nX-Long: "]),
        ("https", [b"HTTP/1.1 200 OK\r\nX-Long: "]),
        ("https", [b"HTTP/1.1 200 OK\r\n\r\n", b"\x16\x03\x03\x40\x00"]),
        ("http", [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"]),
    ],
    ids=["head", "head of a tunnel", "handshake", "body"],
)
def test_deadline_holds(through: Through, scheme: str, heads: list[bytes]) -> None:
    """A proxy that sends a byte at a time holds no download for longer than its deadline."""
    servers: list[Canned] = []
    with Canned(dripping(lambda: servers[0].ended, *heads)) as proxy:
        servers.append(proxy)
        sessions = through(proxy.port)
        begun = monotonic()
        error = failure(f"{scheme}://a.example/", sessions, FetchOptions(timeout=10.0, deadline=_SECONDS, retries=0))
        seconds = monotonic() - begun
    assert type(error) is TimedOut
    assert _SECONDS * 0.9 <= seconds <= _SECONDS * 1.25


def test_silent_proxy_times_out(through: Through) -> None:
    """One wait for the proxy is bounded by the timeout."""
    with Canned(always()) as proxy:
        sessions = through(proxy.port)
        for scheme in ("http", "https"):
            error = failure(f"{scheme}://a.example/", sessions, FetchOptions(timeout=0.1, retries=0))
            assert type(error) is TimedOut
    silent = f"the proxy 127.0.0.1:{proxy.port} sent nothing for 0.1 s (--timeout)"
    assert str(error) == f"{silent}, and opened no tunnel to a.example:443"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://10.0.0.1/",
        "https://169.254.169.254/",
        "http://0x7f.1/",
        "http://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "http://localhost/",
        "http://a.LOCALHOST./",
        "http://a.example:25/",
        "http://93.184.215.14:25/",
        "http://denied.example/",
        "https://below.denied.example/",
        "http://1.1.1.1/",
    ],
)
def test_what_can_be_judged_is_refused(through: Through, url: str) -> None:
    """Addresses that are written out, ports and denied names never get as far as the proxy."""
    with Canned(always(response())) as proxy:
        error = failure(url, through(proxy.port, "127.0.0.1:81", deny=("denied.example", "1.1.1.0/24")))
    assert type(error) is BlockedAddress
    assert proxy.connections == 0


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://localhost:8080/", "http://a.example:25/"])
def test_what_is_allowed_goes_to_the_proxy(through: Through, url: str) -> None:
    """The operator's allowances hold with a proxy too."""
    with Canned(always(response())) as proxy:
        assert get(url, through(proxy.port, "10.0.0.0/8", "localhost", "a.example:25")) == b"body"


def test_redirect_to_a_private_address_is_refused(through: Through) -> None:
    """Each hop is judged, though the connection to the proxy stays the same."""
    moved = response(b"", "302 Found", "Location: http://169.254.169.254/latest/")
    with Canned(always(moved)) as proxy:
        error = failure("http://a.example/", through(proxy.port))
    assert type(error) is BlockedAddress
    assert len(proxy.requests) == 1


def test_environment_of_other_tools_changes_nothing(through: Through, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither another proxy nor an exception from the proxy can be given by the variables of other tools."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    with Canned(always(response())) as server, ForwardProxy({"a.example:80": server.port}) as proxy:
        assert get("http://a.example/", through(proxy.port)) == b"body"
        assert proxy.connections == 1


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set variables of ours, and no others."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"IMAGEFLEET_{name.upper()}", raising=False)

    def change(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"IMAGEFLEET_{name}", value)
        settings.cache_clear()

    yield change
    settings.cache_clear()


@pytest.mark.parametrize(
    ("url", "host", "port", "userinfo"),
    [
        ("http://proxy.example:3128", "proxy.example", 3128, None),
        ("HTTP://10.0.0.1:3128/", "10.0.0.1", 3128, None),
        ("http://[::1]:3128", "::1", 3128, None),
        ("http://proxy.example", "proxy.example", 80, None),
        ("http://user:p%3Ass%2F@proxy.example:3128", "proxy.example", 3128, b"user:p:ss/"),
        ("http://user@proxy.example:3128", "proxy.example", 3128, b"user:"),
    ],
)
def test_proxy_is_read(url: str, host: str, port: int, userinfo: bytes | None) -> None:
    """A proxy is an address and perhaps a user, and shows the former alone."""
    proxy = Proxy.parse(url)
    assert (proxy.host, proxy.port) == (host, port)
    expected = None if userinfo is None else "Basic " + base64.b64encode(userinfo).decode()
    assert proxy.credentials == expected
    assert expected is None or expected not in f"{proxy!r} {proxy}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("socks5://hidden:word@proxy.example:1080", "socks5:// proxies can't be used"),
        ("https://hidden:word@proxy.example:3128", "https:// proxies can't be used"),
        ("hidden:word@proxy.example:3128", "it has to be http://"),
        ("proxy.example:3128", "it has to be http://"),
        ("http://hidden:word@", "the URL has no host"),
        ("http://hidden:wo/rd@proxy.example:3128", "IMAGEFLEET_PROXY_PASSWORD_FILE"),
        ("http://hidden:wo#rd@proxy.example:3128", "the port is wrong"),
        ("http://hidden:word@proxy.example:3128/path", "nothing can follow the port"),
        ("http://hidden:word@[::1:3128", "bracket is not closed"),
    ],
)
def test_proxy_that_is_none(environment: Callable[..., None], url: str, message: str) -> None:
    """A proxy that can't be used ends the process at its start, with what is wrong, and shows no part of it."""
    environment(PROXY=url)
    with pytest.raises(SettingsError) as caught:
        download.for_process()
    assert str(caught.value).startswith("IMAGEFLEET_PROXY: ")
    assert message in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert "rd@proxy" not in str(caught.value)


def test_password_from_a_file(environment: Callable[..., None], tmp_path: Path) -> None:
    """The password may stand in a file, as it is; the settings show neither it nor one in the URL."""
    file = tmp_path / "password"
    file.write_text("p@ss/w:rd #1%\n")
    environment(PROXY="http://user:hidden@proxy.example:3128", PROXY_PASSWORD_FILE=str(file))
    found = settings()
    assert found.proxy_url == "http://user:p%40ss%2Fw%3Ard%20%231%25@proxy.example:3128"
    assert Proxy.parse(found.proxy_url).credentials == "Basic " + base64.b64encode(b"user:p@ss/w:rd #1%").decode()
    assert "hidden" not in f"{found!r} {found}"
    environment(PROXY="http://hidden\u2100@proxy.example:3128")
    with pytest.raises(SettingsError) as caught:
        download.for_process()
    assert str(caught.value) == "IMAGEFLEET_PROXY: it is no URL"
    file.unlink()
    with pytest.raises(SettingsError, match=r"^IMAGEFLEET_PROXY_PASSWORD_FILE: "):
        download.for_process()


def test_process_uses_the_proxy_of_its_environment(environment: Callable[..., None]) -> None:
    """What the operator's variable says holds for the process, but for what this machine serves itself."""
    with Canned(always(response(b"served"))) as server, ForwardProxy({server.address: server.port}) as proxy:
        environment(PROXY=f"http://127.0.0.1:{proxy.port}", ALLOW_NETWORKS=server.address)
        for proxied in (True, False):
            downloader = download.for_process(proxied=proxied)
            got = downloader.download(server.url, ONCE, Deadline(2.0, 5.0), lambda: None)
            assert (got.body, len(proxy.requests)) == (b"served", 1)
            downloader._sessions.adapter().close()
