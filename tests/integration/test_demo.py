"""The demo server answers each route as its description says, and survives misbehaving clients."""

from __future__ import annotations

import asyncio
import functools
import gzip
import http.client
import io
import json
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import brotli
import pytest
from PIL import Image

from producer.demo import ROUTES, DemoError, DemoOptions, DemoServer, draw_image, gallery
from producer.demo.gallery import DrawingCache, DrawnImage, ImageSpec
from tests.demo_server import running
from tests.waiting import PATIENCE, wait_for
from tests.zstandard import zstd

ROOT = Path(__file__).parents[2]
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF"}
QUIET = 0.05  # After this many seconds without a byte, the tests consider the server silent.


class Answer(NamedTuple):
    """A response to a request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@pytest.fixture(scope="module")
def server() -> Iterator[DemoServer]:
    """Give one server for all tests that only send requests."""
    with running() as server:
        yield server


def fetch(server: DemoServer, path: str, method: str = "GET", **headers: str) -> Answer:
    """Send one request on its own connection and return the response."""
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


@contextmanager
def connected(server: DemoServer, sent: bytes) -> Iterator[socket.socket]:
    """Give a raw connection after `sent` was sent over it."""
    with socket.create_connection(server.address, PATIENCE) as client:
        client.sendall(sent)
        yield client


def get(path: str) -> bytes:
    """Return the bytes of a minimal request."""
    return f"GET {path} HTTP/1.1\r\nHost: demo\r\n\r\n".encode()


def read_all(client: socket.socket) -> bytes:
    """Return everything until the server closes the connection."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def read_until_quiet(client: socket.socket, size: int) -> bytes:
    """Return at least `size` bytes, up to the first pause; fail if the connection closes."""
    received = b""
    while len(received) < size or select.select([client], [], [], QUIET)[0]:
        data = client.recv(65536)
        assert data, "the server closed the connection"
        received += data
    return received


def decoded(body: bytes) -> Image.Image:
    """Return the image in `body`, with all its pixels decoded."""
    image = Image.open(io.BytesIO(body))
    image.load()
    return image


# --- Images ---


@pytest.mark.parametrize("extension", FORMATS)
def test_serves_an_image_in_each_format(server: DemoServer, extension: str) -> None:
    """An image has validators. Its format, media type and size are those that the URL names."""
    answer = fetch(server, f"/images/17.{extension}")
    image = decoded(answer.body)
    assert (answer.status, image.format, image.size) == (200, FORMATS[extension], (400, 200))
    assert answer.headers["Content-Type"] == f"image/{FORMATS[extension].lower()}"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["ETag"].startswith('"')
    assert answer.headers["Last-Modified"].endswith("GMT")
    assert answer.body == draw_image(17, format=FORMATS[extension].lower())


@pytest.mark.parametrize("query", ["", "?width=30"])
def test_known_image_is_not_sent_again(server: DemoServer, query: str) -> None:
    """If a request has the image's ETag, the answer is 304 without a body. The connection stays usable."""
    path = f"/images/18.png{query}"
    tag = fetch(server, path).headers["ETag"]
    for known, status in ((tag, 304), (f'"x", W/{tag}', 304), ("*", 304), ('"x"', 200)):
        answer = fetch(server, path, **{"If-None-Match": known})
        assert (answer.status, answer.headers["ETag"], bool(answer.body)) == (status, tag, status == 200)


def test_image_depends_on_its_number_alone() -> None:
    """An image number gives the same bytes each time, and two different numbers give different bytes."""
    assert draw_image(5) == draw_image(5)
    assert len({draw_image(number, 64, 32) for number in (*range(30), 10**90)}) == 31


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2), (1200, 900)])
def test_image_has_the_requested_size(size: tuple[int, int]) -> None:
    """Every size within the limits can be drawn."""
    assert decoded(draw_image(8, *size)).size == size


@pytest.mark.parametrize("arguments", [(-1, 1, 1, "png"), (0, 0, 1, "png"), (0, 1, 4097, "png"), (0, 1, 1, "bmp")])
def test_image_out_of_range_is_a_value_error(arguments: tuple[int, int, int, str]) -> None:
    """An image number, a size or a format out of range raises a ValueError."""
    with pytest.raises(ValueError, match="must be"):
        draw_image(*arguments)


