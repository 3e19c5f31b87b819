"""A download returns bytes or raises the one matching error. Redirects and request headers follow the rules."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import replace

import pytest

from producer.demo import DemoServer, draw_image
from tasks.download.adapters import USER_AGENT, Sessions, request_headers
from tasks.download.downloader import Downloader
from tasks.download.urls import parse
from tasks.errors import (
    BadResponseError,
    BlockedAddressError,
    ConnectError,
    EmptyBodyError,
    FetchError,
    HttpClientError,
    HttpNotImplementedError,
    HttpRetryableClientError,
    HttpServerError,
    InvalidUrlError,
    OptedOutError,
    RateLimitedError,
    RedirectError,
    TooLargeError,
    TruncatedError,
)
from tasks.model import FetchOptions, HeaderOptions
from tasks.throttle.gate import HostGate
from tasks.throttle.host_key import HostKeys
from tasks.throttle.memory_registry import MemoryRegistry
from tests.unit.conftest import ONCE, Canned, always, response
from tests.unit.download.attempts import cut_off, download, failure

_FAULTS: dict[str, tuple[type[FetchError], int | None, str]] = {
    "/fault/not-found": (HttpClientError, 404, "HTTP 404 Not Found"),
    "/fault/forbidden": (HttpClientError, 403, "HTTP 403 Forbidden"),
    "/fault/gone": (HttpClientError, 410, "HTTP 410 Gone"),
    "/fault/rate-limited": (RateLimitedError, 429, "HTTP 429"),
    "/fault/server-error": (HttpServerError, 500, "HTTP 500"),
    "/fault/request-timeout": (HttpRetryableClientError, 408, "HTTP 408"),
    "/fault/not-implemented": (HttpNotImplementedError, 501, "HTTP 501"),
    "/fault/opted-out": (OptedOutError, 200, "X-Robots-Tag says noai (use --ignore-opt-out"),
    "/fault/no-content": (EmptyBodyError, 204, "HTTP 204"),
    "/fault/not-modified": (BadResponseError, 304, "HTTP 304 Not Modified, an unexpected status"),
    "/fault/partial": (
        BadResponseError,
        206,
        "HTTP 206 with only a part of the body, which was not requested: bytes 0-",
    ),
    "/fault/drop": (ConnectError, None, "closed the connection without a response"),
    "/fault/truncated": (TruncatedError, 200, "ended the body early"),
    "/fault/wrong-length?conflicting": (
        BadResponseError,
        None,
        "sent an invalid header: Content-Length has two different values: ",
    ),
    "/fault/bad-chunk": (TruncatedError, 200, ""),
    "/fault/huge-header": (BadResponseError, None, "sent an invalid header: it has more than 512 KiB"),
    "/fault/empty": (EmptyBodyError, 200, "the body is empty"),
    "/fault/huge": (TooLargeError, 200, "the body has 1,073,741,824 bytes, more than 100,000"),
    "/fault/huge?declared=no": (TooLargeError, 200, "the body has more than 100,000 bytes"),
    "/fault/gzip-bomb": (TooLargeError, 200, "more than 100,000"),
    "/fault/br-bomb": (TooLargeError, 200, "more than 100,000"),
    "/fault/zstd-bomb": (TooLargeError, 200, "more than 100,000"),
    "/fault/redirect-loop": (RedirectError, 302, "is a loop"),
    "/fault/redirect-chain?hops=6": (RedirectError, 302, "more than 5 redirects"),
    "/fault/redirect-to?url=ftp://a.example/": (
        RedirectError,
        302,
        "redirects to an invalid URL: the scheme ftp is not",
    ),
    "/fault/redirect-to?url=http://169.254.169.254/": (BlockedAddressError, None, "169.254.169.254"),
    "/fault/redirect-to?url=file:///etc/passwd": (RedirectError, 302, "the scheme file is not"),
}
_CANNED: dict[str, tuple[bytes, type[FetchError], str]] = {
    "not HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", BadResponseError, "not HTTP"),
    "malformed status": (b"HTTP/1.1 abc OK\r\n\r\n", BadResponseError, "not HTTP"),
    "status of an unknown class": (
        response(b"", "700 What"),
        BadResponseError,
        "HTTP 700 What, an unexpected status",
    ),
    **{
        f"not {name}": (
            response(b"<html>plain</html>", "200 OK", f"Content-Encoding: {name}"),
            BadResponseError,
            "as its header says",
        )
        for name in ("gzip", "deflate", "br", "zstd", "br, zstd")
    },
    "gzip six times": (
        response(b"<html>plain</html>", "200 OK", f"Content-Encoding: {', '.join(['gzip'] * 6)}"),
        BadResponseError,
        "encoded 6 times, more than 5",
    ),
    "zstd with a window of 256 MiB": (
        response(b"\x28\xb5\x2f\xfd\x00\x90\x01\x00\x00", "200 OK", "Content-Encoding: zstd"),
        BadResponseError,
        "as its header says",
    ),
    "length of 19 digits": (
        response(b"body", "200 OK", f"Content-Length: 1{'0' * 18}", length=False),
        BadResponseError,
        "Content-Length has 19 digits",
    ),
    "redirect without a Location": (response(b"", "302 Found"), RedirectError, "without a Location"),
    "redirect with a page and no Location": (response(b"<html>", "302 Found"), RedirectError, "without a Location"),
    "redirect with two Locations": (
        response(b"", "302 Found", "Location: /a", "Location: /b"),
        RedirectError,
        "HTTP 302 has 2 different Locations",
    ),
    "redirect to an unescaped host": (
        response(b"", "302 Found", "Location: http://a b/"),
        RedirectError,
        "host name is not valid",
    ),
}


_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


@pytest.mark.parametrize(("route", "expected"), _FAULTS.items(), ids=list(_FAULTS))
def test_each_fault_has_its_error(
    demo: DemoServer, downloader: Downloader, route: str, expected: tuple[type[FetchError], int | None, str]
) -> None:
    """Each fault of a server raises the one matching class, with the HTTP status."""
    error, attempts = failure(downloader, demo.url + route, FetchOptions(max_bytes=100_000, retries=0))
    assert (type(error), error.http_status) == expected[:2]
    assert expected[2] in str(error)
    assert attempts == 1


@pytest.mark.parametrize(("sent", "kind", "message"), _CANNED.values(), ids=_CANNED)
def test_malformed_response_has_its_error(
    sent: bytes, kind: type[FetchError], message: str, sessions_to: Callable[..., Sessions]
) -> None:
    """Each malformed response raises the one matching class."""
    with Canned(always(sent)) as server:
        sessions = sessions_to(server.address)
        error, _ = failure(Downloader(sessions), server.url)
    assert type(error) is kind
    assert message in str(error)


def test_image_is_returned_unchanged(demo: DemoServer, downloader: Downloader) -> None:
    """The body is unchanged, and comes with the response's metadata."""
    got, attempts = download(downloader, f"{demo.url}/images/3.png?width=40&height=30")
    assert got.body == draw_image(3, 40, 30, "png")
    assert (got.http_status, got.final_url, attempts) == (200, None, 1)
    assert got.etag is not None
    assert got.last_modified == "Thu, 01 Jan 2026 00:00:00 GMT"


