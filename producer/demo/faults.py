"""The faults of the demo server: a route for each way a download can fail."""

from __future__ import annotations

import asyncio
import functools
import gzip
import random
import struct
import zlib
from collections.abc import AsyncGenerator
from typing import NoReturn
from urllib.parse import quote

from producer.demo.gallery import IMAGE_NAME
from producer.demo.http import Reply, Request, RequestRefusedError, answer, number, page, response_head
from producer.demo.routes import Site, Table, whole

__all__ = ["FAULTS"]

FAULTS = Table()

_GIBIBYTE = 1024**3


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


async def _never() -> NoReturn:
    """Wait until the connection is lost, which cancels this task."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("this future never completes")


# --- Statuses ---

FAULTS.fixed("/fault/not-found", "Status 404.", page(404, "404\n"))
FAULTS.fixed("/fault/forbidden", "Status 403.", page(403, "403\n"))
FAULTS.fixed("/fault/gone", "Status 410.", page(410, "410\n"))


@FAULTS.route("/fault/rate-limited")
async def _rate_limited(site: Site, request: Request) -> Reply:
    """Status 429 with a Retry-After of ?after= seconds (default: 1)."""
    return page(429, "429\n", ("Retry-After", int(number(request, "after", 1, 0, 10**9))))


FAULTS.once("rate-limited", _rate_limited)
FAULTS.once("server-error", FAULTS.fixed("/fault/server-error", "Status 500.", page(500, "500\n")))
FAULTS.fixed("/fault/no-content", "Status 204, which has no body.", Reply(response_head(204)))
FAULTS.fixed("/fault/not-modified", "Status 304 to an unconditional request.", Reply(response_head(304)))


@FAULTS.route("/fault/partial")
async def _partial(site: Site, request: Request) -> Reply:
    """Status 206 with the first half of the image, although the request has no range."""
    drawn = await site.gallery.draw(request)
    half = _half(drawn.body)
    sent = ("Content-Range", f"bytes 0-{len(half) - 1}/{len(drawn.body)}")
    return answer(half, drawn.content_type, sent, status=206)


FAULTS.fixed("/fault/request-timeout", "Status 408.", page(408, "408\n"))
FAULTS.fixed("/fault/not-implemented", "Status 501.", page(501, "501\n"))


@FAULTS.route("/fault/opted-out")
async def _opted_out(site: Site, request: Request) -> Reply:
    """The image with an X-Robots-Tag header. ?tag= sets its value (default: noai)."""
    drawn = await site.gallery.draw(request)
    tag = request.query.get("tag", "noai").encode("ascii", "ignore").decode()
    return answer(drawn.body, drawn.content_type, ("X-Robots-Tag", tag.replace("\r", "").replace("\n", "")))


@FAULTS.route("/fault/robots-denied")
async def _robots_denied(site: Site, request: Request) -> Reply:
    """The image, which the server's /robots.txt forbids."""
    return await whole(site, request)


# --- Connections ---

FAULTS.once("drop", FAULTS.fixed("/fault/drop", "Closes the connection without a response.", Reply(b"", close=True)))


@FAULTS.route("/fault/silent")
async def _silent(site: Site, request: Request) -> Reply:
    """Accepts the request and never answers."""
    await _never()


@FAULTS.route("/fault/stall")
async def _stall(site: Site, request: Request) -> Reply:
    """Half of the image, then nothing until the client disconnects."""
    drawn = await site.gallery.draw(request)
    return Reply(drawn.head, _then_nothing(_half(drawn.body)))