def test_query_sets_the_size(server: DemoServer) -> None:
    """The width and height in a query take precedence over the server's width and height."""
    assert decoded(fetch(server, "/images/3.png?width=31&height=17").body).size == (31, 17)


@pytest.mark.parametrize("query", ["width=0", "height=4097", "width=wide", "width=nan", "latency=-1"])
def test_query_out_of_range_is_refused(server: DemoServer, query: str) -> None:
    """A query out of range is answered with 400 and the limits."""
    answer = fetch(server, f"/images/3.png?{query}")
    assert answer.status == 400
    assert b"must be a number" in answer.body


@pytest.mark.parametrize("path", ["/images", "/images/-1.jpg", "/images/1.bmp", "/images/x/1.jpg", "/nowhere"])
def test_other_paths_are_not_found(server: DemoServer, path: str) -> None:
    """A path that names neither an image nor a route is answered with 404."""
    assert fetch(server, path).status == 404


def test_head_is_the_answer_without_its_body(server: DemoServer) -> None:
    """HEAD gives the same headers as GET, both for a newly drawn image and for a cached image."""
    cold = fetch(server, "/images/23.webp", "HEAD")
    warm = fetch(server, "/images/23.webp", "HEAD")
    whole = fetch(server, "/images/23.webp")
    assert cold.body == warm.body == b""
    assert cold.headers.items() == warm.headers.items() == whole.headers.items()


def test_latency_delays_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's latency delays each image, cached or not. A URL can set another latency, up to 30 s."""
    waits: list[float] = []
    sleep = asyncio.sleep

    async def recorded(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    with running(DemoOptions(latency=0.5, width=20, height=10)) as server:
        monkeypatch.setattr(asyncio, "sleep", recorded)
        for path in ("/images/0.jpg", "/images/0.jpg", "/images/0.jpg?latency=2", "/changing?latency=99"):
            assert fetch(server, path).status == 200
        for path in ("/images/0.jpg?latency=0", "/healthcheck", "/fault/gone"):
            fetch(server, path)
        monkeypatch.undo()
    assert waits == [0.5, 0.5, 2, 30]


def test_uncached_image_is_drawn_once_and_blocks_no_one(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is requested twice is drawn only once. During the drawing, a third client gets an answer."""
    started, may_end, drawings = threading.Event(), threading.Event(), []

    def slow_drawing(*arguments: Any) -> bytes:
        drawings.append(arguments)
        started.set()
        assert may_end.wait(PATIENCE)
        return b"drawn"

    monkeypatch.setattr(gallery, "draw_image", slow_drawing)
    path = "/images/1.gif?width=77"
    with connected(server, get(path)) as first, connected(server, get(path)) as second:
        assert started.wait(PATIENCE)
        assert fetch(server, "/healthcheck").body == b"ok\n"
        assert not select.select([first, second], [], [], 0)[0]
        may_end.set()
        assert read_until_quiet(first, 1).endswith(b"drawn")
        assert read_until_quiet(second, 1).endswith(b"drawn")
    assert drawings == [(1, 77, 200, "gif")]


def test_image_cache_stays_within_its_limit() -> None:
    """The least recently requested image is evicted first. An image that is larger than the limit is not cached."""
    kept = DrawingCache(10)
    one, two, three, four = (ImageSpec(number, 1, 1, "png") for number in range(4))
    drawn = DrawnImage(b"12345", 0, "image/png", "")
    kept.put(one, drawn)
    kept.put(two, drawn)
    assert kept.get(one) is drawn
    kept.put(three, drawn)
    assert [kept.get(wanted) for wanted in (one, two, three)] == [drawn, None, drawn]
    kept.put(four, drawn._replace(response=b"x" * 11))
    assert kept.get(four) is None


def test_ready_images_are_drawn_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list's first images come from the cache as soon as the server listens. The next image is drawn."""
    with running(DemoOptions(width=20, height=10, ready=6)) as server:
        lines = fetch(server, "/list?count=7").body.decode().splitlines()
        paths = [line.removeprefix(server.url) for line in lines]
        monkeypatch.setattr(gallery, "draw_image", lambda *wanted: repr(wanted).encode())
        bodies = [fetch(server, path).body for path in paths]
    kinds = ("jpeg", "png", "webp", "gif", "jpeg", "png")
    assert bodies[:6] == [draw_image(index, 20, 10, kind) for index, kind in enumerate(kinds)]
    assert bodies[6] == b"(6, 20, 10, 'webp')"


def test_number_of_ready_images_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 10,000 images are drawn in advance, even if the option asks for more images."""
    drawings: list[int] = []

    def fake_drawing(index: int, *_: object) -> bytes:
        drawings.append(index)
        return b"drawn"

    monkeypatch.setattr(gallery, "draw_image", fake_drawing)
    with running(DemoOptions(ready=10**12)):
        assert sorted(drawings) == list(range(10_000))


# --- Lists, counts, the index ---


def test_list_has_absolute_urls_in_four_formats(server: DemoServer) -> None:
    """The list's URLs have the host of the request, and lead to images."""
    lines = fetch(server, "/list?count=6", Host="images.test:81").body.decode().splitlines()
    assert lines[:2] == ["http://images.test:81/images/0.jpg", "http://images.test:81/images/1.png"]
    assert [line.rpartition(".")[2] for line in lines] == [*FORMATS, "jpg", "png"]
    with connected(server, b"GET /list?count=1 HTTP/1.0\r\n\r\n") as client:
        assert read_all(client).endswith(f"{server.url}/images/0.jpg\n".encode())


def test_changing_is_never_the_same_twice(server: DemoServer) -> None:
    """Each request gets a different image, and the formats alternate."""
    answers = [fetch(server, "/changing/same.jpg") for _ in range(5)]
    assert len({answer.body for answer in answers}) == 5
    assert len({answer.headers["Content-Type"] for answer in answers}) == 4


def test_stats_count_by_route() -> None:
    """Each request is counted for its route, whatever follows the route's name."""
    with running(DemoOptions(width=10, height=10)) as server:
        for path in ("/images/1.jpg", "/images/1.jpg", "/fault/gone/1", "/fault/gone/2?x", "/nowhere"):
            fetch(server, path)
        with connected(server, b"?\r\n\r\n") as client:
            read_all(client)
        counts = json.loads(fetch(server, "/stats").body)
    assert counts == {"/images": 2, "/fault/gone": 2, "unknown": 1, "refused": 1, "/stats": 1}


def test_index_lists_every_route(server: DemoServer) -> None:
    """The page at / names all routes, each with one sentence."""
    page = fetch(server, "/").body.decode()
    assert all(f'href="{name}"' in page for name in ROUTES)
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in ROUTES.values())


# --- Faults ---


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("not-found", 404),
        ("forbidden", 403),
        ("gone", 410),
        ("rate-limited", 429),
        ("server-error", 500),
        ("request-timeout", 408),
        ("not-implemented", 501),
        ("no-content", 204),
        ("not-modified", 304),
    ],
)
def test_status_fault(server: DemoServer, fault: str, status: int) -> None:
    """The route answers with its status, whatever follows the route's name. The connection stays usable."""
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
    for path in (f"/fault/{fault}", f"/fault/{fault}/any/17.jpg"):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert not response.will_close
    connection.close()


