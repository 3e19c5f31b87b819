"""The fuzzing targets and their seed inputs. A target is a function of bytes that returns or raises a documented error.

To add a target, write a function of ``bytes``, and add a line with valid seed inputs to `TARGETS`. Any exception that
the function raises is a finding.
"""

from __future__ import annotations

import gzip
import socket
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import brotli
from PIL import Image

from producer.sources import url_list
from tasks.deadline import Deadline
from tasks.download import byte_range, retry, urls, x_robots_tag
from tasks.download import headers as download_headers
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.download.robots_rules import RobotsRules
from tasks.download.sockets import PlainSocket
from tasks.errors import FetchError, InvalidUrlError, UsageError
from tasks.image_options import ResizeMode, ResizeOptions
from tasks.images import decode, identify, jpeg_xl, resize, svg
from tasks.model import FetchOptions
from tasks.redaction import redacted
from tasks.storage import plan
from tasks.storage.shard_parquet import ShardRef
from tests import bombs
from tests.encoding import encoded
from tests.zstandard import zstd

#: The bytes that separate the answers of a server in an input. Each request gets one answer.
NEXT = b"\n--next--\n"
_OPTIONS = FetchOptions(
    timeout=1, deadline=5, retries=2, backoff=0, max_bytes=1 << 20, max_retry_after=1, max_redirects=3
)
#: The size of a socket's buffer.
_MAX_ANSWER = 64 * 1024
_MAX_PIXELS = 1 << 16
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO")
_BASE = urls.parse("http://a.example/b/c?d")
_MARK = ShardRef("run", 3, 1)


class _AnsweringGuard(Guard):
    """A guard that opens no connection.

    Each caller gets a socket from which it reads the next answer and then an end of stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[bytes] = []
        #: The server's ends of the sockets. They are kept open because requests can't be sent to a closed socket.
        self.ends = ExitStack()

    def connect(self, host: str, port: int, timeout: float, kind: Any = socket.socket) -> Any:
        ours, theirs = socket.socketpair()
        self.ends.enter_context(theirs)
        theirs.sendall(self.answers.pop(0) if self.answers else b"")
        theirs.shutdown(socket.SHUT_WR)
        return PlainSocket(fileno=ours.detach())


@cache
def _client() -> tuple[_AnsweringGuard, Downloader]:
    guard = _AnsweringGuard()
    return guard, Downloader(Sessions(guard), sleep=lambda _: None)


def response(data: bytes) -> None:
    """Download from a server with these answers, which can be heads, redirects, parts, encodings or waits."""
    guard, downloader = _client()
    guard.answers = [answer[:_MAX_ANSWER] for answer in data.split(NEXT)]
    with suppress(FetchError):
        got = downloader.download("http://a.example/", _OPTIONS, Deadline(1, 5), lambda _: None)
        assert got.body
        assert len(got.body) <= _OPTIONS.max_bytes
    # Close the connections, so that the next input gets new connections.
    adapter = downloader._sessions.adapter()
    adapter.poolmanager.clear()
    adapter._last = None
    guard.ends.close()


def url(data: bytes) -> None:
    """Parse a text as a URL from a list and as a URL from a redirect, and display the URL."""
    text = data.decode("utf-8", "replace")
    shown = redacted(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in shown)
    assert redacted(shown) == shown
    for read in (partial(urls.parse, text), partial(urls.join, _BASE, data.decode("latin-1"))):
        try:
            found = read()
        except InvalidUrlError:
            continue
        assert found.scheme in ("http", "https")
        assert 0 < found.port < 65536
        assert found.text.isascii()
        assert found.text.isprintable()
        assert " " not in found.text
        assert found.target.startswith("/")
        if len(found.text) <= urls.MAX_LENGTH:
            # Parsing the normal form of a URL again gives the same text.
            assert urls.parse(found.text) == replace(found, userinfo=None)


def header(data: bytes) -> None:
    """Parse a server's Retry-After, X-Robots-Tag and partial responses, and the request headers of a run."""
    lines = data.decode("latin-1").split("\n")
    for line in lines:
        seconds = retry.parse_retry_after(line)
        assert seconds is None or 0 <= seconds < float("inf")
    assert x_robots_tag.opt_out_directive(lines) in (None, "noai", "noimageai", "noindex", "noimageindex", "none")
    names = ("Content-Range", "ETag", "Last-Modified", "Accept-Ranges", "Content-Encoding")
    headers = dict(zip(names, lines, strict=False))
    started = byte_range.PartialBody("http://a.example/", b"abc", 6, '"a"', '"a"')
    assert started.is_continued_by(206, headers) in (True, False)
    found = byte_range.resumable_body(
        "http://a.example/", {**headers, "Content-Length": "6", "Accept-Ranges": "bytes"}, b"abc"
    )
    if found is not None:
        assert found.range_headers({})["If-Range"].isprintable()
    for line in lines:
        name, _, value = line.partition(":")
        with suppress(ValueError):
            assert "".join(download_headers.checked_header(name, value)).replace("\t", " ").isprintable()


