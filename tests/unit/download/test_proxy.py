"""Requests go only through the operator's proxy. Before the proxy is contacted, the guard checks as much as it can."""

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
from tasks.deadline import Deadline
from tasks.download import downloader as downloading
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.download.proxy import Proxy
from tasks.errors import BlockedAddressError, ConnectError, FetchError, FetchTimeoutError, HttpServerError, TlsError
from tasks.model import FetchOptions, Reason
from tests.forward_proxy import ForwardProxy
from tests.unit.conftest import ONCE, Answer, Canned, always, response
from tests.unit.download.test_adapters import drip, get
from tests.waiting import PATIENCE

_BASIC = "Basic " + base64.b64encode("usér:wo@rd".encode()).decode()
_ESCAPED = "us%C3%A9r:wo%40rd@"

#: Make sessions through the proxy at a port, with a guard that allows and denies these entries. ``userinfo`` holds the
#: proxy's user and password.
Through = Callable[..., Sessions]


@pytest.fixture
def through(certificate: Path) -> Iterator[Through]:
    """Return a function that makes sessions through a proxy. The sessions are closed at the end."""
    opened: list[Sessions] = []

    def make(port: int, *allow: str, deny: tuple[str, ...] = (), userinfo: str = "") -> Sessions:
        proxy = Proxy.parse(f"http://{userinfo}127.0.0.1:{port}")
        opened.append(Sessions(Guard(allow, deny), certificate, proxy=proxy))
        return opened[-1]

    yield make
    for sessions in opened:
        sessions.adapter().close()


def failure(url: str, sessions: Sessions, options: FetchOptions = ONCE) -> FetchError:
    """Return the error of a download."""
    with pytest.raises(FetchError) as caught:
        get(url, sessions, options)
    return caught.value


def test_http_goes_to_the_proxy(through: Through) -> None:
    """The proxy resolves names, requests carry the whole URL, and all hosts share one connection."""
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
    """TLS connects to the host behind the proxy.

    The host's certificate is verified, and the next image uses the same tunnel.
    """
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
    """If a proxy connects to the wrong host, the host receives no request."""
    with (
        Canned(always(response()), server_context) as server,
        ForwardProxy({"a.example:443": server.port}) as proxy,
    ):
        error = failure("https://a.example/", through(proxy.port))
    assert type(error) is TlsError
    assert "its certificate is for another host (127.0.0.1, localhost)" in str(error)
    assert server.requests == []


def test_proxy_resolves_the_names() -> None:
    """With a proxy, no host name is looked up ahead. Without one, the host of each valid URL is looked up."""
    ended = threading.Event()
    proxied = Downloader(Sessions(Guard(), proxy=Proxy.parse("http://127.0.0.1:3128")))
    assert not proxied.look_up_ahead("http://localhost/1.jpg", ended.set)
    direct = Downloader(Sessions(Guard()))
    assert not direct.look_up_ahead("http:///", ended.set)
    assert direct.look_up_ahead("http://localhost/1.jpg", ended.set)
    assert ended.wait(PATIENCE)


def test_credentials_are_for_the_proxy(through: Through) -> None:
    """The proxy's credentials are unescaped and sent with each request.

    The URL's credentials for the host are sent separately.
    """
    with Canned(always(response())) as server, ForwardProxy({"a.example:80": server.port}, _BASIC) as proxy:
        assert get("http://me:mine@a.example/", through(proxy.port, userinfo=_ESCAPED)) == b"body"
    assert f"Proxy-Authorization: {_BASIC}\r\n".encode() in proxy.requests[0]
    assert b"\r\nAuthorization: Basic bWU6bWluZQ==\r\n" in server.requests[0]
    assert b"Proxy-" not in server.requests[0]


@pytest.mark.parametrize("url", ["http://a.example/", "https://a.example/"])
@pytest.mark.parametrize("userinfo", ["", "user:wrong-word@"])
def test_wrong_credentials(through: Through, url: str, userinfo: str) -> None:
    """If the proxy requires other credentials, the connection fails. The message gives a remedy, and no credentials."""
    with ForwardProxy({}, _BASIC) as proxy:
        error = failure(url, through(proxy.port, userinfo=userinfo))
    assert type(error) is ConnectError
    assert (error.reason, error.retryable, error.http_status) == (Reason.CONNECT, True, None)
    assert f"the proxy 127.0.0.1:{proxy.port} refuses this worker: HTTP 407" in str(error)
    assert "IMAGEFLEET_PROXY" in str(error)
    assert "wrong-word" not in str(error)


def test_retries_after_a_proxy_refusal(through: Through, waits: list[float]) -> None:
    """A request refused by the proxy is retried on a new connection."""
    answers = iter([response(b"no", "407 Proxy Authentication Required"), response()])
    with Canned(lambda _: [next(answers)]) as proxy:
        options = FetchOptions(retries=1, backoff=0, timeout=2.0)
        deadline = Deadline(options.timeout, options.deadline)
        downloader = Downloader(through(proxy.port), waits.append)
        got = downloader.download("http://a.example/", options, deadline, lambda _: None)
    assert (got.body, len(waits)) == (b"body", 1)