def test_redirect_is_followed(demo: DemoServer, downloader: Downloader) -> None:
    """A redirect leads to the image, and the final URL is known."""
    got, attempts = download(downloader, f"{demo.url}/fault/redirect/3.jpg")
    assert got.final_url == f"{demo.url}/images/3.jpg"
    assert attempts == 1


def test_last_allowed_redirect_is_followed(demo: DemoServer, downloader: Downloader) -> None:
    """At most --max-redirects redirects are followed. With the value 0, no redirect is followed."""
    got, _ = download(downloader, f"{demo.url}/fault/redirect-chain/3.jpg?hops=5")
    assert got.http_status == 200
    error, _ = failure(downloader, f"{demo.url}/fault/redirect-chain?hops=1", FetchOptions(retries=0, max_redirects=0))
    assert type(error) is RedirectError


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_every_redirect_status_is_followed(status: str, sessions_to: Callable[..., Sessions]) -> None:
    """All redirect statuses are followed, and the final URL is shown without its secrets."""
    replies = iter([response(b"", status, "Location: /b?token=secret"), response()])
    with Canned(lambda _: [next(replies)]) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.final_url == f"{server.url}/b?token=***"
    assert b"GET /b?token=secret " in server.requests[1]


@pytest.mark.parametrize("host", ["a-.example", "-a.example", "_a_.example", "\U0001f600.example", "r3---sn.example"])
def test_unusual_host_names_are_accepted(
    monkeypatch: pytest.MonkeyPatch, sessions_to: Callable[..., Sessions], host: str
) -> None:
    """A host with dashes, underscores or an emoji is resolved and requested by the name that browsers use."""
    with Canned(always(response())) as server:
        asked: list[str] = []

        def look_up(name: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
            asked.append(name)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        url = f"http://{host}:{server.port}/a/../b.jpg"
        download(Downloader(sessions_to(server.address)), url)
    ascii_host = parse(url).host
    assert asked == [ascii_host]
    assert f"GET /b.jpg HTTP/1.1\r\nHost: {ascii_host}:{server.port}\r\n".encode() in server.requests[0]


def test_redirect_to_a_blocked_address_sends_nothing(demo: DemoServer, downloader: Downloader) -> None:
    """Each hop is checked, so an allowed server can't redirect us to a blocked server."""
    with Canned(always(response())) as inside:
        error, _ = failure(downloader, f"{demo.url}/fault/redirect-to?url={inside.url}/")
    assert type(error) is BlockedAddressError
    assert str(error).startswith("after a redirect: 127.0.0.1 (port ")
    assert inside.connections == 0


def test_invalid_url_is_never_tried(downloader: Downloader) -> None:
    """An invalid URL costs no attempt."""
    error, attempts = failure(downloader, "ftp://a.example/")
    assert (type(error), attempts) == (InvalidUrlError, 0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (['ETag: "a"', 'etag: "a"', f"Last-Modified: {_DATE}", f"Last-Modified: {_DATE}"], ('"a"', _DATE)),
        (['ETag: "a"', 'ETag: "b"', f"Last-Modified: {_DATE}", "Last-Modified: never"], (None, None)),
    ],
    ids=["the same", "different"],
)
def test_repeated_validators(
    fields: list[str], expected: tuple[str | None, str | None], sessions_to: Callable[..., Sessions]
) -> None:
    """A repeated validator counts once. If two validators differ, both are ignored."""
    with Canned(always(response(b"body", "200 OK", *fields))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert (got.etag, got.last_modified) == expected


def test_redirect_from_https_to_http(server_context: ssl.SSLContext, sessions_to: Callable[..., Sessions]) -> None:
    """A redirect from https to http is followed only if the user allows it."""
    with Canned(always(response())) as plain:
        moved = response(b"", "302 Found", f"Location: {plain.url}/?token=secret")
        with Canned(always(moved), server_context) as tls:
            downloader = Downloader(sessions_to("127.0.0.1"))
            refused, _ = failure(downloader, tls.url)
            assert plain.connections == 0
            assert download(downloader, tls.url, replace(ONCE, allow_downgrade=True))[0].body == b"body"
    assert type(refused) is RedirectError
    assert "token=*** leads from https to http" in str(refused)


def test_redirect_from_http_to_https(server_context: ssl.SSLContext, sessions_to: Callable[..., Sessions]) -> None:
    """A redirect from http to https is followed."""
    with Canned(always(response()), server_context) as tls:
        moved = response(b"", "302 Found", f"Location: {tls.url}/")
        plain = Canned(always(moved))
        with plain:
            assert download(Downloader(sessions_to("127.0.0.1")), plain.url)[0].body == b"body"


_HEAD = HeaderOptions(
    "Somebody/1.0", "https://page.example/", (("Authorization", "Bearer word"), ("accept", "image/png"))
)


def test_custom_headers_are_sent(sessions_to: Callable[..., Sessions]) -> None:
    """The user agent, the referer and each custom header are sent once."""
    with Canned(always(response())) as server:
        download(Downloader(sessions_to(server.address)), server.url, replace(ONCE, headers=_HEAD))
    lines = server.requests[0].split(b"\r\n")[2:-2]
    assert sorted(lines, key=bytes.lower) == [
        b"Accept-Encoding: identity",
        b"accept: image/png",
        b"Authorization: Bearer word",
        b"Referer: https://page.example/",
        b"User-Agent: Somebody/1.0",
    ]


def test_credentials_stay_with_their_host(sessions_to: Callable[..., Sessions]) -> None:
    """After a redirect to another host, neither the URL's credentials nor the user's headers are sent any more."""
    with Canned(lambda _: [next(others)]) as other, Canned(lambda _: [next(firsts)]) as first:
        here, elsewhere, back = "/b", f"{other.url}/c", f"{first.url}/d"
        firsts = iter([*(response(b"", "302 Found", f"Location: {place}") for place in (here, elsewhere)), response()])
        others = iter([response(b"", "302 Found", f"Location: {back}")])
        url = first.url.replace("://", "://user:word@")
        options = replace(ONCE, headers=replace(_HEAD, extra=(("X-Key", "k"),)))
        download(Downloader(sessions_to("127.0.0.1")), url, options)
    assert b"Authorization: Basic " in first.requests[0]
    assert [b"X-Key: k" in request for request in (*first.requests, *other.requests)] == [True, True, False, False]
    assert b"Authorization" not in b"".join([*first.requests[1:], *other.requests])
    assert b"User-Agent: Somebody/1.0" in other.requests[0]


@pytest.mark.parametrize(
    "fields", [(("X-A", "b\r\nX-Evil: c"),), (("Host", "a.example"),), (("X-A\r\nX-Evil", "c"),), (("", "c"),)]
)
def test_message_can_not_add_headers(fields: tuple[tuple[str, str], ...]) -> None:
    """A worker does not trust messages, so it also refuses a header that would not stay on one line."""
    with pytest.raises(ValueError, match=r"header|can't be set"):
        request_headers(HeaderOptions(extra=fields), None, True)


def test_user_agent_contains_the_contact() -> None:
    """The default user agent names imagefleet and the contact from IMAGEFLEET_CONTACT."""
    assert request_headers(HeaderOptions(), None, True)["User-Agent"] == USER_AGENT
    contact = request_headers(HeaderOptions(), "https://fleet.example/about", True)
    assert contact["User-Agent"] == f"{USER_AGENT} (+https://fleet.example/about)"


def test_rest_beyond_the_longest_countdown_is_not_requeued(sessions_to: Callable[..., Sessions]) -> None:
    """A message may not wait for longer than the longest countdown, so the image fails, even if its run would wait."""
    options = replace(ONCE, retries=1, deadline=60, max_retry_after=1000)
    with Canned(always(response(b"", "429 Slow down", "Retry-After: 600"))) as server:
        gate = HostGate(MemoryRegistry(), "one", HostKeys(lambda _: "192.0.2.1"))
        error, attempts = failure(Downloader(sessions_to(server.address), gate=gate), server.url, options)
        gate.stop()
    assert (type(error), attempts) == (RateLimitedError, 1)


def test_tried_image_keeps_its_own_error(sessions_to: Callable[..., Sessions]) -> None:
    """If its host is given up between two attempts, an image fails with the error of its attempt."""
    options = replace(ONCE, retries=2, backoff=0.01)
    with Canned(always(response(b"", "503 Down", "Retry-After: 600"))) as server:
        gate = HostGate(MemoryRegistry(), "one", HostKeys(lambda _: "192.0.2.1"))
        downloader = Downloader(sessions_to(server.address), sleep=lambda _: None, gate=gate)
        error, attempts = failure(downloader, server.url, replace(options, deadline=10_000, max_retry_after=1000))
        gate.stop()
    assert (type(error), attempts) == (HttpServerError, 1)


def test_probe_without_a_response_is_not_repeated(sessions_to: Callable[..., Sessions]) -> None:
    """If the probe of a host gets no response, the image has only this attempt, so that the host rests again soon."""
    options = replace(ONCE, retries=2, backoff=0.01)
    refusal = iter([(response(b"", "429 Slow down", "Retry-After: 1"),)])
    with Canned(lambda _: next(refusal, None) or cut_off()) as server:
        gate = HostGate(MemoryRegistry(), "one", HostKeys(lambda _: "192.0.2.1"), patience=10)
        downloader = Downloader(sessions_to(server.address), gate=gate)
        failure(downloader, server.url, ONCE)
        probed, attempts = failure(downloader, server.url, options)
        rest = downloader.report_unreachable(probed, options.throttle)
        gate.stop()
    assert (probed.is_probe, attempts) == (True, 1)
    assert rest == pytest.approx(10)