def robots(data: bytes) -> None:
    """Parse a robots.txt, and decide about a URL. The first line of an input is the path of the URL."""
    path, _, body = data.partition(b"\n")
    rules = RobotsRules.from_body(body)
    with suppress(InvalidUrlError):
        target = urls.join(_BASE, path.decode("utf-8", "replace")).target
        decision = rules.allows(target, "imagefleet")
        assert RobotsRules.from_json(rules.to_json()).allows(target, "imagefleet") is decision


def image(data: bytes) -> None:
    """Inspect, decode and resize an image. The decoder of JPEG XL runs in another process, so it is left out."""
    with suppress(FetchError):
        info = identify.inspect(data, _MAX_PIXELS)
        assert 0 <= (info.width or 0) * (info.height or 0) <= _MAX_PIXELS
    with suppress(FetchError):
        decode.decode_all_frames(data, _MAX_PIXELS, Deadline(1, 5))
    with suppress(FetchError):
        resize.resize_image(data, ResizeOptions(ResizeMode.KEEP_RATIO, 16), _MAX_PIXELS, Deadline(1, 5))
    with suppress(FetchError):
        svg.inspect_svg(data, Deadline(1, 5))
    if data.startswith(jpeg_xl.SIGNATURES):
        with suppress(SyntaxError):
            jpeg_xl.read_header(data)


