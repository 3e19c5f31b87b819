"""A download ends in bytes or in the one error that fits, within its bounds, after as many attempts as may help."""

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

from producer.demo import DemoServer, picture
from tasks.condition import Condition
from tasks.connection import Deadline
from tasks.download import Download, Downloader, backoff, countdown
from tasks.errors import (
    BadResponse,
    BlockedAddress,
    ConnectFailed,
    EmptyBody,
    FetchError,
    HttpFailed,
    HttpNotYet,
    HttpRefused,
    HttpUnable,
    InvalidUrl,
    LongWait,
    OptedOut,
    RateLimited,
    TooLarge,
    TooManyRedirects,
    Truncated,
)
from tasks.model import FetchOptions, HeadOptions
from tasks.session import USER_AGENT, Sessions, head_fields
from tasks.urls import parse
from tests.unit.conftest import ONCE, Canned, always, image, response
from tests.zstandard import zstd

_FAULTS: dict[str, tuple[type[FetchError], int | None, str]] = {
    "/fault/not-found": (HttpRefused, 404, "HTTP 404 Not Found"),
    "/fault/forbidden": (HttpRefused, 403, "HTTP 403 Forbidden"),
    "/fault/gone": (HttpRefused, 410, "HTTP 410 Gone"),
    "/fault/rate-limited": (RateLimited, 429, "HTTP 429"),
    "/fault/server-error": (HttpFailed, 500, "HTTP 500"),
    "/fault/request-timeout": (HttpNotYet, 408, "HTTP 408"),
    "/fault/not-implemented": (HttpUnable, 501, "HTTP 501"),
    "/fault/opted-out": (OptedOut, 200, "X-Robots-Tag says noai (--ignore-opt-out"),
    "/fault/no-content": (EmptyBody, 204, "HTTP 204"),
    "/fault/not-modified": (BadResponse, 304, "HTTP 304 Not Modified, which nobody asked for"),
    "/fault/partial": (BadResponse, 206, "HTTP 206 with a part of the body alone, for which nobody asked: bytes 0-"),
    "/fault/drop": (ConnectFailed, None, "closed the connection without an answer"),
    "/fault/truncated": (Truncated, 200, "ended the body early"),
    "/fault/wrong-length?conflicting": (
        BadResponse,
        None,
        "sent a head that is refused: Content-Length has two values that differ: ",
    ),
    "/fault/bad-chunk": (Truncated, 200, ""),
    "/fault/huge-header": (BadResponse, None, "sent a head that is refused: the head has more than 512 KiB"),
    "/fault/empty": (EmptyBody, 200, "the body is empty"),
    "/fault/huge": (TooLarge, 200, "the body has 1073741824 bytes, more than 100000"),
    "/fault/huge?declared=no": (TooLarge, 200, "the body has more than 100000 bytes"),
    "/fault/gzip-bomb": (TooLarge, 200, "more than 100000"),
    "/fault/br-bomb": (TooLarge, 200, "more than 100000"),
    "/fault/zstd-bomb": (TooLarge, 200, "more than 100000"),
    "/fault/redirect-loop": (TooManyRedirects, 302, "is a loop"),
    "/fault/redirect-chain?hops=6": (TooManyRedirects, 302, "more than 5 redirects"),
    "/fault/redirect-to?url=ftp://a.example/": (TooManyRedirects, 302, "leads to no URL: the scheme ftp: is not"),
    "/fault/redirect-to?url=http://169.254.169.254/": (BlockedAddress, None, "169.254.169.254"),
    "/fault/redirect-to?url=file:///etc/passwd": (TooManyRedirects, 302, "the scheme file: is not"),
}
_CANNED: dict[str, tuple[bytes, type[FetchError], str]] = {
    "not HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", BadResponse, "not HTTP"),
    "nonsense status": (b"HTTP/1.1 abc OK\r\n\r\n", BadResponse, "not HTTP"),
    "status without a class": (response(b"", "700 What"), BadResponse, "HTTP 700 What, which nobody asked for"),
    **{
        f"not {name}": (
            response(b"<html>plain</html>", "200 OK", f"Content-Encoding: {name}"),
            BadResponse,
            "as its header says",
        )
        for name in ("gzip", "deflate", "br", "zstd", "br, zstd")
    },
    "gzip six times": (
        response(b"<html>plain</html>", "200 OK", f"Content-Encoding: {', '.join(['gzip'] * 6)}"),
        BadResponse,
        "encoded 6 times, more than 5",
    ),
    "zstd with a window of 256 MiB": (
        response(b"\x28\xb5\x2f\xfd\x00\x90\x01\x00\x00", "200 OK", "Content-Encoding: zstd"),
        BadResponse,
        "as its header says",
    ),
    "length of 19 digits": (
        response(b"body", "200 OK", f"Content-Length: 1{'0' * 18}", length=False),
        BadResponse,
        "Content-Length has 19 digits",
    ),
    "redirect without a Location": (response(b"", "302 Found"), TooManyRedirects, "without a Location"),
    "redirect with a page and no Location": (response(b"<html>", "302 Found"), TooManyRedirects, "without a Location"),
    "redirect with two Locations": (
        response(b"", "302 Found", "Location: /a", "Location: /b"),
        TooManyRedirects,
        "HTTP 302 has 2 Locations that differ",
    ),
    "redirect to an unescaped host": (
        response(b"", "302 Found", "Location: http://a b/"),
        TooManyRedirects,
        "host name is not valid",
    ),
}


_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


def download(downloader: Downloader, url: str, options: FetchOptions = ONCE) -> tuple[Download, int]:
    """What a URL serves, and after how many attempts."""
    attempts: list[None] = []
    deadline = Deadline(options.timeout, options.deadline)
    return downloader.download(url, options, deadline, lambda: attempts.append(None)), len(attempts)