def test_host_unknown_to_the_proxy(through: Through) -> None:
    """For http, a 502 of the proxy looks like a 502 of the host.

    For https, the tunnel does not open, so the connection has failed.
    """
    with ForwardProxy({}) as proxy:
        assert type(failure("http://a.example/", through(proxy.port))) is HttpServerError
        error = failure("https://a.example/", through(proxy.port))
    assert type(error) is ConnectError
    assert str(error) == f"the proxy 127.0.0.1:{proxy.port} opened no tunnel to a.example:443: HTTP 502 Bad Gateway"


def closing(_: bytes) -> Iterator[bytes]:
    """Close the connection without an answer."""
    raise ConnectionAbortedError


#: A proxy's answers to CONNECT, each with a text from the resulting message.
_NO_TUNNEL: dict[str, tuple[Answer, str]] = {
    "forbidden": (always(b"HTTP/1.1 403 Forbidden\r\n\r\n"), "HTTP 403 Forbidden"),
    "redirect": (always(b"HTTP/1.1 302 Found\r\nLocation: http://b.example/\r\n\r\n"), "HTTP 302 Found"),
    "switched": (always(b"HTTP/1.1 101 Switching\r\n\r\n"), "HTTP 101 Switching"),
    "not HTTP": (always(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "SSH-2.0"),
    "closed": (closing, "closed the connection"),
    "long line": (always(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 530_000 + b"\r\n\r\n"), "more than 512 KiB"),
    "many lines": (always(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 5001 + b"\r\n"), "more than 5,000 fields"),
    "long header": (always(b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"a" * 1000 + b"\r\n") * 530), "more than 512 KiB"),
}


@pytest.mark.parametrize(("answer", "message"), _NO_TUNNEL.values(), ids=_NO_TUNNEL)
def test_refused_tunnel_is_a_failed_connection(through: Through, answer: Answer, message: str) -> None:
    """Any other answer to CONNECT is a failed connection. At most the maximum size of a header is read."""
    with Canned(answer) as proxy:
        error = failure("https://a.example/", through(proxy.port))
    assert type(error) is ConnectError
    assert f"the proxy 127.0.0.1:{proxy.port} opened no tunnel to a.example:443: " in str(error)
    assert message in str(error)


def test_proxy_that_closes_an_http_connection(through: Through) -> None:
    """If the proxy closes the connection without an answer, the error reports a failure of the proxy."""
    with Canned(closing) as proxy:
        error = failure("http://a.example/", through(proxy.port))
    assert type(error) is ConnectError
    assert str(error) == f"the proxy 127.0.0.1:{proxy.port} closed the connection without a response"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-proxy.invalid"])
def test_unreachable_proxy(certificate: Path, scheme: str, host: str) -> None:
    """The connection fails if the proxy has no listener or no address. The host's name is not resolved here."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sessions = Sessions(Guard(), certificate, proxy=Proxy(host, port))
    error = failure(f"{scheme}://a.example/", sessions)
    assert type(error) is ConnectError
    assert str(error).startswith("the proxy can't be reached: ")
    assert host in str(error)


_SECONDS = 0.4


def dripping(ended: Callable[[], threading.Event], *heads: bytes) -> Answer:
    """Send each header in one piece, and then send one byte at a time."""

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
    ids=["header", "header of a tunnel", "handshake", "body"],
)
def test_deadline_bounds_a_slow_proxy(through: Through, scheme: str, heads: list[bytes]) -> None:
    """A proxy that sends one byte at a time can't hold a download beyond its deadline."""
    servers: list[Canned] = []
    with Canned(dripping(lambda: servers[0].ended, *heads)) as proxy:
        servers.append(proxy)
        sessions = through(proxy.port)
        started = monotonic()
        error = failure(f"{scheme}://a.example/", sessions, FetchOptions(timeout=10.0, deadline=_SECONDS, retries=0))
        seconds = monotonic() - started
    assert type(error) is FetchTimeoutError
    assert _SECONDS * 0.9 <= seconds <= _SECONDS * 1.25


def test_silent_proxy_times_out(through: Through) -> None:
    """The timeout bounds each wait for the proxy."""
    with Canned(always()) as proxy:
        sessions = through(proxy.port)
        for scheme in ("http", "https"):
            error = failure(f"{scheme}://a.example/", sessions, FetchOptions(timeout=0.1, retries=0))
            assert type(error) is FetchTimeoutError
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
def test_guard_refuses_before_the_proxy(through: Through, url: str) -> None:
    """The guard refuses literal addresses, ports and denied names before it contacts the proxy."""
    with Canned(always(response())) as proxy:
        error = failure(url, through(proxy.port, "127.0.0.1:81", deny=("denied.example", "1.1.1.0/24")))
    assert type(error) is BlockedAddressError
    assert proxy.connections == 0


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://localhost:8080/", "http://a.example:25/"])
def test_allowed_addresses_go_to_the_proxy(through: Through, url: str) -> None:
    """The operator's allowances also apply with a proxy."""
    with Canned(always(response())) as proxy:
        assert get(url, through(proxy.port, "10.0.0.0/8", "localhost", "a.example:25")) == b"body"


