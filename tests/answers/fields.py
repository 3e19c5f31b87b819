"""Cases of response heads: repeated fields, lengths, transfer codings, redirects, unusual syntax."""

from __future__ import annotations

import gzip
import zlib

from tests.answers.case import IMAGE, Case, ReceivedRequest, answer, by_path, redirect

_SMUGGLING = (
    "One of the two lengths may be meant for another recipient (request smuggling). RFC 9112 and browsers refuse such "
    "a response, too"
)
_BOUND = "Headers are limited, to bound the memory of a worker"
_CHUNKED = "Transfer-Encoding: chunked"
_SIZE = len(IMAGE)
_OK = answer()


def chunks(
    body: bytes = IMAGE, size: int = 300, extension: str = "", end: bytes = b"\r\n", last: bytes = b"0\r\n\r\n"
) -> bytes:
    """Return a body in chunks."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x%b%b%b%b" % (len(part), extension.encode(), end, part, end) for part in parts) + last


def framed(body: bytes, *fields: str) -> bytes:
    """Return an answer to which no Content-Length is added."""
    return answer(body, *fields, length=False)


def redirected(*fields: str, status: str = "302 Found", at: str = "/image") -> dict[str, bytes]:
    """Return the answers of a server that redirects to ``/there``."""
    return {at: answer(b"", *fields, status=status), "/there": _OK}


def _two_locations(received: ReceivedRequest) -> bytes:
    if received.target == "/image":
        return answer(
            b"", f"Location: {received.server}/there", f"Location: {received.server}/there", status="302 Found"
        )
    return _OK if received.target == "/there" else answer(b"not here", status="404 Not Found")


_TRANSFER = [
    Case("te-chunked", "`Transfer-Encoding: chunked`", framed(chunks(), _CHUNKED)),
    Case("te-twice", "`Transfer-Encoding: chunked` twice", framed(chunks(), _CHUNKED, _CHUNKED)),
    Case("te-list", "`Transfer-Encoding: chunked, chunked`", framed(chunks(), f"{_CHUNKED}, chunked")),
    Case("te-case", "`transfer-encoding:   Chunked `", framed(chunks(), "transfer-encoding:   Chunked ")),
    Case("te-identity", "`Transfer-Encoding: identity`", answer(IMAGE, "Transfer-Encoding: identity"), closes=True),
    Case(
        "te-gzip-chunked",
        "`Transfer-Encoding: gzip, chunked`",
        framed(chunks(gzip.compress(IMAGE)), "Transfer-Encoding: gzip, chunked"),
    ),
    Case(
        "te-two-fields",
        "`Transfer-Encoding: gzip` and `Transfer-Encoding: chunked`",
        framed(chunks(gzip.compress(IMAGE)), "Transfer-Encoding: gzip", _CHUNKED),
    ),
    Case(
        "te-deflate-chunked",
        "`Transfer-Encoding: deflate, chunked`",
        framed(chunks(zlib.compress(IMAGE)), "Transfer-Encoding: deflate, chunked"),
    ),
    Case(
        "te-gzip",
        "`Transfer-Encoding: gzip`; the body ends with the connection",
        framed(gzip.compress(IMAGE), "Transfer-Encoding: gzip"),
        closes=True,
    ),
    Case(
        "te-gzip-not",
        "`Transfer-Encoding: gzip, chunked`; the body is the image itself, in chunks",
        framed(chunks(), "Transfer-Encoding: gzip, chunked"),
    ),
    Case(
        "te-unknown-chunked",
        "`Transfer-Encoding: foo, chunked`; the body is the image, in chunks",
        framed(chunks(), "Transfer-Encoding: foo, chunked"),
    ),
    Case(
        "te-unknown",
        "`Transfer-Encoding: binary` and a `Content-Length`",
        answer(IMAGE, "Transfer-Encoding: binary"),
        closes=True,
    ),
    Case(
        "te-not-last",
        "`Transfer-Encoding: chunked, gzip`",
        framed(gzip.compress(chunks()), "Transfer-Encoding: chunked, gzip"),
        closes=True,
    ),
    Case("te-and-length", f"`{_CHUNKED}` and `Content-Length: 5`", framed(chunks(), _CHUNKED, "Content-Length: 5")),
    Case(
        "te-http10", f"`HTTP/1.0` with `{_CHUNKED}`", framed(chunks(), _CHUNKED).replace(b"1.1", b"1.0", 1), closes=True
    ),
    Case("chunk-space", "spaces after the sizes of chunks", framed(chunks(extension="   "), _CHUNKED)),
    Case("chunk-extension", "chunks with an extension", framed(chunks(extension=';name="value"'), _CHUNKED)),
    Case("chunk-zeros", "chunk sizes with leading zeros", framed(b"0000" + chunks(size=9999), _CHUNKED)),
    Case("chunk-trailer", "fields after the last chunk", framed(chunks(last=b"0\r\nX-Sum: 1\r\n\r\n"), _CHUNKED)),
    Case("chunk-lf", "chunks whose lines end with LF alone", framed(chunks(end=b"\n", last=b"0\n\n"), _CHUNKED)),
    Case("chunk-no-last", "no last chunk; the server closes", framed(chunks(last=b""), _CHUNKED), closes=True),
    Case("chunk-no-end", "the last chunk lacks its empty line", framed(chunks(last=b"0\r\n"), _CHUNKED), closes=True),
    Case("chunk-negative", "a chunk of the size `-5`", framed(b"-5\r\n" + chunks(), _CHUNKED), closes=True),
    Case(
        "chunk-long",
        "a chunk that is longer than its size",
        framed(b"%x\r\n" % (_SIZE - 9) + IMAGE + b"\r\n0\r\n\r\n", _CHUNKED),
        closes=True,
    ),
]

_LENGTHS = [
    Case("length-twice", "the same `Content-Length` twice", answer(IMAGE, f"Content-Length: {_SIZE}")),
    Case("length-list", "`Content-Length: N, N`", framed(IMAGE, f"Content-Length: {_SIZE}, {_SIZE}")),
    Case("length-zeros", "`Content-Length: 00N` and `Content-Length: N`", answer(IMAGE, f"Content-Length: 00{_SIZE}")),
    Case(
        "length-conflict",
        "two different `Content-Length`",
        answer(IMAGE, "Content-Length: 5"),
        reason=_SMUGGLING,
    ),
    Case(
        "length-conflict-list",
        "`Content-Length: N, 5`",
        framed(IMAGE, f"Content-Length: {_SIZE}, 5"),
        reason=_SMUGGLING,
    ),
    Case("length-minus", "`Content-Length: -1`", framed(IMAGE, "Content-Length: -1"), closes=True),
    Case("length-empty", "`Content-Length:` without a value", framed(IMAGE, "Content-Length:"), closes=True),
    Case("length-word", "`Content-Length: abc`", framed(IMAGE, "Content-Length: abc"), closes=True),
    Case("length-plus", "`Content-Length: +N`", framed(IMAGE, f"Content-Length: +{_SIZE}"), closes=True),
    Case(
        "length-space",
        "a space before the colon of `Content-Length :`",
        framed(IMAGE, f"Content-Length : {_SIZE}"),
        closes=True,
    ),
    Case("length-none", "no length; the server closes", framed(IMAGE), closes=True),
    Case(
        "length-too-long",
        "a `Content-Length` beyond the body",
        framed(IMAGE, f"Content-Length: {_SIZE + 5}"),
        closes=True,
    ),
    Case(
        "length-too-short",
        "a `Content-Length` that ends before the body",
        framed(IMAGE, f"Content-Length: {_SIZE - 5}"),
        closes=True,
    ),
]

_LOCATIONS = [
    Case("location-twice", "the same `Location` twice", _two_locations),
    Case(
        "location-conflict",
        "two different `Location`",
        by_path({**redirected("Location: /there", "Location: /elsewhere"), "/elsewhere": _OK}),
        reason="One of the two targets may be injected. Browsers refuse such a response, too",
    ),
    Case(
        "location-utf8",
        "a `Location` in UTF-8, with a space",
        by_path({**redirected("Location: /caf\xc3\xa9 x"), "/caf%C3%A9%20x": _OK}),
    ),
    Case("location-latin1", "a `Location` in Latin-1", by_path({**redirected("Location: /caf\xe9"), "/caf%E9": _OK})),
    Case("location-fragment", "a `Location` with a fragment", by_path(redirected("Location: /there#part"))),
    Case("location-empty", "an empty `Location`", by_path(redirected("Location:"))),
    Case(
        "location-missing", "a redirect without a `Location`; its body is the image", answer(IMAGE, status="302 Found")
    ),
    Case("location-loop", "an endless redirect to the same URL", lambda received: redirect(received.target)),
    Case(
        "location-once",
        "a redirect to the same URL, only at the first request",
        lambda received: _OK if received.earlier else redirect(received.target),
        reason="The same URL with the same cookies counts as a loop, because a stateless server would repeat the "
        "redirect forever",
    ),
]

_HEADS = [
    Case("fields-150", "150 fields", answer(IMAGE, *(f"X-Debug-{number}: v" for number in range(150)))),
    Case("fields-2000", "2,000 fields", answer(IMAGE, *(f"X-Debug-{number}: v" for number in range(2000)))),
    Case(
        "fields-6000", "6,000 fields", answer(IMAGE, *(f"X-Debug-{number}: v" for number in range(6000))), reason=_BOUND
    ),
    Case("head-100k", "a head of 100 KiB", answer(IMAGE, *(f"X-{number}: {'a' * 2000}" for number in range(50)))),
    Case("field-100k", "one field of 100 KiB", answer(IMAGE, f"X-Long: {'a' * 102_400}")),
    Case("field-250k", "one field of 250 KiB", answer(IMAGE, f"X-Long: {'a' * 256_000}")),
    Case(
        "head-1m",
        "a head of 1 MiB",
        answer(IMAGE, *(f"X-{number}: {'a' * 65_000}" for number in range(16))),
        reason=_BOUND,
    ),
    Case("lf-only", "lines that end with LF alone", b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % _SIZE + IMAGE),
    Case("folded", "a folded field", answer(IMAGE, "X-A: 1\r\n\tmore")),
    Case("no-colon", "a line without a colon", answer(IMAGE, "this is not a field", "\xe9t\xe9: 1")),
    Case("nul", "a field with a NUL", answer(IMAGE, "X-A: a\0b")),
    Case(
        "etag-twice",
        "the same `ETag`, `Last-Modified` and `Content-Type` twice",
        answer(IMAGE, *['ETag: "a"', "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT", "Content-Type: image/jpeg"] * 2),
    ),
    Case("early-hints", "`103 Early Hints` first", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _OK),
    Case("continue", "`100 Continue` twice first", b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + _OK),
    Case("http10", "`HTTP/1.0` without a length", framed(IMAGE).replace(b"1.1", b"1.0", 1), closes=True),
    Case("http09", "the bare image (HTTP/0.9)", IMAGE, closes=True),
    Case("http12", "`HTTP/1.2 200 OK`", _OK.replace(b"1.1", b"1.2", 1)),
    Case("http2", "`HTTP/2 200`", _OK.replace(b"HTTP/1.1 200 OK", b"HTTP/2 200", 1)),
    Case("http3", "`HTTP/3 200`", _OK.replace(b"HTTP/1.1 200 OK", b"HTTP/3 200", 1)),
    Case("lower-case", "`http/1.1 200 ok`", _OK.replace(b"HTTP/1.1 200 OK", b"http/1.1 200 ok", 1)),
    Case("icy", "`ICY 200 OK`", _OK.replace(b"HTTP/1.1", b"ICY", 1)),
    Case("no-reason", "`HTTP/1.1 200`", answer(status="200")),
    Case("no-space", "`HTTP/1.1 200OK`", answer(status="200OK")),
    Case("two-spaces", "`HTTP/1.1  200 OK`", answer(status=" 200 OK")),
    Case("four-digits", "`HTTP/1.1 2000 OK`", answer(status="2000 OK")),
    Case("empty-line-first", "an empty line before the status line", b"\r\n" + _OK),
]

CASES = [*_TRANSFER, *_LENGTHS, *_LOCATIONS, *_HEADS]
