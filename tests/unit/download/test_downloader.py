"""A download returns bytes or raises the one matching error, within its limits, retrying only where it may help."""

from __future__ import annotations

import gzip
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.demo import DemoServer, draw_image
from tasks.deadline import Deadline
from tasks.download.adapters import USER_AGENT, Sessions, request_headers
from tasks.download.conditional import Validators
from tasks.download.downloader import Download, Downloader
from tasks.download.retry import backoff, countdown
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
    LongWaitError,
    OptedOutError,
    RateLimitedError,
    RedirectError,
    TooLargeError,
    TruncatedError,
)
from tasks.model import FetchOptions, HeaderOptions
from tests.unit.conftest import ONCE, Canned, always, image, response
from tests.zstandard import zstd

_FAULTS: dict[str, tuple[type[FetchError], int | None, str]] = {
    "/fault/not-found": (HttpClientError, 404, "HTTP 404 Not Found"),
    "/fault/forbidden": (HttpClientError, 403, "HTTP 403 Forbidden"),
    "/fault/gone": (HttpClientError, 410, "HTTP 410 Gone"),
    "/fault/rate-limited": (RateLimitedError, 429, "HTTP 429"),
    "/fault/server-error": (HttpServerError, 500, "HTTP 500"),
    "/fault/request-timeout": (HttpRetryableClientError, 408, "HTTP 408"),
    "/fault/not-implemented": (HttpNotImplementedError, 501, "HTTP 501"),
    "/fault/opted-out": (OptedOutError, 200, "X-Robots-Tag says noai (--ignore-opt-out"),
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
    "/fault/huge": (TooLargeError, 200, "the body has 1073741824 bytes, more than 100000"),
    "/fault/huge?declared=no": (TooLargeError, 200, "the body has more than 100000 bytes"),
    "/fault/gzip-bomb": (TooLargeError, 200, "more than 100000"),
    "/fault/br-bomb": (TooLargeError, 200, "more than 100000"),
    "/fault/zstd-bomb": (TooLargeError, 200, "more than 100000"),
    "/fault/redirect-loop": (RedirectError, 302, "is a loop"),
    "/fault/redirect-chain?hops=6": (RedirectError, 302, "more than 5 redirects"),
    "/fault/redirect-to?url=ftp://a.example/": (
        RedirectError,
        302,
        "redirects to an invalid URL: the scheme ftp: is not",
    ),
    "/fault/redirect-to?url=http://169.254.169.254/": (BlockedAddressError, None, "169.254.169.254"),
    "/fault/redirect-to?url=file:///etc/passwd": (RedirectError, 302, "the scheme file: is not"),
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


def download(downloader: Downloader, url: str, options: FetchOptions = ONCE) -> tuple[Download, int]:
    """Return a URL's download and the number of attempts."""
    attempts: list[None] = []
    deadline = Deadline(options.timeout, options.deadline)
    return downloader.download(url, options, deadline, lambda: attempts.append(None)), len(attempts)


def failure(downloader: Downloader, url: str, options: FetchOptions = ONCE) -> tuple[FetchError, int]:
    """Return the error of a failed download and the number of attempts."""
    attempts: list[None] = []
    deadline = Deadline(options.timeout, options.deadline)
    with pytest.raises(FetchError) as caught:
        downloader.download(url, options, deadline, lambda: attempts.append(None))
    return caught.value, len(attempts)


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


def test_gzip_is_decoded(demo: DemoServer, downloader: Downloader) -> None:
    """A compressed body, though not requested, is legal, and is decoded."""
    got, _ = download(downloader, f"{demo.url}/fault/gzip/3.png?width=40&height=30")
    assert got.body == draw_image(3, 40, 30, "png")


def test_chunked_body_is_complete(sessions_to: Callable[..., Sessions]) -> None:
    """A body in chunks is returned in full."""
    sent = response(b"4\r\nbody\r\n1\r\n!\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked", length=False)
    with Canned(always(sent)) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == b"body!"


def test_body_of_exactly_max_bytes_is_accepted(demo: DemoServer, downloader: Downloader) -> None:
    """A body of --max-bytes is accepted, and one byte more is refused, with or without a declared size."""
    for declared in ("yes", "no"):
        url = f"{demo.url}/fault/huge?bytes=100000&declared={declared}"
        got, _ = download(downloader, url, FetchOptions(max_bytes=100_000, retries=0))
        assert len(got.body) == 100_000
        error, _ = failure(downloader, url, FetchOptions(max_bytes=99_999, retries=0))
        assert type(error) is TooLargeError


def test_declared_size_is_checked_before_the_body(sessions_to: Callable[..., Sessions]) -> None:
    """A body declared too large is refused without waiting for its first byte."""
    with Canned(always(response(b"", "200 OK", "Content-Length: 101", length=False))) as server:
        options = FetchOptions(max_bytes=100, retries=0)
        sessions = sessions_to(server.address)
        error, _ = failure(Downloader(sessions), server.url, options)
    assert type(error) is TooLargeError


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_bomb_is_not_held_in_memory(demo: DemoServer, downloader: Downloader, encoding: str) -> None:
    """A compressed body is inflated block by block, so the refused rest is never in memory."""
    url = f"{demo.url}/fault/{encoding}-bomb"
    tracemalloc.start()
    try:
        error, _ = failure(downloader, url, FetchOptions(max_bytes=1 << 20, retries=0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(error) is TooLargeError
    assert peak < 8 << 20


def test_redirect_is_followed(demo: DemoServer, downloader: Downloader) -> None:
    """A redirect leads to the image, and the final URL is known."""
    got, attempts = download(downloader, f"{demo.url}/fault/redirect/3.jpg")
    assert got.final_url == f"{demo.url}/images/3.jpg"
    assert attempts == 1


def test_last_allowed_redirect_is_followed(demo: DemoServer, downloader: Downloader) -> None:
    """The last allowed redirect is followed; with --max-redirects 0, none is."""
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
    """Each hop is checked: an allowed server can't redirect us to a blocked one."""
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
    ("route", "attempts"),
    [("server-error", 3), ("drop", 3), ("truncated", 3), ("not-found", 1), ("empty", 1), ("redirect-loop", 1)],
)
def test_only_temporary_failures_are_retried(
    demo: DemoServer, downloader: Downloader, waits: list[float], route: str, attempts: int
) -> None:
    """A temporary failure is retried as often as allowed, with a wait before each retry; other failures are final."""
    _, tried = failure(downloader, f"{demo.url}/fault/{route}", FetchOptions(retries=2, backoff=0))
    assert tried == attempts
    assert waits == [0.0] * (attempts - 1)


@pytest.mark.parametrize("route", ["server-error-once", "drop-once"])
def test_second_attempt_succeeds(
    demo: DemoServer, allowed: list[str], sessions_to: Callable[..., Sessions], tmp_path: Path, route: str
) -> None:
    """After one failure, an image is saved at the second attempt."""
    # On a reused connection, the dropped request would be repeated within the same attempt.
    downloader = Downloader(sessions_to(*allowed), sleep=lambda _: None)
    got, attempts = download(
        downloader, f"{demo.url}/fault/{route}/3.jpg?{tmp_path.name}", FetchOptions(retries=1, backoff=0)
    )
    assert (got.http_status, attempts) == (200, 2)


def test_backoff_doubles(demo: DemoServer, downloader: Downloader, waits: list[float]) -> None:
    """The waits double, less a random part of up to a half."""
    failure(downloader, f"{demo.url}/fault/drop", FetchOptions(retries=3, backoff=1.0, deadline=60.0))
    assert len(waits) == 3
    for retry, wait in enumerate(waits):
        assert 2**retry / 2 <= wait <= 2**retry


def test_retry_after_is_respected(demo: DemoServer, downloader: Downloader, waits: list[float], tmp_path: Path) -> None:
    """A longer Retry-After overrides our own backoff."""
    url = f"{demo.url}/fault/rate-limited-once/3.jpg?after=2&{tmp_path.name}"
    got, attempts = download(downloader, url, FetchOptions(retries=1, backoff=0, deadline=10.0))
    assert (got.http_status, attempts, waits) == (200, 2, [2.0])


@pytest.mark.parametrize("after", [10, 10**9])
def test_retry_after_beyond_the_deadline_gives_up(
    demo: DemoServer, downloader: Downloader, waits: list[float], after: int
) -> None:
    """If the wait would outlast the deadline, the download fails at once."""
    options = FetchOptions(retries=5, backoff=0, deadline=5.0)
    error, attempts = failure(downloader, f"{demo.url}/fault/rate-limited?after={after}", options)
    assert (type(error), attempts, waits) == (RateLimitedError, 1, [])


@given(st.integers(0, 10), st.floats(0, 100), st.none() | st.floats(0, 1e6))
def test_backoff_stays_in_its_bounds(retry: int, base: float, retry_after: float | None) -> None:
    """A wait is 50 to 100 % of the doubled base, at most 30 s, and never shorter than Retry-After."""
    full = min(base * 2**retry, 30.0)
    least = retry_after or 0.0
    assert max(full / 2, least) <= backoff(retry, base, retry_after) <= max(full, least)


#: For each status: the number of attempts with two retries allowed, and the final error.
_STATUSES: dict[int, tuple[int, type[FetchError]]] = {
    **dict.fromkeys([*range(400, 408), *range(409, 425), 426, 428, 431, 451, 499], (1, HttpClientError)),
    **dict.fromkeys([408, 425], (3, HttpRetryableClientError)),
    429: (3, RateLimitedError),
    **dict.fromkeys([500, 502, 503, 504, 506, 507, 508, 510, 511, 520, 599], (3, HttpServerError)),
    **dict.fromkeys([501, 505], (1, HttpNotImplementedError)),
    **dict.fromkeys([304, 600, 999], (1, BadResponseError)),
    **dict.fromkeys([300, 305, 306, 399], (1, RedirectError)),
    204: (1, EmptyBodyError),
}


@pytest.mark.parametrize(("status", "expected"), _STATUSES.items(), ids=map(str, _STATUSES))
def test_status_decides_about_retries(
    status: int, expected: tuple[int, type[FetchError]], sessions_to: Callable[..., Sessions]
) -> None:
    """For each status: whether it is retried, and its error class."""
    with Canned(always(response(b"body", f"{status} What"))) as server:
        downloader = Downloader(sessions_to(server.address), sleep=lambda _: None)
        error, attempts = failure(downloader, server.url, FetchOptions(timeout=2.0, retries=2, backoff=0))
    assert (attempts, type(error), error.http_status) == (*expected, status)


@pytest.mark.parametrize("status", [200, 201, 202, 203, 205, 206, 207, 226, 299])
def test_any_success_status_is_accepted(status: int, sessions_to: Callable[..., Sessions]) -> None:
    """With any 2xx status, the body is the requested image."""
    with Canned(always(response(b"body", f"{status} What", 'ETag: "a"'))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert (got.body, got.http_status, got.etag) == (b"body", status, '"a"')


@pytest.mark.parametrize("fields", [("Content-Length: 4",), ("Transfer-Encoding: chunked",)])
def test_no_content_has_no_body(fields: tuple[str, ...], sessions_to: Callable[..., Sessions]) -> None:
    """A 204 has no body, whatever its headers announce, and its connection is reused."""
    with Canned(always(response(b"", "204 No Content", *fields, length=False))) as server:
        downloader = Downloader(sessions_to(server.address))
        assert [type(failure(downloader, server.url)[0]) for _ in range(2)] == [EmptyBodyError] * 2
        assert server.connections == 1


def test_redirect_without_a_location_may_be_the_image(sessions_to: Callable[..., Sessions]) -> None:
    """Without a Location, a body that starts as an image is accepted."""
    with Canned(always(response(image("JPEG"), "300 Multiple Choices"))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == image("JPEG")


@pytest.mark.parametrize("sent", ["bytes 0-3/4", "bytes=0-3/4"])
def test_unrequested_full_range_is_accepted(sent: str, sessions_to: Callable[..., Sessions]) -> None:
    """A 206 without a range request is accepted if it holds the whole image."""
    with Canned(always(response(b"body", "206 Partial Content", f"Content-Range: {sent}"))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == b"body"


@pytest.mark.parametrize(
    "sent", ["bytes 0-3/8", "bytes 4-7/8", "bytes 0-3/*", "pages 0-3/4", "bytes 0-3/4\r\nContent-Range: bytes 0-3/8"]
)
def test_unrequested_partial_body_is_refused(sent: str, sessions_to: Callable[..., Sessions]) -> None:
    """A 206 is refused if it holds only a part, or does not give the full size."""
    with Canned(always(response(b"body", "206 Partial Content", f"Content-Range: {sent}"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is BadResponseError
    assert "only a part of the body" in str(error)


def test_short_full_range_is_truncated(sessions_to: Callable[..., Sessions]) -> None:
    """A 206 with fewer bytes than its range is truncated."""
    with Canned(always(response(b"bod", "206 Partial Content", "Content-Range: bytes 0-3/4"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is TruncatedError


@pytest.mark.parametrize("values", [("2", "2"), ("1", "2"), ("soon", "2")])
def test_longest_retry_after_counts(
    values: tuple[str, str], waits: list[float], sessions_to: Callable[..., Sessions]
) -> None:
    """A repeated Retry-After counts once, and of two different ones the longer counts."""
    fields = [f"Retry-After: {value}" for value in values]
    replies = iter([response(b"", "503 What", *fields), response()])
    with Canned(lambda _: [next(replies)]) as server:
        downloader = Downloader(sessions_to(server.address), sleep=waits.append)
        download(downloader, server.url, FetchOptions(retries=1, backoff=0))
    assert waits == [2.0]


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
    """A repeated validator counts once; two different ones are ignored."""
    with Canned(always(response(b"body", "200 OK", *fields))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert (got.etag, got.last_modified) == expected


def test_repeated_opt_out_header(sessions_to: Callable[..., Sessions]) -> None:
    """An opt-out is respected in any of several X-Robots-Tag headers."""
    with Canned(always(response(b"body", "200 OK", "X-Robots-Tag: all", "X-Robots-Tag: noai"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is OptedOutError


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_long_wait_holds_no_slot(status: int, waits: list[float], sessions_to: Callable[..., Sessions]) -> None:
    """No slot is held for longer than --max-retry-after, and the message names the wait.

    A wait of exactly --max-retry-after is slept.
    """
    for after, tried in ((31, 1), (30, 2)):
        with Canned(always(response(b"", f"{status} What", f"Retry-After: {after}"))) as server:
            downloader = Downloader(sessions_to(server.address), sleep=waits.append)
            error, attempts = failure(downloader, server.url, FetchOptions(retries=1, backoff=0))
        assert attempts == tried
        assert isinstance(error, RateLimitedError) == (status == 429 or tried == 1)
        assert isinstance(error, LongWaitError) == (tried == 1)
        assert ("the server requests a wait of 31 s, more than 30" in str(error)) == (tried == 1)
    assert waits == [30.0]


@pytest.mark.parametrize(
    ("after", "earlier", "expected"),
    [(120, 0, LongWaitError), (120, 1, LongWaitError), (120, 2, RateLimitedError), (121, 0, RateLimitedError)],
    ids=["first", "last but one", "last attempt", "too long for a countdown"],
)
def test_wait_becomes_a_countdown(
    after: int, earlier: int, expected: type[FetchError], sessions_to: Callable[..., Sessions]
) -> None:
    """A wait of up to 120 s becomes a countdown if an attempt is left; attempts of earlier deliveries count."""
    with Canned(always(response(b"", "503 What", f"Retry-After: {after}"))) as server:
        downloader = Downloader(sessions_to(server.address))
        options = FetchOptions(retries=2, backoff=0)
        with pytest.raises(FetchError) as caught:
            downloader.download(server.url, options, Deadline(10, 60), lambda: None, earlier)
    assert (type(caught.value), caught.value.retry_after) == (expected, after)


def test_attempts_of_earlier_deliveries_count(sessions_to: Callable[..., Sessions]) -> None:
    """All deliveries of a task together make no more attempts than a single delivery would."""
    attempts: list[None] = []
    with Canned(always(response(b"", "503 What"))) as server:
        downloader = Downloader(sessions_to(server.address), sleep=lambda _: None)
        with pytest.raises(HttpServerError):
            downloader.download(server.url, FetchOptions(retries=4), Deadline(10, 60), lambda: attempts.append(None), 3)
    assert len(attempts) == 2


def test_countdown_has_jitter() -> None:
    """Tasks refused together come back after the requested wait plus up to 10 %."""
    found = {countdown(100.0) for _ in range(100)}
    assert len(found) > 1
    assert all(100 <= seconds <= 110 for seconds in found)


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
    """User agent, referer and custom headers are sent, each once."""
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


def cookies_of(server: Canned) -> list[bytes]:
    """Return the Cookie line of each request; empty if it has none."""
    return [
        b"".join(line for line in request.split(b"\r\n") if line.lower().startswith(b"cookie:"))
        for request in server.requests
    ]


def test_cookies_live_for_one_download(sessions_to: Callable[..., Sessions]) -> None:
    """A redirect's cookie is sent with the following requests of the same download alone."""
    replies = iter(
        [*(response(b"", "302 Found", "Location: /b", f"Set-Cookie: a={value}") for value in "12"), response()] * 2
    )
    with Canned(lambda _: [next(replies)]) as server:
        downloader = Downloader(sessions_to(server.address))
        for _ in range(2):
            download(downloader, server.url)
    assert cookies_of(server) == [b"", b"Cookie: a=1", b"Cookie: a=2"] * 2


def test_cookies_live_for_one_attempt(sessions_to: Callable[..., Sessions]) -> None:
    """Each attempt starts without cookies, as the first one did."""
    moved = response(b"", "302 Found", "Location: /b", "Set-Cookie: a=1")
    replies = iter([moved, response(b"", "503 What"), moved, response()])
    with Canned(lambda _: [next(replies)]) as server:
        download(Downloader(sessions_to(server.address)), server.url, FetchOptions(retries=1, backoff=0))
    assert cookies_of(server) == [b"", b"Cookie: a=1"] * 2


def test_cookies_stay_with_their_host(sessions_to: Callable[..., Sessions]) -> None:
    """A cookie is sent only to the host that set it, and no host can set one for another."""
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
    """A cookie is dropped if it would break its line, is too large, has expired, or is for another host or path."""
    replies = iter([response(b"", "302 Found", "Location: /b", f"Set-Cookie: {line}"), response()])
    with Canned(lambda _: [next(replies)]) as server:
        download(Downloader(sessions_to(server.address)), server.url)
    assert cookies_of(server) == [b"", b""]


@pytest.mark.parametrize(("new", "error"), [("each time", "more than 5 redirects"), ("once", "is a loop")])
def test_loop_is_the_same_url_with_the_same_cookies(new: str, error: str, sessions_to: Callable[..., Sessions]) -> None:
    """A server with a new cookie each time is stopped at --max-redirects, any other at the first repetition."""

    def answer(_: bytes) -> list[bytes]:
        value = len(server.requests) if new == "each time" else 1
        return [response(b"", "302 Found", "Location: /", f"Set-Cookie: a={value}")]

    with Canned(answer) as server:
        caught, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(caught) is RedirectError
    assert error in str(caught)
    assert len(server.requests) == (6 if new == "each time" else 2)


@pytest.mark.parametrize(
    "fields", [(("X-A", "b\r\nX-Evil: c"),), (("Host", "a.example"),), (("X-A\r\nX-Evil", "c"),), (("", "c"),)]
)
def test_message_can_not_add_headers(fields: tuple[tuple[str, str], ...]) -> None:
    """A worker does not trust messages: it also refuses a header that would break its line."""
    with pytest.raises(ValueError, match=r"header|can't be set"):
        request_headers(HeaderOptions(extra=fields), None, True)


def test_user_agent_contains_the_contact() -> None:
    """The default user agent names imagefleet, and gives the contact of IMAGEFLEET_CONTACT."""
    assert request_headers(HeaderOptions(), None, True)["User-Agent"] == USER_AGENT
    contact = request_headers(HeaderOptions(), "https://fleet.example/about", True)
    assert contact["User-Agent"] == f"{USER_AGENT} (+https://fleet.example/about)"


def test_opt_out_can_be_ignored(demo: DemoServer, downloader: Downloader) -> None:
    """An opted-out image is downloaded only with --ignore-opt-out."""
    got, _ = download(downloader, f"{demo.url}/fault/opted-out/3.jpg", replace(ONCE, ignore_opt_out=True))
    assert got.body == draw_image(3)


def cut_off(*pieces: bytes) -> Iterator[bytes]:
    """Send the pieces, then close the connection."""
    yield from pieces
    raise ConnectionError


_STRONG_ETAG = ("Accept-Ranges: bytes", 'ETag: "a"')
_MODIFIED = ("Accept-Ranges: bytes", "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT")
#: The headers of an interrupted response, the If-Range of the next request, its response, and the body as saved.
_RESUMED: dict[str, tuple[tuple[str, ...], bytes | None, bytes, bytes]] = {
    "strong ETag": (
        _STRONG_ETAG,
        b'If-Range: "a"',
        response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8", 'ETag: "a"'),
        b"imageone",
    ),
    "Last-Modified": (
        _MODIFIED,
        b"If-Range: Thu, 01 Jan 2026 00:00:00 GMT",
        response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8"),
        b"imageone",
    ),
    "unknown size": (
        _STRONG_ETAG,
        b'If-Range: "a"',
        response(b"eone", "206 Partial", "Content-Range: bytes 4-7/*"),
        b"imageone",
    ),
    "repeated headers": (
        (*_STRONG_ETAG, *_STRONG_ETAG, "accept-ranges: bytes"),
        b'If-Range: "a"',
        response(b"eone", "206 Partial", *["Content-Range: bytes 4-7/8", 'ETag: "a"'] * 2),
        b"imageone",
    ),
    "changed image, as 203": (_STRONG_ETAG, b'If-Range: "a"', response(b"another", "203 What"), b"another"),
    "two ETags": (("Accept-Ranges: bytes", 'ETag: "a"', 'ETag: "b"'), None, response(b"imageone"), b"imageone"),
    "changed image": (_STRONG_ETAG, b'If-Range: "a"', response(b"another"), b"another"),
    "only a weak ETag": (("Accept-Ranges: bytes", 'ETag: W/"a"'), None, response(b"imageone"), b"imageone"),
    "malformed ETag": (("Accept-Ranges: bytes", "ETag: a"), None, response(b"imageone"), b"imageone"),
    "weak ETag and a date": (
        (*_MODIFIED, 'ETag: W/"a"'),
        b"If-Range: Thu, 01 Jan 2026 00:00:00 GMT",
        response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8"),
        b"imageone",
    ),
    "no validator": (("Accept-Ranges: bytes",), None, response(b"imageone"), b"imageone"),
    "no ranges": (('ETag: "a"',), None, response(b"imageone"), b"imageone"),
    "Accept-Ranges: none": (("Accept-Ranges: none", 'ETag: "a"'), None, response(b"imageone"), b"imageone"),
}


@pytest.mark.parametrize(("fields", "asked", "then", "body"), _RESUMED.values(), ids=_RESUMED)
def test_interrupted_body_is_resumed(
    fields: tuple[str, ...], asked: bytes | None, then: bytes, body: bytes, sessions_to: Callable[..., Sessions]
) -> None:
    """The rest of a body is requested if the server supports ranges and sends a strong validator."""
    first = response(b"imag", "200 OK", *fields, "Content-Length: 8", length=False)
    replies = iter([cut_off(first), iter([then])])
    with Canned(lambda _: next(replies)) as server:
        got, attempts = download(
            Downloader(sessions_to(server.address)), server.url, FetchOptions(retries=1, backoff=0, timeout=2.0)
        )
    assert (got.body, attempts) == (body, 2)
    lines = server.requests[1].split(b"\r\n")
    assert [line for line in lines if line.startswith(b"If-Range")] == ([] if asked is None else [asked])
    assert (b"Range: bytes=4-" in lines) == (asked is not None)


_UNCHANGED = response(b"", "304 Not Modified", length=False)
_CONDITION = Validators('"a"', "Thu, 01 Jan 2026 00:00:00 GMT", None)
_ASKED = (b'If-None-Match: "a"', b"If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT")


def asked(request: bytes) -> tuple[bytes, ...]:
    """Return the conditional headers of a request."""
    return tuple(line for line in request.split(b"\r\n") if line.startswith(b"If-"))


def download_conditionally(
    downloader: Downloader, url: str, condition: Validators = _CONDITION, options: FetchOptions = ONCE
) -> tuple[Download, int]:
    """Return a URL's download under a condition, and the number of attempts."""
    attempts: list[None] = []
    deadline = Deadline(options.timeout, options.deadline)
    got = downloader.download(url, options, deadline, lambda: attempts.append(None), 0, condition)
    return got, len(attempts)


def test_unchanged_image_is_not_sent(sessions_to: Callable[..., Sessions]) -> None:
    """A 304 to a conditional request is a valid response; its connection is reused."""
    unchanged = response(b"", "304 Not Modified", 'ETag: "b"', "Content-Length: 500", length=False)
    with Canned(always(unchanged)) as server:
        downloader = Downloader(sessions_to(server.address))
        for _ in range(2):
            got, attempts = download_conditionally(downloader, server.url)
            assert (got.unchanged, got.body, got.http_status, got.etag, got.last_modified) == (
                *(True, b"", 304, '"b"'),
                None,
            )
            assert (got.final_url, attempts) == (None, 1)
    assert [asked(request) for request in server.requests] == [_ASKED] * 2
    assert server.connections == 1


def test_changed_image_is_sent(sessions_to: Callable[..., Sessions]) -> None:
    """A 200 to a conditional request is a normal download."""
    with Canned(always(response(b"newer", "200 OK", 'ETag: "b"'))) as server:
        got, _ = download_conditionally(Downloader(sessions_to(server.address)), server.url)
    assert (got.unchanged, got.body, got.http_status, got.etag) == (False, b"newer", 200, '"b"')


def test_condition_goes_to_the_url_that_gave_it(sessions_to: Callable[..., Sessions]) -> None:
    """In a chain of redirects, validators are sent only to the URL they came from."""

    def answer(request: bytes) -> list[bytes]:
        here = request.split(b" ")[1] == b"/"
        return [response(b"", "302 Found", "Location: /b?sig=x") if here else _UNCHANGED]

    with Canned(answer) as server:
        there = replace(_CONDITION, url=f"{server.url}/b?sig=***")
        got, _ = download_conditionally(Downloader(sessions_to(server.address)), server.url, there)
    assert (got.unchanged, got.final_url) == (True, there.url)
    assert [asked(request) for request in server.requests] == [(), _ASKED]


@pytest.mark.parametrize("route", ["redirects now", "no longer redirects"])
def test_changed_final_url_gets_no_condition(route: str, sessions_to: Callable[..., Sessions]) -> None:
    """If redirects lead elsewhere than before, no condition is sent, and a 304 is an error."""
    replies = iter(
        [response(b"", "302 Found", "Location: /b"), _UNCHANGED] if route == "redirects now" else [_UNCHANGED]
    )
    with Canned(lambda _: [next(replies)]) as server:
        condition = _CONDITION if route == "redirects now" else replace(_CONDITION, url=f"{server.url}/b")
        with pytest.raises(BadResponseError, match="an unexpected status"):
            download_conditionally(Downloader(sessions_to(server.address)), server.url, condition)
    assert asked(server.requests[-1]) == ()


def test_opt_out_of_an_unchanged_image(sessions_to: Callable[..., Sessions]) -> None:
    """An opt-out in a 304 is respected, unless the user ignores opt-outs."""
    with Canned(always(response(b"", "304 Not Modified", "X-Robots-Tag: noai", length=False))) as server:
        downloader = Downloader(sessions_to(server.address))
        with pytest.raises(OptedOutError, match="says noai") as caught:
            download_conditionally(downloader, server.url)
        assert caught.value.http_status == 304
        assert download_conditionally(downloader, server.url, options=replace(ONCE, ignore_opt_out=True))[0].unchanged


def test_retries_of_a_conditional_request(sessions_to: Callable[..., Sessions]) -> None:
    """A failed attempt is repeated with the condition; for an interrupted newer image, the rest is requested."""
    newer = response(b"imag", "200 OK", "Accept-Ranges: bytes", 'ETag: "b"', "Content-Length: 8", length=False)
    rest = response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8", 'ETag: "b"')
    replies = iter([iter([response(b"", "503 What")]), cut_off(newer), iter([rest])])
    with Canned(lambda _: next(replies)) as server:
        options = FetchOptions(retries=2, backoff=0, timeout=2.0)
        got, attempts = download_conditionally(Downloader(sessions_to(server.address)), server.url, options=options)
    assert (got.body, got.http_status, attempts) == (b"imageone", 206, 3)
    assert [asked(request) for request in server.requests] == [_ASKED, _ASKED, (b'If-Range: "b"',)]


_MISMATCHED_RESTS = {
    "wrong range": response(b"eone", "206 Partial", "Content-Range: bytes 3-6/8"),
    "other size": response(b"eone", "206 Partial", "Content-Range: bytes 4-7/9"),
    "two ranges": response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8", "Content-Range: bytes 0-3/8"),
    "other ETag": response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8", 'ETag: "b"'),
    "no range": response(b"eone", "206 Partial"),
    "encoded": response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8", "Content-Encoding: gzip"),
    "range not satisfiable": response(b"", "416 What"),
}


@pytest.mark.parametrize("answer", _MISMATCHED_RESTS.values(), ids=_MISMATCHED_RESTS)
def test_mismatched_rest_is_never_joined(answer: bytes, sessions_to: Callable[..., Sessions]) -> None:
    """If the server continues with anything but the rest, the whole image is requested again."""
    first = response(b"imag", "200 OK", *_STRONG_ETAG, "Content-Length: 8", length=False)
    replies = iter([cut_off(first), iter([answer]), iter([response(b"imageone")])])
    with Canned(lambda _: next(replies)) as server:
        got, attempts = download(
            Downloader(sessions_to(server.address)), server.url, FetchOptions(retries=2, backoff=0, timeout=2.0)
        )
    assert (got.body, attempts) == (b"imageone", 3)
    assert b"Range:" not in server.requests[2]


def test_body_is_resumed_repeatedly(sessions_to: Callable[..., Sessions]) -> None:
    """Each attempt continues where the last one ended, also with chunks, after an error, and within --max-bytes."""
    chunked = response(b"3\r\nima\r\nxyz\r\n", "200 OK", *_STRONG_ETAG, "Transfer-Encoding: chunked", length=False)
    second = response(b"ge", "206 Partial", "Content-Range: bytes 3-7/8", "Content-Length: 5", length=False)
    third = response(b"one", "206 Partial", "Content-Range: bytes 5-7/8")

    def answer(_: bytes) -> Iterator[bytes]:
        return next(replies)

    for cap, body in ((8, b"imageone"), (7, None)):
        replies = iter([cut_off(chunked), cut_off(second), iter([response(b"", "503 What")]), iter([third])])
        with Canned(answer) as server:
            downloader = Downloader(sessions_to(server.address))
            options = FetchOptions(retries=3, backoff=0, timeout=2.0, max_bytes=cap)
            if body is None:
                assert type(failure(downloader, server.url, options)[0]) is TooLargeError
            else:
                assert download(downloader, server.url, options)[0].body == body
                assert [
                    b"Range: bytes=" + begin in request
                    for begin, request in zip((b"3-", b"5-", b"5-"), server.requests[1:], strict=True)
                ] == [True] * 3


_RAW = zlib.compressobj(wbits=-15)
_DEFLATED = _RAW.compress(b"body" * 100) + _RAW.flush()
_ENCODED = {
    "gzip": ("gzip", gzip.compress(b"body" * 100)),
    "x-gzip, upper case": ("X-GZIP", gzip.compress(b"body" * 100)),
    "gzip in two members": ("gzip", gzip.compress(b"body" * 50) * 2),
    "gzip, then stray bytes": ("Gzip", gzip.compress(b"body" * 100) + b"\r\n\0"),
    "gzip, then one byte of another member": ("gZip", gzip.compress(b"body" * 100) + b"\x1f"),
    "zstd, then stray bytes": ("Zstd", zstd.compress(b"body" * 100) + b"\r\n"),
    "gzip and non-encodings": ("aws-chunked, gzip, identity", gzip.compress(b"body" * 100)),
    "gzip with a parameter": ("gzip;q=1", gzip.compress(b"body" * 100)),
    "deflate": ("deflate", zlib.compress(b"body" * 100)),
    "raw deflate": ("deflate", _DEFLATED),
    "br": ("br", brotli.compress(b"body" * 100)),
    "zstd": ("zstd", zstd.compress(b"body" * 100)),
    "zstd in two frames, upper case": ("ZSTD", zstd.compress(b"body" * 50) * 2),
    "twice": ("deflate, gzip", gzip.compress(zlib.compress(b"body" * 100))),
    "br in zstd": ("br, zstd", zstd.compress(brotli.compress(b"body" * 100))),
    "identity": ("identity", b"body" * 100),
    "unknown name": ("utf-8", b"body" * 100),
}


@pytest.mark.parametrize(("name", "sent"), _ENCODED.values(), ids=_ENCODED)
def test_encoding_is_decoded(name: str, sent: bytes, sessions_to: Callable[..., Sessions]) -> None:
    """An encoded body is decoded, though we did not request an encoding."""
    with Canned(always(response(sent, "200 OK", f"Content-Encoding: {name}"))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == b"body" * 100


@pytest.mark.parametrize("lacking", [1, 8])
@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd", "deflate, gzip", "br, zstd"])
def test_compressed_body_without_its_end(name: str, lacking: int, sessions_to: Callable[..., Sessions]) -> None:
    """A compressed body without its end is truncated, even if its length matches Content-Length."""
    sent = dict(_ENCODED.values())[name][:-lacking]
    with Canned(always(response(sent, "200 OK", f"Content-Encoding: {name}"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is TruncatedError


@pytest.mark.parametrize("name", ["compress", "gzip, exi", "dcb"])
def test_unsupported_encoding_is_named(name: str, sessions_to: Callable[..., Sessions]) -> None:
    """An unsupported encoding is named in the error, and is not reported as a broken image."""
    with Canned(always(response(b"body", "200 OK", f"Content-Encoding: {name}"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is BadResponseError
    assert name.rpartition(" ")[2] in str(error)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"])
@pytest.mark.parametrize("name", ["gzip", "br, zstd", "compress"])
def test_unencoded_image_with_an_encoding_header(name: str, kind: str, sessions_to: Callable[..., Sessions]) -> None:
    """A body that starts as an image is accepted, whatever its Content-Encoding says."""
    with Canned(always(response(image(kind), "200 OK", f"Content-Encoding: {name}"))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == image(kind)


def test_image_encoded_less_often_than_declared(sessions_to: Callable[..., Sessions]) -> None:
    """A coding named twice may have been applied once, for instance if a cache added a second header."""
    sent = response(gzip.compress(image("PNG")), "200 OK", "Content-Encoding: gzip", "Content-Encoding: gzip")
    with Canned(always(sent)) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == image("PNG")


def test_second_member_without_its_end_is_truncated(sessions_to: Callable[..., Sessions]) -> None:
    """Bytes after a gzip member that start as another member belong to the body."""
    sent = gzip.compress(b"body") + gzip.compress(b"more" * 100)[:-9]
    with Canned(always(response(sent, "200 OK", "Content-Encoding: gzip"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is TruncatedError


_ZEROS = bytes(40 << 20)
_BOMBS = {
    "br": ("br", lambda: brotli.compress(_ZEROS, quality=5)),
    "zstd": ("zstd", lambda: zstd.compress(_ZEROS)),
    "zstd in many frames": ("zstd", lambda: 40 * zstd.compress(_ZEROS[: 1 << 20])),
    "br twice": ("br, br", lambda: brotli.compress(brotli.compress(_ZEROS, quality=5), quality=5)),
    "br in zstd": ("br, zstd", lambda: zstd.compress(brotli.compress(_ZEROS, quality=5))),
    "zstd in br": ("zstd, br", lambda: brotli.compress(zstd.compress(_ZEROS), quality=5)),
    "zstd in gzip": ("zstd, gzip", lambda: gzip.compress(zstd.compress(_ZEROS), 9)),
    "deflate": ("deflate", lambda: zlib.compress(_ZEROS, 9)),
    "gzip twice": ("gzip, gzip", lambda: gzip.compress(gzip.compress(_ZEROS, 9), 9)),
    "gzip in deflate": ("gzip, deflate", lambda: zlib.compress(gzip.compress(_ZEROS, 9), 9)),
}


@pytest.mark.parametrize(("name", "make"), _BOMBS.values(), ids=_BOMBS)
def test_bombs_end_early(name: str, make: Callable[[], bytes], sessions_to: Callable[..., Sessions]) -> None:
    """With any compression, data above --max-bytes is never in memory."""
    with Canned(always(response(make(), "200 OK", f"Content-Encoding: {name}"))) as server:
        downloader = Downloader(sessions_to(server.address))
        tracemalloc.start()
        try:
            error, _ = failure(downloader, server.url, FetchOptions(max_bytes=1 << 20, retries=0))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert type(error) is TooLargeError
    assert peak < 8 << 20