def failure(downloader: Downloader, url: str, options: FetchOptions = ONCE) -> tuple[FetchError, int]:
    """The error that a download ends in, and after how many attempts."""
    attempts: list[None] = []
    deadline = Deadline(options.timeout, options.deadline)
    with pytest.raises(FetchError) as caught:
        downloader.download(url, options, deadline, lambda: attempts.append(None))
    return caught.value, len(attempts)


@pytest.mark.parametrize(("route", "expected"), _FAULTS.items(), ids=list(_FAULTS))
def test_fault_has_its_error(
    demo: DemoServer, downloader: Downloader, route: str, expected: tuple[type[FetchError], int | None, str]
) -> None:
    """Each fault of a server is told as the one class that fits, with the status that was seen."""
    error, attempts = failure(downloader, demo.url + route, FetchOptions(max_bytes=100_000, retries=0))
    assert (type(error), error.http_status) == expected[:2]
    assert expected[2] in str(error)
    assert attempts == 1


@pytest.mark.parametrize(("sent", "kind", "message"), _CANNED.values(), ids=_CANNED)
def test_answer_that_is_wrong(
    sent: bytes, kind: type[FetchError], message: str, sessions_to: Callable[..., Sessions]
) -> None:
    """What no sound server sends is told as the one class that fits."""
    with Canned(always(sent)) as server:
        sessions = sessions_to(server.address)
        error, _ = failure(Downloader(sessions), server.url)
    assert type(error) is kind
    assert message in str(error)


def test_picture_comes_as_it_is(demo: DemoServer, downloader: Downloader) -> None:
    """The body is what the server sent, with what the server said of it."""
    got, attempts = download(downloader, f"{demo.url}/images/3.png?width=40&height=30")
    assert got.body == picture(3, 40, 30, "png")
    assert (got.http_status, got.final_url, attempts) == (200, None, 1)
    assert got.etag is not None
    assert got.last_modified == "Thu, 01 Jan 2026 00:00:00 GMT"


def test_gzip_is_decoded(demo: DemoServer, downloader: Downloader) -> None:
    """A compressed body, which is legal though not asked for, is kept as what it holds."""
    got, _ = download(downloader, f"{demo.url}/fault/gzip/3.png?width=40&height=30")
    assert got.body == picture(3, 40, 30, "png")


def test_chunked_body_comes_whole(sessions_to: Callable[..., Sessions]) -> None:
    """A body in chunks comes whole."""
    sent = response(b"4\r\nbody\r\n1\r\n!\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked", length=False)
    with Canned(always(sent)) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == b"body!"


def test_body_of_the_largest_size_is_kept(demo: DemoServer, downloader: Downloader) -> None:
    """The cap itself is allowed, and one byte more is not, whether the size is declared or not."""
    for declared in ("yes", "no"):
        url = f"{demo.url}/fault/huge?bytes=100000&declared={declared}"
        got, _ = download(downloader, url, FetchOptions(max_bytes=100_000, retries=0))
        assert len(got.body) == 100_000
        error, _ = failure(downloader, url, FetchOptions(max_bytes=99_999, retries=0))
        assert type(error) is TooLarge