def source(data: bytes) -> None:
    """Read a URL list, write the list's plan, and read this plan."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            requests = list(url_list.read(file.name))
        except UsageError:
            return
    assert [request.index for request in requests] == list(range(len(requests)))
    for request in requests:
        assert request.url.strip() == request.url != ""
        assert "\n" not in request.url
        with suppress(InvalidUrlError):
            urls.parse(request.url)
    if requests:
        assert plan.requests(plan.decode(plan.encode(requests, _MARK), _MARK)) == requests


@dataclass(frozen=True)
class Target:
    """A function of bytes, and its seed inputs."""

    call: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    #: The longest input, in bytes.
    longest: int = 4096


def _responses() -> Iterable[bytes]:
    ok = b"HTTP/1.1 200 OK\r\n"
    body = b"Content-Length: 4\r\n\r\nbody"
    part_of = b'Accept-Ranges: bytes\r\nETag: "a"\r\nContent-Length: 6\r\n\r\nabc'
    return [
        ok + body,
        b"HTTP/1.0 200\r\n\r\nbody",
        b"HTTP/1.1 100 Continue\r\n\r\n" + ok + body,
        ok + b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0\r\nX: a\r\n\r\n",
        ok + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"body"),
        ok + b"Content-Encoding: deflate, br\r\n" + body,
        ok + b"Content-Encoding: br\r\n\r\n" + brotli.compress(b"body"),
        ok + b"Content-Encoding: zstd\r\n\r\n" + zstd.compress(b"body"),
        ok + b"X-Robots-Tag: imagefleet: noai, max-snippet: 5\r\n" + body,
        ok + b"X-Folded: a\r\n b\r\n" + body,
        b"HTTP/1.1 302 Found\r\nLocation: //b.example\\c\r\nContent-Length: 0\r\n\r\n" + NEXT + ok + body,
        b"HTTP/1.1 301 Moved\r\nLocation: https://b.example/\r\n\r\n" + NEXT + b"\x16\x03\x03\x00\x02",
        b"HTTP/1.1 503 Later\r\nRetry-After: 0\r\n\r\n" + NEXT + ok + body,
        b"HTTP/1.1 429 No\r\nRetry-After: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n",
        ok + part_of + NEXT + b'HTTP/1.1 206 P\r\nContent-Range: bytes 3-5/6\r\nETag: "a"\r\n\r\ndef',
        ok + part_of + NEXT + b"HTTP/1.1 416 R\r\nContent-Range: bytes */6\r\n\r\n",
    ]


def _urls() -> Iterable[bytes]:
    return [
        b"http://user:pass@a.example:80/b%20c?token=d&e=f#g",
        b"HTTPS:\\\\0x7f.1\\a",
        b"http://[::ffff:1.2.3.4]:8080/",
        "http://bücher.example/ä?ö".encode(),
        b"//b.example/../c",
        b"?X-Amz-%53ignature=a",
        b"../d;e=f",
    ]


def _headers() -> Iterable[bytes]:
    return [
        b'bytes 3-5/6\n"a"\nThu, 01 Jan 1970 00:00:00 GMT\nbytes\nidentity',
        b"120\nimagefleet: noindex, noai\nunavailable_after: 25 Jun 2010 15:00:00 PST\nnone",
        b"X-Key: value\nHost: a\nX: a\tb",
        b"Sun, 06 Nov 1994 08:49:37 +9999\nSunday, 06-Nov-94 08:49:37 GMT\nSun Nov  6 08:49:37 1994",
    ]


def _robots() -> Iterable[bytes]:
    return [
        b"/a/b.jpg?c=d\nUser-agent: *\nDisallow: /a/*.jpg$\nAllow: /a # b\nCrawl-delay: 1.5\nSitemap: https://a.example/",
        b"//b%20c\n\xef\xbb\xbfuser-agent imagefleet\r\nuser-agent: b\r\ndisallow: %62%e3%83%84\r\n",
        b"/\n<!doctype html>\n<title>User-agent: a</title>",
    ]


def _images() -> Iterable[bytes]:
    for kind in _FORMATS:
        for mode in ("RGB", "L"):
            yield encoded(Image.new(mode, (16, 12), 90), kind)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        yield encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    yield encoded(frames[0], "JPEG", progressive=True, exif=_turned(), comment=b"a")
    yield bombs.tiled_tiff((64, 32))
    yield bombs.jpeg((64, 64), 3)
    yield bombs.gif((8, 8), (16, 8), disposal=3)
    yield b'<svg xmlns="http://www.w3.org/2000/svg" width="3cm" viewBox="0 0 4 3"><g/></svg>'
    yield b"<!DOCTYPE svg [<!ENTITY a 'b'>]><svg x='&a;'>&a;</svg>"
    yield b"\xff\x0a\x28\x02\xb2\x0c\x00\x13\x88\x02"
    yield b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14jxlp\0\0\0\0\xff\x0a\x28\x02\xb2\x0c\x00\x13"


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def _sources() -> Iterable[bytes]:
    return [b"\xef\xbb\xbf# list\r\nhttp://a.example/\r\n\r\n  b \n", "ä\x85ö\r\x0b\n".encode(), b"a\xff\nb"]


TARGETS = {
    "response": Target(response, _responses),
    "url": Target(url, _urls, 512),
    "header": Target(header, _headers, 512),
    "robots": Target(robots, _robots, 512),
    "image": Target(image, _images, 8192),
    "source": Target(source, _sources),
}