def test_opted_out(server: DemoServer) -> None:
    """The image's X-Robots-Tag has the tag from the query, always in one line."""
    assert fetch(server, "/fault/opted-out/2.jpg").headers["X-Robots-Tag"] == "noai"
    answer = fetch(server, "/fault/opted-out/2.jpg?tag=imagefleet:%20noindex%0d%0aX-Evil:%20yes")
    assert answer.headers["X-Robots-Tag"] == "imagefleet: noindexX-Evil: yes"
    assert answer.body == draw_image(2)


def test_rate_limit_has_a_retry_after(server: DemoServer) -> None:
    """Retry-After is 1 second, or the query's value."""
    assert fetch(server, "/fault/rate-limited").headers["Retry-After"] == "1"
    assert fetch(server, "/fault/rate-limited?after=7").headers["Retry-After"] == "7"


@pytest.mark.parametrize(("fault", "status"), [("rate-limited", 429), ("server-error", 500)])
def test_once_fault_is_over_at_the_second_request(server: DemoServer, fault: str, status: int) -> None:
    """Each URL fails once, independently of others, and then gives its image."""
    for path in (f"/fault/{fault}-once/4.png", f"/fault/{fault}-once/5.png"):
        assert fetch(server, path).status == status
        assert decoded(fetch(server, path).body).format == "PNG"