def test_declared_size_is_judged_before_the_body(sessions_to: Callable[..., Sessions]) -> None:
    """A body that is announced as too large is refused without waiting for any of it."""
    with Canned(always(response(b"", "200 OK", "Content-Length: 101", length=False))) as server:
        options = FetchOptions(max_bytes=100, retries=0)
        sessions = sessions_to(server.address)
        error, _ = failure(Downloader(sessions), server.url, options)
    assert type(error) is TooLarge


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_bomb_is_not_inflated(demo: DemoServer, downloader: Downloader, encoding: str) -> None:
    """A compressed body is inflated block by block: what is thrown away was never in memory."""
    url = f"{demo.url}/fault/{encoding}-bomb"
    tracemalloc.start()
    try:
        error, _ = failure(downloader, url, FetchOptions(max_bytes=1 << 20, retries=0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(error) is TooLarge
    assert peak < 8 << 20


def test_redirect_is_followed(demo: DemoServer, downloader: Downloader) -> None:
    """A redirect leads to the picture, and the Outcome can tell where it came from."""
    got, attempts = download(downloader, f"{demo.url}/fault/redirect/3.jpg")
    assert got.final_url == f"{demo.url}/images/3.jpg"
    assert attempts == 1


def test_as_many_redirects_as_allowed(demo: DemoServer, downloader: Downloader) -> None:
    """The last allowed hop is followed."""
    got, _ = download(downloader, f"{demo.url}/fault/redirect-chain/3.jpg?hops=5")
    assert got.http_status == 200
    error, _ = failure(downloader, f"{demo.url}/fault/redirect-chain?hops=1", FetchOptions(retries=0, max_redirects=0))
    assert type(error) is TooManyRedirects


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_every_kind_of_redirect(status: str, sessions_to: Callable[..., Sessions]) -> None:
    """All redirects of HTTP are followed, and the final URL is shown without its secrets."""
    replies = iter([response(b"", status, "Location: /b?token=secret"), response()])
    with Canned(lambda _: [next(replies)]) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.final_url == f"{server.url}/b?token=***"
    assert b"GET /b?token=secret " in server.requests[1]


@pytest.mark.parametrize("host", ["a-.example", "-a.example", "_a_.example", "\U0001f600.example", "r3---sn.example"])
def test_host_name_that_browsers_take(
    monkeypatch: pytest.MonkeyPatch, sessions_to: Callable[..., Sessions], host: str
) -> None:
    """A host with dashes, underscores or an emoji is looked up and asked by the name that browsers give it."""
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
    """Each hop is judged: a permitted server can't lead us to one that is not."""
    with Canned(always(response())) as inside:
        error, _ = failure(downloader, f"{demo.url}/fault/redirect-to?url={inside.url}/")
    assert type(error) is BlockedAddress
    assert str(error).startswith("after a redirect: 127.0.0.1 (port ")
    assert inside.connections == 0


def test_invalid_url_is_never_tried(downloader: Downloader) -> None:
    """What is no URL costs no attempt."""
    error, attempts = failure(downloader, "ftp://a.example/")
    assert (type(error), attempts) == (InvalidUrl, 0)


@pytest.mark.parametrize(
    ("route", "attempts"),
    [("server-error", 3), ("drop", 3), ("truncated", 3), ("not-found", 1), ("empty", 1), ("redirect-loop", 1)],
)
def test_only_what_may_help_is_tried_again(
    demo: DemoServer, downloader: Downloader, waits: list[float], route: str, attempts: int
) -> None:
    """A fault that may pass is tried as often as allowed, with a wait before each retry; others are final."""
    _, tried = failure(downloader, f"{demo.url}/fault/{route}", FetchOptions(retries=2, backoff=0))
    assert tried == attempts
    assert waits == [0.0] * (attempts - 1)


@pytest.mark.parametrize("route", ["server-error-once", "drop-once"])
def test_retry_mends(
    demo: DemoServer, allowed: list[str], sessions_to: Callable[..., Sessions], tmp_path: Path, route: str
) -> None:
    """What failed once is had at the second attempt."""
    # On a reused connection, the dropped request would be sent again within the attempt.
    downloader = Downloader(sessions_to(*allowed), sleep=lambda _: None)
    got, attempts = download(
        downloader, f"{demo.url}/fault/{route}/3.jpg?{tmp_path.name}", FetchOptions(retries=1, backoff=0)
    )
    assert (got.http_status, attempts) == (200, 2)


def test_waits_grow(demo: DemoServer, downloader: Downloader, waits: list[float]) -> None:
    """The waits double, less a random part of up to a half."""
    failure(downloader, f"{demo.url}/fault/drop", FetchOptions(retries=3, backoff=1.0, deadline=60.0))
    assert len(waits) == 3
    for retry, wait in enumerate(waits):
        assert 2**retry / 2 <= wait <= 2**retry


def test_retry_after_is_respected(demo: DemoServer, downloader: Downloader, waits: list[float], tmp_path: Path) -> None:
    """A server that asks for seconds gets them, though our own wait would be shorter."""
    url = f"{demo.url}/fault/rate-limited-once/3.jpg?after=2&{tmp_path.name}"
    got, attempts = download(downloader, url, FetchOptions(retries=1, backoff=0, deadline=10.0))
    assert (got.http_status, attempts, waits) == (200, 2, [2.0])


@pytest.mark.parametrize("after", [10, 10**9])
def test_retry_after_beyond_the_deadline_gives_up(
    demo: DemoServer, downloader: Downloader, waits: list[float], after: int
) -> None:
    """Where the wait would outlast the deadline, the failure is told at once."""
    options = FetchOptions(retries=5, backoff=0, deadline=5.0)
    error, attempts = failure(downloader, f"{demo.url}/fault/rate-limited?after={after}", options)
    assert (type(error), attempts, waits) == (RateLimited, 1, [])


@given(st.integers(0, 10), st.floats(0, 100), st.none() | st.floats(0, 1e6))
def test_backoff_stays_in_its_bounds(retry: int, base: float, retry_after: float | None) -> None:
    """A wait is half to whole of the doubled base, at most 30 s, and never less than the server asks."""
    full = min(base * 2**retry, 30.0)
    least = retry_after or 0.0
    assert max(full / 2, least) <= backoff(retry, base, retry_after) <= max(full, least)


#: What becomes of a status: how often it is tried when two retries are allowed, and as what it ends.
_STATUSES: dict[int, tuple[int, type[FetchError]]] = {
    **dict.fromkeys([*range(400, 408), *range(409, 425), 426, 428, 431, 451, 499], (1, HttpRefused)),
    **dict.fromkeys([408, 425], (3, HttpNotYet)),
    429: (3, RateLimited),
    **dict.fromkeys([500, 502, 503, 504, 506, 507, 508, 510, 511, 520, 599], (3, HttpFailed)),
    **dict.fromkeys([501, 505], (1, HttpUnable)),
    **dict.fromkeys([304, 600, 999], (1, BadResponse)),
    **dict.fromkeys([300, 305, 306, 399], (1, TooManyRedirects)),
    204: (1, EmptyBody),
}


@pytest.mark.parametrize(("status", "expected"), _STATUSES.items(), ids=map(str, _STATUSES))
def test_status(status: int, expected: tuple[int, type[FetchError]], sessions_to: Callable[..., Sessions]) -> None:
    """Status by status: what is tried again, what never is, and as what it ends."""
    with Canned(always(response(b"body", f"{status} What"))) as server:
        downloader = Downloader(sessions_to(server.address), sleep=lambda _: None)
        error, attempts = failure(downloader, server.url, FetchOptions(timeout=2.0, retries=2, backoff=0))
    assert (attempts, type(error), error.http_status) == (*expected, status)


@pytest.mark.parametrize("status", [200, 201, 202, 203, 205, 206, 207, 226, 299])
def test_any_success_carries_the_image(status: int, sessions_to: Callable[..., Sessions]) -> None:
    """Whichever success a server names, its body is what was asked for."""
    with Canned(always(response(b"body", f"{status} What", 'ETag: "a"'))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert (got.body, got.http_status, got.etag) == (b"body", status, '"a"')


@pytest.mark.parametrize("fields", [("Content-Length: 4",), ("Transfer-Encoding: chunked",)])
def test_no_content_is_not_waited_for(fields: tuple[str, ...], sessions_to: Callable[..., Sessions]) -> None:
    """A 204 has no body, whatever its fields announce, and its connection serves the next image."""
    with Canned(always(response(b"", "204 No Content", *fields, length=False))) as server:
        downloader = Downloader(sessions_to(server.address))
        assert [type(failure(downloader, server.url)[0]) for _ in range(2)] == [EmptyBody] * 2
        assert server.connections == 1


def test_redirect_without_a_location_may_be_the_image(sessions_to: Callable[..., Sessions]) -> None:
    """A body that begins as an image is taken where there is nowhere else to go."""
    with Canned(always(response(image("JPEG"), "300 Multiple Choices"))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == image("JPEG")


@pytest.mark.parametrize("sent", ["bytes 0-3/4", "bytes=0-3/4"])
def test_range_that_spans_the_body_is_the_body(sent: str, sessions_to: Callable[..., Sessions]) -> None:
    """A 206 that nobody asked for is taken if it has all of the image."""
    with Canned(always(response(b"body", "206 Partial Content", f"Content-Range: {sent}"))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == b"body"


@pytest.mark.parametrize(
    "sent", ["bytes 0-3/8", "bytes 4-7/8", "bytes 0-3/*", "pages 0-3/4", "bytes 0-3/4\r\nContent-Range: bytes 0-3/8"]
)
def test_part_that_nobody_asked_for_is_refused(sent: str, sessions_to: Callable[..., Sessions]) -> None:
    """A 206 with a part, or that does not say how large the whole is, is not taken for the image."""
    with Canned(always(response(b"body", "206 Partial Content", f"Content-Range: {sent}"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is BadResponse
    assert "a part of the body alone" in str(error)


def test_whole_range_that_is_short_is_truncated(sessions_to: Callable[..., Sessions]) -> None:
    """A 206 that has less than its range is not whole."""
    with Canned(always(response(b"bod", "206 Partial Content", "Content-Range: bytes 0-3/4"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is Truncated


@pytest.mark.parametrize("values", [("2", "2"), ("1", "2"), ("soon", "2")])
def test_longest_of_several_waits_is_kept(
    values: tuple[str, str], waits: list[float], sessions_to: Callable[..., Sessions]
) -> None:
    """A Retry-After that comes twice counts once, and of two the longer one counts."""
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
def test_validators_that_come_twice(
    fields: list[str], expected: tuple[str | None, str | None], sessions_to: Callable[..., Sessions]
) -> None:
    """The same validator twice counts once; two that differ are none."""
    with Canned(always(response(b"body", "200 OK", *fields))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert (got.etag, got.last_modified) == expected


def test_opt_out_that_comes_twice(sessions_to: Callable[..., Sessions]) -> None:
    """An opt-out is heard in whichever field it stands."""
    with Canned(always(response(b"body", "200 OK", "X-Robots-Tag: all", "X-Robots-Tag: noai"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is OptedOut


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_wait_that_is_too_long_is_not_slept(
    status: int, waits: list[float], sessions_to: Callable[..., Sessions]
) -> None:
    """No slot is held for more than --max-wait, and the message names the wait; the bound is slept."""
    for after, tried in ((31, 1), (30, 2)):
        with Canned(always(response(b"", f"{status} What", f"Retry-After: {after}"))) as server:
            downloader = Downloader(sessions_to(server.address), sleep=waits.append)
            error, attempts = failure(downloader, server.url, FetchOptions(retries=1, backoff=0))
        assert attempts == tried
        assert isinstance(error, RateLimited) == (status == 429 or tried == 1)
        assert isinstance(error, LongWait) == (tried == 1)
        assert ("asks for a wait of 31 s, more than 30" in str(error)) == (tried == 1)
    assert waits == [30.0]


@pytest.mark.parametrize(
    ("after", "earlier", "expected"),
    [(120, 0, LongWait), (120, 1, LongWait), (120, 2, RateLimited), (121, 0, RateLimited)],
    ids=["first", "last but one", "last attempt", "too long for a countdown"],
)
def test_wait_is_left_to_a_countdown(
    after: int, earlier: int, expected: type[FetchError], sessions_to: Callable[..., Sessions]
) -> None:
    """A wait of up to two minutes is, while there is another attempt to make; those of earlier deliveries count."""
    with Canned(always(response(b"", "503 What", f"Retry-After: {after}"))) as server:
        downloader = Downloader(sessions_to(server.address))
        options = FetchOptions(retries=2, backoff=0)
        with pytest.raises(FetchError) as caught:
            downloader.download(server.url, options, Deadline(10, 60), lambda: None, earlier)
    assert (type(caught.value), caught.value.retry_after) == (expected, after)


def test_attempts_of_earlier_deliveries_count(sessions_to: Callable[..., Sessions]) -> None:
    """All deliveries of a task together make no more attempts than one would."""
    attempts: list[None] = []
    with Canned(always(response(b"", "503 What"))) as server:
        downloader = Downloader(sessions_to(server.address), sleep=lambda _: None)
        with pytest.raises(HttpFailed):
            downloader.download(server.url, FetchOptions(retries=4), Deadline(10, 60), lambda: attempts.append(None), 3)
    assert len(attempts) == 2


def test_countdown_is_spread() -> None:
    """Those who are refused together come back after what was asked for, and up to a tenth more."""
    found = {countdown(100.0) for _ in range(100)}
    assert len(found) > 1
    assert all(100 <= seconds <= 110 for seconds in found)


def test_redirect_from_https_to_http(server_context: ssl.SSLContext, sessions_to: Callable[..., Sessions]) -> None:
    """A redirect that gives TLS up is followed only where the user says so."""
    with Canned(always(response())) as plain:
        moved = response(b"", "302 Found", f"Location: {plain.url}/?token=secret")
        with Canned(always(moved), server_context) as tls:
            downloader = Downloader(sessions_to("127.0.0.1"))
            refused, _ = failure(downloader, tls.url)
            assert plain.connections == 0
            assert download(downloader, tls.url, replace(ONCE, allow_downgrade=True))[0].body == b"body"
    assert type(refused) is TooManyRedirects
    assert "token=*** leads from https to http" in str(refused)


def test_redirect_from_http_to_https(server_context: ssl.SSLContext, sessions_to: Callable[..., Sessions]) -> None:
    """A redirect that wins TLS is followed."""
    with Canned(always(response()), server_context) as tls:
        moved = response(b"", "302 Found", f"Location: {tls.url}/")
        plain = Canned(always(moved))
        with plain:
            assert download(Downloader(sessions_to("127.0.0.1")), plain.url)[0].body == b"body"


_HEAD = HeadOptions(
    "Somebody/1.0", "https://page.example/", (("Authorization", "Bearer word"), ("accept", "image/png"))
)


def test_head_says_what_the_user_says(sessions_to: Callable[..., Sessions]) -> None:
    """User agent, referer and further fields are sent, each once."""
    with Canned(always(response())) as server:
        download(Downloader(sessions_to(server.address)), server.url, replace(ONCE, head=_HEAD))
    lines = server.requests[0].split(b"\r\n")[2:-2]
    assert sorted(lines, key=bytes.lower) == [
        b"Accept-Encoding: identity",
        b"accept: image/png",
        b"Authorization: Bearer word",
        b"Referer: https://page.example/",
        b"User-Agent: Somebody/1.0",
    ]


def test_credentials_stay_with_their_host(sessions_to: Callable[..., Sessions]) -> None:
    """A redirect elsewhere gets neither the URL's userinfo nor the user's fields, nor does what follows it."""
    with Canned(lambda _: [next(others)]) as other, Canned(lambda _: [next(firsts)]) as first:
        here, away, back = "/b", f"{other.url}/c", f"{first.url}/d"
        firsts = iter([*(response(b"", "302 Found", f"Location: {place}") for place in (here, away)), response()])
        others = iter([response(b"", "302 Found", f"Location: {back}")])
        url = first.url.replace("://", "://user:word@")
        options = replace(ONCE, head=replace(_HEAD, fields=(("X-Key", "k"),)))
        download(Downloader(sessions_to("127.0.0.1")), url, options)
    assert b"Authorization: Basic " in first.requests[0]
    assert [b"X-Key: k" in request for request in (*first.requests, *other.requests)] == [True, True, False, False]
    assert b"Authorization" not in b"".join([*first.requests[1:], *other.requests])
    assert b"User-Agent: Somebody/1.0" in other.requests[0]


def cookies_of(server: Canned) -> list[bytes]:
    """The Cookie lines of each request; empty where there is none."""
    return [
        b"".join(line for line in request.split(b"\r\n") if line.lower().startswith(b"cookie:"))
        for request in server.requests
    ]


def test_cookies_live_for_one_download(sessions_to: Callable[..., Sessions]) -> None:
    """A redirect's cookie is sent with the requests that follow it, and not with those of the next download."""
    replies = iter(
        [*(response(b"", "302 Found", "Location: /b", f"Set-Cookie: a={value}") for value in "12"), response()] * 2
    )
    with Canned(lambda _: [next(replies)]) as server:
        downloader = Downloader(sessions_to(server.address))
        for _ in range(2):
            download(downloader, server.url)
    assert cookies_of(server) == [b"", b"Cookie: a=1", b"Cookie: a=2"] * 2


def test_cookies_live_for_one_attempt(sessions_to: Callable[..., Sessions]) -> None:
    """Each attempt begins without cookies, as the first one did."""
    moved = response(b"", "302 Found", "Location: /b", "Set-Cookie: a=1")
    replies = iter([moved, response(b"", "503 What"), moved, response()])
    with Canned(lambda _: [next(replies)]) as server:
        download(Downloader(sessions_to(server.address)), server.url, FetchOptions(retries=1, backoff=0))
    assert cookies_of(server) == [b"", b"Cookie: a=1"] * 2


def test_cookies_stay_with_their_host(sessions_to: Callable[..., Sessions]) -> None:
    """A cookie is sent to the host that has set it, and to no other; nobody can set one for another host."""
    with Canned(lambda _: [next(others)]) as other, Canned(lambda _: [next(firsts)]) as first:
        away = f"http://localhost:{other.port}/c"
        lines = ("Set-Cookie: a=1", "Set-Cookie: b=2; Domain=localhost", "Set-Cookie: c=3; Domain=.com")
        firsts = iter([response(b"", "302 Found", f"Location: {away}", *lines), response()])
        others = iter([response(b"", "302 Found", f"Location: {first.url}/d")])
        download(Downloader(sessions_to("127.0.0.1", "::1", "localhost")), first.url)
    assert cookies_of(first) == [b"", b"Cookie: a=1"]
    assert cookies_of(other) == [b""]


def test_secure_cookie_stays_inside_tls(server_context: ssl.SSLContext, sessions_to: Callable[..., Sessions]) -> None:
    """A cookie that is Secure is not sent without TLS, to the same host either."""
    with Canned(always(response())) as plain:
        moved = response(b"", "302 Found", f"Location: {plain.url}/b", "Set-Cookie: a=1; Secure", "Set-Cookie: b=2")
        with Canned(always(moved), server_context) as tls:
            download(Downloader(sessions_to("127.0.0.1")), tls.url, replace(ONCE, allow_downgrade=True))
    assert cookies_of(plain) == [b"Cookie: b=2"]


def test_users_cookie_stays(sessions_to: Callable[..., Sessions]) -> None:
    """A Cookie field of the user's is sent along, to the host of the list alone."""
    replies = iter([response(b"", "302 Found", "Location: /b", "Set-Cookie: a=1"), response()])
    with Canned(lambda _: [next(replies)]) as server:
        head = HeadOptions(fields=(("cookie", "user=me"),))
        download(Downloader(sessions_to(server.address)), server.url, replace(ONCE, head=head))
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
def test_cookie_that_is_not_sent(line: str, sessions_to: Callable[..., Sessions]) -> None:
    """A cookie that would end its line, is too large, has expired, or is for somebody else is left out."""
    replies = iter([response(b"", "302 Found", "Location: /b", f"Set-Cookie: {line}"), response()])
    with Canned(lambda _: [next(replies)]) as server:
        download(Downloader(sessions_to(server.address)), server.url)
    assert cookies_of(server) == [b"", b""]


@pytest.mark.parametrize(("new", "error"), [("each time", "more than 5 redirects"), ("once", "is a loop")])
def test_loop_is_the_same_url_with_the_same_cookies(new: str, error: str, sessions_to: Callable[..., Sessions]) -> None:
    """A server that sets another cookie each time ends at --max-redirects, any other one at the first repetition."""

    def answer(_: bytes) -> list[bytes]:
        value = len(server.requests) if new == "each time" else 1
        return [response(b"", "302 Found", "Location: /", f"Set-Cookie: a={value}")]

    with Canned(answer) as server:
        caught, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(caught) is TooManyRedirects
    assert error in str(caught)
    assert len(server.requests) == (6 if new == "each time" else 2)


@pytest.mark.parametrize(
    "fields", [(("X-A", "b\r\nX-Evil: c"),), (("Host", "a.example"),), (("X-A\r\nX-Evil", "c"),), (("", "c"),)]
)
def test_message_can_not_forge_a_head(fields: tuple[tuple[str, str], ...]) -> None:
    """A worker trusts no message: a field that would end its line is refused there, too."""
    with pytest.raises(ValueError, match=r"header|can't be set"):
        head_fields(HeadOptions(fields=fields), None, True)


def test_own_user_agent_says_where_to_complain() -> None:
    """By default we say who we are, and with IMAGEFLEET_CONTACT where to complain."""
    assert head_fields(HeadOptions(), None, True)["User-Agent"] == USER_AGENT
    contact = head_fields(HeadOptions(), "https://fleet.example/about", True)
    assert contact["User-Agent"] == f"{USER_AGENT} (+https://fleet.example/about)"


def test_opt_out_is_the_users_to_ignore(demo: DemoServer, downloader: Downloader) -> None:
    """An image that opted out is had only by the user's word."""
    got, _ = download(downloader, f"{demo.url}/fault/opted-out/3.jpg", replace(ONCE, ignore_opt_out=True))
    assert got.body == picture(3)


def broken(*pieces: bytes) -> Iterator[bytes]:
    """Send the pieces, then close."""
    yield from pieces
    raise ConnectionError


_STRONG_ETAG = ("Accept-Ranges: bytes", 'ETag: "a"')
_MODIFIED = ("Accept-Ranges: bytes", "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT")
#: How a body begins that breaks off, what the next request asks for, what is answered, and what comes of it.
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
    "size that is not known": (
        _STRONG_ETAG,
        b'If-Range: "a"',
        response(b"eone", "206 Partial", "Content-Range: bytes 4-7/*"),
        b"imageone",
    ),
    "fields that come twice": (
        (*_STRONG_ETAG, *_STRONG_ETAG, "accept-ranges: bytes"),
        b'If-Range: "a"',
        response(b"eone", "206 Partial", *["Content-Range: bytes 4-7/8", 'ETag: "a"'] * 2),
        b"imageone",
    ),
    "another image by now, as 203": (_STRONG_ETAG, b'If-Range: "a"', response(b"another", "203 What"), b"another"),
    "two ETags": (("Accept-Ranges: bytes", 'ETag: "a"', 'ETag: "b"'), None, response(b"imageone"), b"imageone"),
    "another image by now": (_STRONG_ETAG, b'If-Range: "a"', response(b"another"), b"another"),
    "weak ETag alone": (("Accept-Ranges: bytes", 'ETag: W/"a"'), None, response(b"imageone"), b"imageone"),
    "ETag that is none": (("Accept-Ranges: bytes", "ETag: a"), None, response(b"imageone"), b"imageone"),
    "weak ETag and a date": (
        (*_MODIFIED, 'ETag: W/"a"'),
        b"If-Range: Thu, 01 Jan 2026 00:00:00 GMT",
        response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8"),
        b"imageone",
    ),
    "no validator": (("Accept-Ranges: bytes",), None, response(b"imageone"), b"imageone"),
    "no ranges": (('ETag: "a"',), None, response(b"imageone"), b"imageone"),
    "ranges of something else": (("Accept-Ranges: none", 'ETag: "a"'), None, response(b"imageone"), b"imageone"),
}


@pytest.mark.parametrize(("fields", "asked", "then", "body"), _RESUMED.values(), ids=_RESUMED)
def test_body_that_broke_off_goes_on(
    fields: tuple[str, ...], asked: bytes | None, then: bytes, body: bytes, sessions_to: Callable[..., Sessions]
) -> None:
    """The rest of a body is asked for where its server allows that and tells the image from another."""
    first = response(b"imag", "200 OK", *fields, "Content-Length: 8", length=False)
    replies = iter([broken(first), iter([then])])
    with Canned(lambda _: next(replies)) as server:
        got, attempts = download(
            Downloader(sessions_to(server.address)), server.url, FetchOptions(retries=1, backoff=0, timeout=2.0)
        )
    assert (got.body, attempts) == (body, 2)
    lines = server.requests[1].split(b"\r\n")
    assert [line for line in lines if line.startswith(b"If-Range")] == ([] if asked is None else [asked])
    assert (b"Range: bytes=4-" in lines) == (asked is not None)


_UNCHANGED = response(b"", "304 Not Modified", length=False)
_CONDITION = Condition('"a"', "Thu, 01 Jan 2026 00:00:00 GMT", None)
_ASKED = (b'If-None-Match: "a"', b"If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT")


def asked(request: bytes) -> tuple[bytes, ...]:
    """The lines of a request by which it has a condition."""
    return tuple(line for line in request.split(b"\r\n") if line.startswith(b"If-"))


def under_condition(
    downloader: Downloader, url: str, condition: Condition = _CONDITION, options: FetchOptions = ONCE
) -> tuple[Download, int]:
    """What a URL serves under a condition, and after how many attempts."""
    attempts: list[None] = []
    deadline = Deadline(options.timeout, options.deadline)
    got = downloader.download(url, options, deadline, lambda: attempts.append(None), 0, condition)
    return got, len(attempts)


def test_unchanged_image_is_not_sent(sessions_to: Callable[..., Sessions]) -> None:
    """A 304 to a request with validators is an answer; its connection serves the next one."""
    told = response(b"", "304 Not Modified", 'ETag: "b"', "Content-Length: 500", length=False)
    with Canned(always(told)) as server:
        downloader = Downloader(sessions_to(server.address))
        for _ in range(2):
            got, attempts = under_condition(downloader, server.url)
            assert (got.unchanged, got.body, got.http_status, got.etag, got.last_modified) == (
                *(True, b"", 304, '"b"'),
                None,
            )
            assert (got.final_url, attempts) == (None, 1)
    assert [asked(request) for request in server.requests] == [_ASKED] * 2
    assert server.connections == 1


def test_changed_image_is_sent(sessions_to: Callable[..., Sessions]) -> None:
    """A 200 to such a request is what it always is."""
    with Canned(always(response(b"newer", "200 OK", 'ETag: "b"'))) as server:
        got, _ = under_condition(Downloader(sessions_to(server.address)), server.url)
    assert (got.unchanged, got.body, got.http_status, got.etag) == (False, b"newer", 200, '"b"')


def test_condition_goes_to_the_url_that_gave_it(sessions_to: Callable[..., Sessions]) -> None:
    """On a way over redirects the validators are sent to the URL that they are of, and to no other."""

    def answer(request: bytes) -> list[bytes]:
        here = request.split(b" ")[1] == b"/"
        return [response(b"", "302 Found", "Location: /b?sig=x") if here else _UNCHANGED]

    with Canned(answer) as server:
        there = replace(_CONDITION, url=f"{server.url}/b?sig=***")
        got, _ = under_condition(Downloader(sessions_to(server.address)), server.url, there)
    assert (got.unchanged, got.final_url) == (True, there.url)
    assert [asked(request) for request in server.requests] == [(), _ASKED]


@pytest.mark.parametrize("route", ["redirects now", "does not redirect any more"])
def test_another_final_url_is_asked_for_all(route: str, sessions_to: Callable[..., Sessions]) -> None:
    """Where the way leads somewhere else than before, nobody asks under a condition, and a 304 is none of ours."""
    replies = iter(
        [response(b"", "302 Found", "Location: /b"), _UNCHANGED] if route == "redirects now" else [_UNCHANGED]
    )
    with Canned(lambda _: [next(replies)]) as server:
        condition = _CONDITION if route == "redirects now" else replace(_CONDITION, url=f"{server.url}/b")
        with pytest.raises(BadResponse, match="nobody asked for"):
            under_condition(Downloader(sessions_to(server.address)), server.url, condition)
    assert asked(server.requests[-1]) == ()


def test_opt_out_of_an_unchanged_image(sessions_to: Callable[..., Sessions]) -> None:
    """Whoever says with a 304 that an image is not for this is heard, unless the user takes it all the same."""
    with Canned(always(response(b"", "304 Not Modified", "X-Robots-Tag: noai", length=False))) as server:
        downloader = Downloader(sessions_to(server.address))
        with pytest.raises(OptedOut, match="says noai") as caught:
            under_condition(downloader, server.url)
        assert caught.value.http_status == 304
        assert under_condition(downloader, server.url, options=replace(ONCE, ignore_opt_out=True))[0].unchanged


def test_retries_of_a_request_under_a_condition(sessions_to: Callable[..., Sessions]) -> None:
    """An attempt that failed is made again under the condition; of a newer image that broke off, the rest is asked."""
    newer = response(b"imag", "200 OK", "Accept-Ranges: bytes", 'ETag: "b"', "Content-Length: 8", length=False)
    rest = response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8", 'ETag: "b"')
    replies = iter([iter([response(b"", "503 What")]), broken(newer), iter([rest])])
    with Canned(lambda _: next(replies)) as server:
        options = FetchOptions(retries=2, backoff=0, timeout=2.0)
        got, attempts = under_condition(Downloader(sessions_to(server.address)), server.url, options=options)
    assert (got.body, got.http_status, attempts) == (b"imageone", 206, 3)
    assert [asked(request) for request in server.requests] == [_ASKED, _ASKED, (b'If-Range: "b"',)]


_NOT_THE_REST = {
    "another range": response(b"eone", "206 Partial", "Content-Range: bytes 3-6/8"),
    "of another size": response(b"eone", "206 Partial", "Content-Range: bytes 4-7/9"),
    "of two ranges": response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8", "Content-Range: bytes 0-3/8"),
    "of another ETag": response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8", 'ETag: "b"'),
    "no range": response(b"eone", "206 Partial"),
    "encoded": response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8", "Content-Encoding: gzip"),
    "no such range": response(b"", "416 What"),
}


@pytest.mark.parametrize("answer", _NOT_THE_REST.values(), ids=_NOT_THE_REST)
def test_what_is_not_the_rest_is_never_joined(answer: bytes, sessions_to: Callable[..., Sessions]) -> None:
    """A server that goes on with something else is asked for the whole again."""
    first = response(b"imag", "200 OK", *_STRONG_ETAG, "Content-Length: 8", length=False)
    replies = iter([broken(first), iter([answer]), iter([response(b"imageone")])])
    with Canned(lambda _: next(replies)) as server:
        got, attempts = download(
            Downloader(sessions_to(server.address)), server.url, FetchOptions(retries=2, backoff=0, timeout=2.0)
        )
    assert (got.body, attempts) == (b"imageone", 3)
    assert b"Range:" not in server.requests[2]


def test_body_that_breaks_off_again_and_again(sessions_to: Callable[..., Sessions]) -> None:
    """Each attempt goes on where the last one ended, also of chunks and after a refusal, and under the cap."""
    chunked = response(b"3\r\nima\r\nxyz\r\n", "200 OK", *_STRONG_ETAG, "Transfer-Encoding: chunked", length=False)
    second = response(b"ge", "206 Partial", "Content-Range: bytes 3-7/8", "Content-Length: 5", length=False)
    third = response(b"one", "206 Partial", "Content-Range: bytes 5-7/8")

    def answer(_: bytes) -> Iterator[bytes]:
        return next(replies)

    for cap, body in ((8, b"imageone"), (7, None)):
        replies = iter([broken(chunked), broken(second), iter([response(b"", "503 What")]), iter([third])])
        with Canned(answer) as server:
            downloader = Downloader(sessions_to(server.address))
            options = FetchOptions(retries=3, backoff=0, timeout=2.0, max_bytes=cap)
            if body is None:
                assert type(failure(downloader, server.url, options)[0]) is TooLarge
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
    "gzip and what is none": ("aws-chunked, gzip, identity", gzip.compress(b"body" * 100)),
    "gzip with a parameter": ("gzip;q=1", gzip.compress(b"body" * 100)),
    "deflate": ("deflate", zlib.compress(b"body" * 100)),
    "deflate without its head": ("deflate", _DEFLATED),
    "br": ("br", brotli.compress(b"body" * 100)),
    "zstd": ("zstd", zstd.compress(b"body" * 100)),
    "zstd in two frames, upper case": ("ZSTD", zstd.compress(b"body" * 50) * 2),
    "twice": ("deflate, gzip", gzip.compress(zlib.compress(b"body" * 100))),
    "br in zstd": ("br, zstd", zstd.compress(brotli.compress(b"body" * 100))),
    "identity": ("identity", b"body" * 100),
    "name of no encoding": ("utf-8", b"body" * 100),
}


@pytest.mark.parametrize(("name", "sent"), _ENCODED.values(), ids=_ENCODED)
def test_encoding_is_undone(name: str, sent: bytes, sessions_to: Callable[..., Sessions]) -> None:
    """A body that is encoded though nobody asked for it is kept as what it holds."""
    with Canned(always(response(sent, "200 OK", f"Content-Encoding: {name}"))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == b"body" * 100


@pytest.mark.parametrize("lacking", [1, 8])
@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd", "deflate, gzip", "br, zstd"])
def test_compressed_body_without_its_end(name: str, lacking: int, sessions_to: Callable[..., Sessions]) -> None:
    """A compressed body that lacks its end is truncated, though its length is as announced."""
    sent = dict(_ENCODED.values())[name][:-lacking]
    with Canned(always(response(sent, "200 OK", f"Content-Encoding: {name}"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is Truncated


@pytest.mark.parametrize("name", ["compress", "gzip, exi", "dcb"])
def test_encoding_that_is_not_read(name: str, sessions_to: Callable[..., Sessions]) -> None:
    """What can't be undone is said so, and not taken for a broken image."""
    with Canned(always(response(b"body", "200 OK", f"Content-Encoding: {name}"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is BadResponse
    assert name.rpartition(" ")[2] in str(error)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO"])
@pytest.mark.parametrize("name", ["gzip", "br, zstd", "compress"])
def test_image_that_only_claims_to_be_encoded(name: str, kind: str, sessions_to: Callable[..., Sessions]) -> None:
    """A body that begins as an image is what it is, whatever its fields say."""
    with Canned(always(response(image(kind), "200 OK", f"Content-Encoding: {name}"))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == image(kind)


def test_image_that_is_encoded_less_often_than_it_claims(sessions_to: Callable[..., Sessions]) -> None:
    """A coding that is named twice may have been applied once: by the server, and not by the cache before it."""
    sent = response(gzip.compress(image("PNG")), "200 OK", "Content-Encoding: gzip", "Content-Encoding: gzip")
    with Canned(always(sent)) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == image("PNG")


def test_second_member_without_its_end_is_truncated(sessions_to: Callable[..., Sessions]) -> None:
    """What follows a gzip member and begins as another one belongs to the body."""
    sent = gzip.compress(b"body") + gzip.compress(b"more" * 100)[:-9]
    with Canned(always(response(sent, "200 OK", "Content-Encoding: gzip"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is Truncated


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
    """However a body is compressed, what is above the cap is never in memory."""
    with Canned(always(response(make(), "200 OK", f"Content-Encoding: {name}"))) as server:
        downloader = Downloader(sessions_to(server.address))
        tracemalloc.start()
        try:
            error, _ = failure(downloader, server.url, FetchOptions(max_bytes=1 << 20, retries=0))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert type(error) is TooLarge
    assert peak < 8 << 20