async def _then_nothing(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
    await _never()


@FAULTS.route("/fault/drip")
async def _drip(site: Site, request: Request) -> Reply:
    """The image, one byte per second."""
    drawn = await site.gallery.draw(request)
    return Reply(drawn.head, _drops(drawn.body, together=1))


@FAULTS.route("/fault/slow-header")
async def _slow_header(site: Site, request: Request) -> Reply:
    """The status line at once, then one byte of the headers per second."""
    drawn = await site.gallery.draw(request)
    return Reply(_drops(drawn.head, together=drawn.head.index(b"\n") + 1), drawn.body)


async def _drops(data: bytes, together: int) -> AsyncGenerator[bytes, None]:
    """Yield the first bytes at once (`together` is their number), then one byte per second."""
    yield data[:together]
    for at in range(together, len(data)):
        await asyncio.sleep(1.0)
        yield data[at : at + 1]


@FAULTS.route("/fault/truncated")
async def _truncated(site: Site, request: Request) -> Reply:
    """Declares the whole image, sends half, and closes the connection."""
    drawn = await site.gallery.draw(request)
    return Reply(drawn.head, _half(drawn.body), close=True)


# --- Faults in HTTP ---


@FAULTS.route("/fault/wrong-length")
async def _wrong_length(site: Site, request: Request) -> Reply:
    """The image with the Content-Length "abc". With ?conflicting, it has two Content-Lengths with different values."""
    drawn = await site.gallery.draw(request)
    size = len(drawn.body)
    lengths = (size, size + 7) if "conflicting" in request.query else ("abc",)
    fields = [("Content-Length", length) for length in lengths]
    return Reply(response_head(200, ("Content-Type", drawn.content_type), *fields), drawn.body, close=True)


@FAULTS.route("/fault/bad-chunk")
async def _bad_chunk(site: Site, request: Request) -> Reply:
    """A chunked body; the size of the second chunk is invalid."""
    drawn = await site.gallery.draw(request)
    head = response_head(200, ("Content-Type", drawn.content_type), ("Transfer-Encoding", "chunked"))
    half = _half(drawn.body)
    return Reply(head, b"%x\r\n%b\r\nxyz\r\n%b\r\n" % (len(half), half, half), close=True)


@FAULTS.route("/fault/huge-header")
async def _huge_header(site: Site, request: Request) -> Reply:
    """The image, with a header of 1 MiB."""
    drawn = await site.gallery.draw(request)
    return answer(drawn.body, drawn.content_type, ("X-Padding", "x" * 1024**2))


@FAULTS.route("/fault/gzip")
async def _gzip(site: Site, request: Request) -> Reply:
    """The image with Content-Encoding: gzip, which is valid."""
    drawn = await site.gallery.draw(request)
    return answer(gzip.compress(drawn.body, mtime=0), drawn.content_type, ("Content-Encoding", "gzip"))


# --- Bodies without an image ---

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _big_png() -> bytes:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)  # 8 bits of grey
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(50_001))), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


FAULTS.fixed(
    "/fault/html",
    "A web page declared as image/jpeg.",
    answer(b"<!doctype html><title>Sign in</title><p>Please sign in.\n", "image/jpeg"),
)
FAULTS.fixed("/fault/json", "JSON, with status 200.", answer(b'{"error": "no image"}\n', "application/json"))
FAULTS.fixed("/fault/empty", "An empty body, with status 200.", answer(b"", "image/jpeg"))
FAULTS.fixed(
    "/fault/big-pixels",
    "A PNG of about 100 bytes that declares 50000 x 50000 pixels.",
    answer(_big_png(), "image/png"),
)


@FAULTS.route("/fault/broken-image")
async def _broken_image(site: Site, request: Request) -> Reply:
    """The first bytes of a JPEG, or of a PNG if the URL ends in .png. Garbage follows."""
    wanted = site.gallery.requested_image(request)
    garbage = random.Random(str(wanted.number)).randbytes(4096)  # noqa: S311 - any bytes will do
    if wanted.format == "png":
        return answer(_PNG_SIGNATURE + garbage, "image/png")
    return answer(b"\xff\xd8\xff\xe0" + garbage, "image/jpeg")


@FAULTS.route("/fault/huge")
async def _huge(site: Site, request: Request) -> Reply:
    """A body of zeros. ?bytes= sets its size (default: 1 GiB). With ?declared=no, there is no Content-Length header."""
    size = int(number(request, "bytes", _GIBIBYTE, 0, 2**60))
    undeclared = request.query.get("declared") == "no"
    length = ("Connection", "close") if undeclared else ("Content-Length", size)
    return Reply(response_head(200, ("Content-Type", "image/jpeg"), length), _zeros(size), close=undeclared)


async def _zeros(size: int) -> AsyncGenerator[bytes, None]:
    block = bytes(64 * 1024)
    for left in range(size, 0, -len(block)):
        yield block[:left]