def test_drop_closes_without_an_answer(server: DemoServer) -> None:
    """The server closes the connection without a byte. The route drop-once gives the image at the second request."""
    for path in ("/fault/drop/1.jpg", "/fault/drop-once/1.jpg"):
        with pytest.raises(http.client.RemoteDisconnected):
            fetch(server, path)
    assert decoded(fetch(server, "/fault/drop-once/1.jpg").body).format == "JPEG"


def test_silent_never_answers(server: DemoServer) -> None:
    """The server accepts the request, and sends nothing back."""
    with connected(server, get("/fault/silent")) as client:
        assert not select.select([client], [], [], QUIET)[0]


def test_stall_stops_in_the_middle(server: DemoServer) -> None:
    """The headers and half of the body arrive. Then nothing more arrives, but the connection stays open."""
    whole = fetch(server, "/images/2.jpg")
    with connected(server, get("/fault/stall/2.jpg")) as client:
        head, _, body = read_until_quiet(client, len(whole.body) // 2).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(whole.body)}".encode() in head
    assert body == whole.body[: len(whole.body) // 2]


def test_drip_sends_one_byte_a_second(server: DemoServer) -> None:
    """After the headers, the image comes byte by byte, one byte each second."""
    with connected(server, get("/fault/drip/2.jpg")) as client:
        received = read_until_quiet(client, 1)
    assert received.endswith(b"\r\n\r\n\xff")


def test_slow_header_sends_one_byte_a_second(server: DemoServer) -> None:
    """After the status line, the headers come byte by byte, one byte each second."""
    with connected(server, get("/fault/slow-header")) as client:
        assert read_until_quiet(client, 1) == b"HTTP/1.1 200 OK\r\n"


def test_truncated_closes_too_early(server: DemoServer) -> None:
    """The body ends halfway through its declared length."""
    with pytest.raises(http.client.IncompleteRead) as caught:
        fetch(server, "/fault/truncated/2.jpg")
    assert abs(len(caught.value.partial) - (caught.value.expected or 0)) <= 1


@pytest.mark.parametrize(("query", "lengths"), [("", 1), ("?conflicting", 2)])
def test_wrong_length_is_unusable(server: DemoServer, query: str, lengths: int) -> None:
    """The Content-Length is not a number, or there are two Content-Lengths. The whole image follows."""
    with connected(server, get(f"/fault/wrong-length/2.jpg{query}")) as client:
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.count(b"Content-Length: ") == lengths
    assert (b"Content-Length: abc" in head) == (lengths == 1)
    assert body == draw_image(2)


def test_bad_chunk_breaks_in_the_middle(server: DemoServer) -> None:
    """A client that reads chunks finds an invalid chunk size."""
    with pytest.raises((http.client.IncompleteRead, ValueError)):
        fetch(server, "/fault/bad-chunk/2.jpg")


def test_huge_header_comes_before_the_image(server: DemoServer) -> None:
    """The headers are larger than 1 MiB, and the image follows them."""
    with connected(server, get("/fault/huge-header/2.jpg").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as c:
        head, _, body = read_all(c).partition(b"\r\n\r\n")
    assert len(head) > 1024**2
    assert body == draw_image(2)


def test_partial_is_half_of_an_image(server: DemoServer) -> None:
    """The answer has status 206, and the Content-Range names the bytes in the answer's body."""
    answer = fetch(server, "/fault/partial/2.jpg")
    whole = draw_image(2)
    assert answer.status == 206
    assert answer.body == whole[: len(whole) // 2]
    assert answer.headers["Content-Range"] == f"bytes 0-{len(answer.body) - 1}/{len(whole)}"


def test_gzip_decompresses_to_an_image(server: DemoServer) -> None:
    """The body is the image in gzip, with the matching Content-Encoding."""
    answer = fetch(server, "/fault/gzip/2.jpg")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body) == draw_image(2)


def test_gzip_bomb_is_valid_and_large(server: DemoServer) -> None:
    """About 1 MiB inflates to exactly 1 GiB, and the checksum is right."""
    answer = fetch(server, "/fault/gzip-bomb")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(answer.body) == int(answer.headers["Content-Length"]) < 1.1 * 1024**2
    # Inflating everything takes seconds. The output is 1,024 copies of one block, so the test inflates only one block.
    blocks, checks = answer.body[10:-10], answer.body[-8:]
    block = blocks[: len(blocks) // 1024]
    assert blocks == block * 1024
    assert zlib.decompressobj(wbits=-15).decompress(block) == bytes(1024**2)
    checksum = functools.reduce(lambda previous, _: zlib.crc32(bytes(2**24), previous), range(64), 0)
    assert checks == struct.pack("<II", checksum, 1024**3)


def test_br_bomb_is_valid_and_large(server: DemoServer) -> None:
    """Less than 1 KiB inflates to exactly 1 GiB.

    The output repeats a block of 16 MiB, so the test inflates only a few blocks.
    """
    answer = fetch(server, "/fault/br-bomb")
    assert answer.headers["Content-Encoding"] == "br"
    first, second, end = answer.body[:14], answer.body[14:28], answer.body[-1:]
    assert answer.body == first + 63 * second + end
    assert brotli.decompress(first + 2 * second + end) == bytes(48 * 1024**2)


def test_zstd_bomb_is_valid_and_large(server: DemoServer) -> None:
    """32 KiB inflate to exactly 1 GiB.

    The output repeats one block 8,192 times, so the test inflates only a few blocks.
    """
    answer = fetch(server, "/fault/zstd-bomb")
    assert answer.headers["Content-Encoding"] == "zstd"
    head, block, end = answer.body[:6], answer.body[6:10], answer.body[-4:]
    assert answer.body == head + 8191 * block + end
    assert zstd.decompress(head + 7 * block + end) == bytes(1024**2)


def test_huge_has_the_requested_size(server: DemoServer) -> None:
    """The body has as many bytes as the query asks for, whether the length is declared or not."""
    declared = fetch(server, "/fault/huge?bytes=200001")
    undeclared = fetch(server, "/fault/huge?bytes=200001&declared=no")
    assert len(declared.body) == len(undeclared.body) == 200001
    assert declared.headers["Content-Length"] == "200001"
    assert "Content-Length" not in undeclared.headers


def test_huge_waits_for_its_reader(server: DemoServer) -> None:
    """If a client does not read, the server sends no more than the sockets can hold, and still serves other clients."""
    with connected(server, get("/fault/huge")) as client:
        wait_for(lambda: any(not connection._writable.is_set() for connection in server.connections))
        assert max(connection._transport.get_write_buffer_size() for connection in server.connections) < 256 * 1024
        assert fetch(server, "/healthcheck").status == 200
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_bodies_that_are_not_images(server: DemoServer) -> None:
    """Each of these bodies comes with status 200, and Pillow refuses each body."""
    for path, content_type in (
        ("html", "image/jpeg"),
        ("json", "application/json"),
        ("empty", "image/jpeg"),
        ("broken-image/1.jpg", "image/jpeg"),
        ("broken-image/1.png", "image/png"),
    ):
        answer = fetch(server, f"/fault/{path}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
        with pytest.raises(OSError, match=r"(?i)cannot identify|broken|truncated"):
            decoded(answer.body)


def test_big_pixels_is_a_bomb_for_decoders(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred bytes declare so many pixels that Pillow refuses the image."""
    answer = fetch(server, "/fault/big-pixels")
    assert len(answer.body) < 200
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
    with pytest.raises(Image.DecompressionBombError, match="2500000000 pixels"):
        Image.open(io.BytesIO(answer.body))


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/fault/redirect/9.png", "/images/9.png"),
        ("/fault/redirect", "/images/0.jpg"),
        ("/fault/redirect-loop/9.png?x=1", "/fault/redirect-loop/9.png?x=1"),
        ("/fault/redirect-to?url=http://169.254.169.254/latest?a=b", "http://169.254.169.254/latest?a=b"),
        ("/fault/redirect-to?url=/a%0d%0aX-Evil:%20yes", "/a%0D%0AX-Evil:%20yes"),
        ("/fault/redirect-chain/9.png", "/fault/redirect-chain/9.png?hops=2"),
        ("/fault/redirect-chain/9.png?hops=1", "/fault/redirect-chain/9.png?hops=0"),
    ],
)
def test_redirects(server: DemoServer, path: str, location: str) -> None:
    """The answer with status 302 leads to the route's target. The target can't be used to inject headers."""
    answer = fetch(server, path)
    assert (answer.status, answer.headers["Location"]) == (302, location)
    assert "X-Evil" not in answer.headers


def test_redirect_chain_ends_in_the_image(server: DemoServer) -> None:
    """The image comes after the requested number of redirects."""
    assert fetch(server, "/fault/redirect-chain/9.png?hops=0").body == draw_image(9, format="png")
    assert fetch(server, "/fault/redirect-to").status == 400


# --- Clients ---


def test_pipelined_requests_are_answered_in_order(server: DemoServer) -> None:
    """Requests that are sent together are answered in order, even if some requests take longer."""
    fetch(server, "/images/40.jpg?latency=0")
    paths = ("/images/41.jpg?latency=0.02", "/images/40.jpg", "/healthcheck", "/fault/gone", "/images/40.jpg")
    with connected(server, b"".join(map(get, paths)) + get("/fault/drop")) as client:
        received = read_all(client)
    begins = [received.index(part) for part in (draw_image(41), draw_image(40), b"\r\n\r\nok\n", b"\r\n\r\n410\n")]
    assert begins == sorted(begins)
    assert received.endswith(draw_image(40))


@pytest.mark.parametrize("path", ["/images/42.jpg", "/healthcheck"])
@pytest.mark.parametrize("ending", ["HTTP/1.0", "HTTP/1.1\r\nConnection: close"])
def test_connection_closes_at_the_clients_request(server: DemoServer, path: str, ending: str) -> None:
    """A client of HTTP/1.0, or a client that sends Connection: close, gets an answer and then the end of the stream."""
    fetch(server, path)
    with connected(server, f"GET {path} {ending}\r\n\r\n".encode()) as client:
        assert read_all(client).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n\r\n", 405),
        (b"GET /" + b"x" * 1_000_000, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n", 431),
    ],
)
def test_garbage_is_answered_and_the_connection_closed(server: DemoServer, sent: bytes, status: int) -> None:
    """An invalid request gets a fitting error status, even while the client is still sending the request."""
    with connected(server, sent) as client:
        assert read_all(client).startswith(f"HTTP/1.1 {status} ".encode())


def test_flooding_client_is_cut_off(server: DemoServer) -> None:
    """A client can only send a limited number of requests before it reads the answers."""
    with connected(server, get("/fault/silent")) as client, pytest.raises(ConnectionError):
        client.sendall(get("/healthcheck") * 1_000_000)


@pytest.mark.parametrize(
    "path",
    [
        "/fault/stall",
        "/fault/silent",
        "/fault/drip",
        "/fault/slow-header",
        "/fault/huge",
        "/images/0.jpg?latency=9",
    ],
)
def test_disconnected_client_is_forgotten(path: str) -> None:
    """If a client disconnects in the middle of an answer, the server's task for this client ends without an error."""
    with running() as server:
        with connected(server, get(path)):
            wait_for(lambda: any(connection.answering for connection in server.connections))
        wait_for(lambda: not server.connections)


# --- Starting and stopping ---


def test_stop_ends_open_connections() -> None:
    """Within a second after stop(), all connections end, even connections that would last for ever."""
    paths = ("/fault/stall", "/fault/silent", "/fault/drip", "/fault/slow-header", "/fault/huge")
    with running() as server:
        clients = [socket.create_connection(server.address, PATIENCE) for _ in paths]
        for client, path in zip(clients, paths, strict=True):
            client.sendall(get(path))
        idle = socket.create_connection(server.address, PATIENCE)
        wait_for(lambda: sum(connection.answering is not None for connection in server.connections) == 5)
        wait_for(lambda: len(server.connections) == 6)
        before = time.monotonic()
    assert time.monotonic() - before < 1.0
    for client in (*clients, idle):
        with client, suppress(ConnectionError):  # The connection is reset or closed; a timeout fails the test.
            read_all(client)


def test_taken_port_is_an_error_that_names_it() -> None:
    """A second server on the same port fails with an error that names the port."""
    with running() as server, pytest.raises(DemoError, match=f"{server.address[1]}: Address already in use"):
        asyncio.run(DemoServer(DemoOptions(port=server.address[1])).start())


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 70 + ".invalid"])
def test_foreign_host_is_an_error_that_names_it(host: str) -> None:
    """The server can't listen on another machine's address or on an invalid name."""
    with pytest.raises(DemoError, match=host):
        asyncio.run(DemoServer(DemoOptions(host=host)).start())


@pytest.mark.parametrize(
    "values", [{"host": ""}, {"port": 65536}, {"latency": -1}, {"latency": float("nan")}, {"width": 0}, {"ready": -1}]
)
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    """Invalid options raise an error when they are created."""
    with pytest.raises(ValueError, match="must"):
        DemoOptions(**values)