def test_redirect_to_a_private_address_is_refused(through: Through) -> None:
    """Each redirect is checked, even on the same connection to the proxy."""
    moved = response(b"", "302 Found", "Location: http://169.254.169.254/latest/")
    with Canned(always(moved)) as proxy:
        error = failure("http://a.example/", through(proxy.port))
    assert type(error) is BlockedAddressError
    assert len(proxy.requests) == 1


def test_ignores_proxy_variables_of_other_tools(through: Through, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of other tools are ignored, whether they set a proxy or exceptions from a proxy."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    with Canned(always(response())) as server, ForwardProxy({"a.example:80": server.port}) as proxy:
        assert get("http://a.example/", through(proxy.port)) == b"body"
        assert proxy.connections == 1


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that sets our variables. No other variables of ours are set."""
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
def test_parses_the_proxy(url: str, host: str, port: int, userinfo: bytes | None) -> None:
    """A proxy has an address and optional credentials. Only the address is displayed."""
    proxy = Proxy.parse(url)
    assert (proxy.host, proxy.port) == (host, port)
    expected = None if userinfo is None else "Basic " + base64.b64encode(userinfo).decode()
    assert proxy.credentials == expected
    assert expected is None or expected not in f"{proxy!r} {proxy}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("socks5://hidden:word@proxy.example:1080", "socks5:// proxies are not supported"),
        ("https://hidden:word@proxy.example:3128", "https:// proxies are not supported"),
        ("hidden:word@proxy.example:3128", "it must be http://"),
        ("proxy.example:3128", "it must be http://"),
        ("http://hidden:word@", "the URL has no host"),
        ("http://hidden:wo/rd@proxy.example:3128", "IMAGEFLEET_PROXY_PASSWORD_FILE"),
        ("http://hidden:wo#rd@proxy.example:3128", "the port is invalid"),
        ("http://hidden:word@proxy.example:3128/path", "nothing may follow the port"),
        ("http://hidden:word@[::1:3128", "bracket is not closed"),
    ],
)
def test_refuses_an_unusable_proxy(environment: Callable[..., None], url: str, message: str) -> None:
    """A worker exits at its start if its proxy setting is unusable.

    The message has the reason and no part of the URL.
    """
    environment(PROXY=url)
    with pytest.raises(SettingsError) as caught:
        downloading.create_downloader()
    assert str(caught.value).startswith("IMAGEFLEET_PROXY: ")
    assert message in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert "rd@proxy" not in str(caught.value)


def test_reads_the_password_from_a_file(environment: Callable[..., None], tmp_path: Path) -> None:
    """The password may be given in a file, unescaped.

    The displayed settings contain neither this password nor a password in the URL.
    """
    file = tmp_path / "password"
    file.write_text("p@ss/w:rd #1%\n")
    environment(PROXY="http://user:hidden@proxy.example:3128", PROXY_PASSWORD_FILE=str(file))
    found = settings()
    assert found.proxy_url == "http://user:p%40ss%2Fw%3Ard%20%231%25@proxy.example:3128"
    assert Proxy.parse(found.proxy_url).credentials == "Basic " + base64.b64encode(b"user:p@ss/w:rd #1%").decode()
    assert "hidden" not in f"{found!r} {found}"
    environment(PROXY="http://hidden\u2100@proxy.example:3128")
    with pytest.raises(SettingsError) as caught:
        downloading.create_downloader()
    assert str(caught.value) == "IMAGEFLEET_PROXY: not a valid URL"
    file.unlink()
    with pytest.raises(SettingsError, match=r"^IMAGEFLEET_PROXY_PASSWORD_FILE: "):
        downloading.create_downloader()


def test_process_uses_the_proxy_of_its_environment(environment: Callable[..., None]) -> None:
    """The operator's proxy applies to the whole process. Only URLs served by this machine itself bypass the proxy."""
    with Canned(always(response(b"served"))) as server, ForwardProxy({server.address: server.port}) as proxy:
        environment(PROXY=f"http://127.0.0.1:{proxy.port}", ALLOW_NETWORKS=server.address)
        for proxied in (True, False):
            downloader = downloading.create_downloader(proxied=proxied)
            got = downloader.download(server.url, ONCE, Deadline(2.0, 5.0), lambda _: None)
            assert (got.body, len(proxy.requests)) == (b"served", 1)
            downloader._sessions.adapter().close()
