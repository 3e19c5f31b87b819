"""Cookies set by redirects go to the permitted hosts and are forgotten after the attempt."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace

import pytest

from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.errors import RedirectError
from tasks.model import FetchOptions, HeaderOptions
from tests.unit.conftest import ONCE, Canned, always, response
from tests.unit.download.attempts import download, failure


def cookies_of(server: Canned) -> list[bytes]:
    """Return the Cookie line of each request, or an empty text for a request without one."""
    return [
        b"".join(line for line in request.split(b"\r\n") if line.lower().startswith(b"cookie:"))
        for request in server.requests
    ]


def test_cookies_live_for_one_download(sessions_to: Callable[..., Sessions]) -> None:
    """A redirect's cookie is sent only with later requests of the same download."""
    replies = iter(
        [*(response(b"", "302 Found", "Location: /b", f"Set-Cookie: a={value}") for value in "12"), response()] * 2
    )
    with Canned(lambda _: [next(replies)]) as server:
        downloader = Downloader(sessions_to(server.address))
        for _ in range(2):
            download(downloader, server.url)
    assert cookies_of(server) == [b"", b"Cookie: a=1", b"Cookie: a=2"] * 2


def test_cookies_live_for_one_attempt(sessions_to: Callable[..., Sessions]) -> None:
    """Each attempt starts without cookies, as the first attempt did."""
    moved = response(b"", "302 Found", "Location: /b", "Set-Cookie: a=1")
    replies = iter([moved, response(b"", "503 What"), moved, response()])
    with Canned(lambda _: [next(replies)]) as server:
        download(Downloader(sessions_to(server.address)), server.url, FetchOptions(retries=1, backoff=0))
    assert cookies_of(server) == [b"", b"Cookie: a=1"] * 2


def test_cookies_stay_with_their_host(sessions_to: Callable[..., Sessions]) -> None:
    """A cookie is sent only to the host that set it, and no host can set a cookie for another host."""
    with Canned(lambda _: [next(others)]) as other, Canned(lambda _: [next(firsts)]) as first:
        elsewhere = f"http://localhost:{other.port}/c"
        lines = ("Set-Cookie: a=1", "Set-Cookie: b=2; Domain=localhost", "Set-Cookie: c=3; Domain=.com")
        firsts = iter([response(b"", "302 Found", f"Location: {elsewhere}", *lines), response()])
        others = iter([response(b"", "302 Found", f"Location: {first.url}/d")])
        download(Downloader(sessions_to("127.0.0.1", "::1", "localhost")), first.url)
    assert cookies_of(first) == [b"", b"Cookie: a=1"]
    assert cookies_of(other) == [b""]


def test_secure_cookie_stays_inside_tls(server_context: ssl.SSLContext, sessions_to: Callable[..., Sessions]) -> None:
    """A Secure cookie is not sent without TLS, not even to the same host."""
    with Canned(always(response())) as plain:
        moved = response(b"", "302 Found", f"Location: {plain.url}/b", "Set-Cookie: a=1; Secure", "Set-Cookie: b=2")
        with Canned(always(moved), server_context) as tls:
            download(Downloader(sessions_to("127.0.0.1")), tls.url, replace(ONCE, allow_downgrade=True))
    assert cookies_of(plain) == [b"Cookie: b=2"]


def test_users_cookie_is_kept(sessions_to: Callable[..., Sessions]) -> None:
    """The user's own Cookie header is sent too, but only to the host in the list."""
    replies = iter([response(b"", "302 Found", "Location: /b", "Set-Cookie: a=1"), response()])
    with Canned(lambda _: [next(replies)]) as server:
        head = HeaderOptions(extra=(("cookie", "user=me"),))
        download(Downloader(sessions_to(server.address)), server.url, replace(ONCE, headers=head))
    assert cookies_of(server) == [b"cookie: user=me", b"cookie: user=me; a=1"]


@pytest.mark.parametrize(
    "line",
    [
        "a=b\rX-Evil: c",
        "a=caf\xe9",
        "a=b\x00",
        "a=" + "b" * 17_000,
        "a=b; Max-Age=0",
        "a=b; Path=/elsewhere",
        "a=b; Domain=example.com",
    ],
)
def test_unusable_cookies_are_not_sent(line: str, sessions_to: Callable[..., Sessions]) -> None:
    """A cookie is dropped if it would break its line, is too large, has expired, or belongs to another host or path."""
    replies = iter([response(b"", "302 Found", "Location: /b", f"Set-Cookie: {line}"), response()])
    with Canned(lambda _: [next(replies)]) as server:
        download(Downloader(sessions_to(server.address)), server.url)
    assert cookies_of(server) == [b"", b""]


@pytest.mark.parametrize(("new", "error"), [("each time", "more than 5 redirects"), ("once", "is a loop")])
def test_loop_is_the_same_url_with_the_same_cookies(new: str, error: str, sessions_to: Callable[..., Sessions]) -> None:
    """A redirect loop that always sets new cookies ends at --max-redirects.

    Any other loop ends at its first repetition.
    """

    def answer(_: bytes) -> list[bytes]:
        value = len(server.requests) if new == "each time" else 1
        return [response(b"", "302 Found", "Location: /", f"Set-Cookie: a={value}")]

    with Canned(answer) as server:
        caught, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(caught) is RedirectError
    assert error in str(caught)
    assert len(server.requests) == (6 if new == "each time" else 2)
