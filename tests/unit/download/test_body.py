"""Bodies are read within --max-bytes, decoded, and resumed after an interruption."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import brotli
import pytest

from producer.demo import DemoServer, draw_image
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.errors import BadResponseError, EmptyBodyError, OptedOutError, TooLargeError, TruncatedError
from tasks.model import FetchOptions
from tests.unit.conftest import ONCE, Canned, always, image, response
from tests.unit.download.attempts import cut_off, download, failure
from tests.zstandard import zstd


def test_gzip_is_decoded(demo: DemoServer, downloader: Downloader) -> None:
    """A compressed body is decoded. It is legal even if it was not requested."""
    got, _ = download(downloader, f"{demo.url}/fault/gzip/3.png?width=40&height=30")
    assert got.body == draw_image(3, 40, 30, "png")


def test_chunked_body_is_complete(sessions_to: Callable[..., Sessions]) -> None:
    """A body in chunks is returned in full."""
    sent = response(b"4\r\nbody\r\n1\r\n!\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked", length=False)
    with Canned(always(sent)) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == b"body!"


def test_body_of_exactly_max_bytes_is_accepted(demo: DemoServer, downloader: Downloader) -> None:
    """A body of --max-bytes bytes is accepted.

    A body with one byte more is refused, with or without a declared size.
    """
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
    """A compressed body is inflated block by block, so the data in memory never exceeds the limit."""
    url = f"{demo.url}/fault/{encoding}-bomb"
    tracemalloc.start()
    try:
        error, _ = failure(downloader, url, FetchOptions(max_bytes=1 << 20, retries=0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(error) is TooLargeError
    assert peak < 8 << 20


@pytest.mark.parametrize("status", [200, 201, 202, 203, 205, 206, 207, 226, 299])
def test_any_success_status_is_accepted(status: int, sessions_to: Callable[..., Sessions]) -> None:
    """With any 2xx status, the body is the requested image."""
    with Canned(always(response(b"body", f"{status} What", 'ETag: "a"'))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert (got.body, got.http_status, got.etag) == (b"body", status, '"a"')


@pytest.mark.parametrize("fields", [("Content-Length: 4",), ("Transfer-Encoding: chunked",)])
def test_no_content_has_no_body(fields: tuple[str, ...], sessions_to: Callable[..., Sessions]) -> None:
    """A 204 has no body, even if its headers give a length. Its connection is reused."""
    with Canned(always(response(b"", "204 No Content", *fields, length=False))) as server:
        downloader = Downloader(sessions_to(server.address))
        assert [type(failure(downloader, server.url)[0]) for _ in range(2)] == [EmptyBodyError] * 2
        assert server.connections == 1


def test_redirect_without_a_location_may_be_the_image(sessions_to: Callable[..., Sessions]) -> None:
    """If a redirect has no Location, a body that starts as an image is accepted."""
    with Canned(always(response(image("JPEG"), "300 Multiple Choices"))) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == image("JPEG")


@pytest.mark.parametrize("sent", ["bytes 0-3/4", "bytes=0-3/4"])
def test_unrequested_full_range_is_accepted(sent: str, sessions_to: Callable[..., Sessions]) -> None:
    """A 206 that answers a request without a range is accepted if it holds the whole image."""
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


def test_repeated_opt_out_header(sessions_to: Callable[..., Sessions]) -> None:
    """If a response has several X-Robots-Tag headers, an opt-out in any of them is respected."""
    with Canned(always(response(b"body", "200 OK", "X-Robots-Tag: all", "X-Robots-Tag: noai"))) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert type(error) is OptedOutError


def test_opt_out_can_be_ignored(demo: DemoServer, downloader: Downloader) -> None:
    """An opted-out image is downloaded only with --ignore-opt-out."""
    got, _ = download(downloader, f"{demo.url}/fault/opted-out/3.jpg", replace(ONCE, ignore_opt_out=True))
    assert got.body == draw_image(3)


_STRONG_ETAG = ("Accept-Ranges: bytes", 'ETag: "a"')
_MODIFIED = ("Accept-Ranges: bytes", "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT")
#: Each case has the headers of an interrupted response, the If-Range of the next request, the response to that request,
#: and the saved body.
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
    """The whole image is requested again if the server answers with anything but the missing bytes."""
    first = response(b"imag", "200 OK", *_STRONG_ETAG, "Content-Length: 8", length=False)
    replies = iter([cut_off(first), iter([answer]), iter([response(b"imageone")])])
    with Canned(lambda _: next(replies)) as server:
        got, attempts = download(
            Downloader(sessions_to(server.address)), server.url, FetchOptions(retries=2, backoff=0, timeout=2.0)
        )
    assert (got.body, attempts) == (b"imageone", 3)
    assert b"Range:" not in server.requests[2]


def test_body_is_resumed_repeatedly(sessions_to: Callable[..., Sessions]) -> None:
    """Each attempt continues where the previous one ended, even with chunks or after an error, up to --max-bytes."""
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
    """A content coding that is named twice may have been applied only one time.

    For example, a cache adds a second header.
    """
    sent = response(gzip.compress(image("PNG")), "200 OK", "Content-Encoding: gzip", "Content-Encoding: gzip")
    with Canned(always(sent)) as server:
        got, _ = download(Downloader(sessions_to(server.address)), server.url)
    assert got.body == image("PNG")


def test_second_member_without_its_end_is_truncated(sessions_to: Callable[..., Sessions]) -> None:
    """If the bytes after a gzip member start as another member, they belong to the body."""
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