@FAULTS.route("/fault/gzip-bomb")
async def _gzip_bomb(site: Site, request: Request) -> Reply:
    """1 MiB with Content-Encoding: gzip that inflates to 1 GiB of zeros."""
    size = len(_BOMB_START) + 1024 * len(_deflated_mebibyte()) + len(_BOMB_END)
    fields = (("Content-Type", "image/jpeg"), ("Content-Encoding", "gzip"), ("Content-Length", size))
    return Reply(response_head(200, *fields), _bomb())


_BOMB_START = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
# The last block, which is empty; then the CRC-32 and the number of the zeros in 1 GiB.
_BOMB_END = b"\x03\0" + struct.pack("<II", 0x5B64C2B0, _GIBIBYTE)


@functools.cache
def _deflated_mebibyte() -> bytes:
    """Return 1 MiB of zeros as deflate blocks.

    The blocks can be repeated, because they don't refer to earlier blocks.
    """
    deflate = zlib.compressobj(9, wbits=-15)
    return deflate.compress(bytes(1024**2)) + deflate.flush(zlib.Z_FULL_FLUSH)


async def _bomb() -> AsyncGenerator[bytes, None]:
    yield _BOMB_START
    for _ in range(1024):
        yield _deflated_mebibyte()
    yield _BOMB_END


@FAULTS.route("/fault/br-bomb")
async def _br_bomb(site: Site, request: Request) -> Reply:
    """900 bytes with Content-Encoding: br that inflate to 1 GiB of zeros, with the largest possible window."""
    return answer(_BR_START + 63 * _BR_MORE + _BR_END, "image/jpeg", ("Content-Encoding", "br"))


# Three pieces of a Brotli stream: the first 16 MiB of zeros, 16 more MiB of zeros, and the end of the stream.
_BR_START = bytes.fromhex("cfffff7f002400e2b14072efff0d")
_BR_MORE = bytes.fromhex("fcffff074002200e0b40f7fedf00")
_BR_END = b"\x03"


@FAULTS.route("/fault/zstd-bomb")
async def _zstd_bomb(site: Site, request: Request) -> Reply:
    """32 KiB with Content-Encoding: zstd that inflate to 1 GiB of zeros, with the largest accepted window."""
    # A frame (RFC 8878, 3.1.1): the magic number, a header that declares only a window of 128 MiB, and RLE blocks. Each
    # RLE block has a byte and the number of its repetitions.
    size, last = 128 * 1024, 1
    blocks = 8191 * struct.pack("<I", size << 3 | 1 << 1) + struct.pack("<I", size << 3 | 1 << 1 | last)
    return answer(b"\x28\xb5\x2f\xfd\x00\x88" + blocks, "image/jpeg", ("Content-Encoding", "zstd"))


# --- Redirects ---


def _redirect(location: str) -> Reply:
    # Percent-encode line ends and non-ASCII letters, because a header can't hold them. Send all other characters as
    # given.
    return page(302, "302\n", ("Location", quote(location, safe="%/:?#[]@!$&'()*+,;=~")))


@FAULTS.route("/fault/redirect")
async def _redirect_once(site: Site, request: Request) -> Reply:
    """Status 302 to the image."""
    named = IMAGE_NAME.search(request.path)
    return _redirect(f"/images{named[0] if named else '/0.jpg'}")


@FAULTS.route("/fault/redirect-loop")
async def _redirect_loop(site: Site, request: Request) -> Reply:
    """Status 302 to itself."""
    return _redirect(request.target)


@FAULTS.route("/fault/redirect-to")
async def _redirect_to(site: Site, request: Request) -> Reply:
    """Status 302 to the URL in ?url=, which is not checked."""
    if not request.query.get("url"):
        raise RequestRefusedError(400, "?url= is missing.")
    return _redirect(request.query["url"])


@FAULTS.route("/fault/redirect-chain")
async def _redirect_chain(site: Site, request: Request) -> Reply:
    """A chain of ?hops= redirects (default: 3), then the image."""
    hops = int(number(request, "hops", 3, 0, 1000))
    return _redirect(f"{request.path}?hops={hops - 1}") if hops else await whole(site, request)
