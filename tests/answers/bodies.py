"""Cases of statuses, content codings and cookies."""

from __future__ import annotations

import gzip
import zlib

import brotli

from tests.answers.case import IMAGE, Case, ReceivedRequest, answer, by_path, redirect
from tests.zstandard import zstd

_SIZE = len(IMAGE)
_OK = answer()


def partial(range_: str, body: bytes = IMAGE) -> bytes:
    """Return an answer of status 206 that has this Content-Range."""
    return answer(body, f"Content-Range: {range_}", status="206 Partial Content")


def status(name: str) -> Case:
    """Return a case whose answer has this status and the image as its body."""
    return Case(f"status-{name.partition(' ')[0]}", f"`{name}` with the image", answer(status=name))


_STATUSES = [
    status("201 Created"),
    status("202 Accepted"),
    status("203 Non-Authoritative Information"),
    status("207 Multi-Status"),
    status("226 IM Used"),
    status("299 Whatever"),
    status("204 No Content"),
    status("205 Reset Content"),
    Case("partial-whole", "`206`, `Content-Range: bytes 0-(N-1)/N`", partial(f"bytes 0-{_SIZE - 1}/{_SIZE}")),
    Case("partial-no-range", "`206` without a `Content-Range`", answer(status="206 Partial Content")),
    Case(
        "partial-unknown",
        "`206`, `Content-Range: bytes 0-(N-1)/*`",
        partial(f"bytes 0-{_SIZE - 1}/*"),
        reason="The body may be only the beginning of the image",
    ),
    Case(
        "partial-half", "`206` with the first half", partial(f"bytes 0-{_SIZE // 2 - 1}/{_SIZE}", IMAGE[: _SIZE // 2])
    ),
    Case(
        "partial-middle",
        "`206` with the second half",
        partial(f"bytes {_SIZE // 2}-{_SIZE - 1}/{_SIZE}", IMAGE[_SIZE // 2 :]),
    ),
    *(
        Case(
            f"status-{number}",
            f"`{number}` with a `Location`",
            by_path({"/image": redirect("/there", status=f"{number} Moved"), "/there": _OK}),
        )
        for number in (300, 301, 302, 303, 305, 306, 307, 308)
    ),
    Case(
        "status-300-image",
        "`300 Multiple Choices` without a `Location`, with the image",
        answer(status="300 Multiple Choices"),
    ),
    Case("status-304", "`304` to an unconditional request", answer(b"", status="304 Not Modified")),
    status("404 Not Found"),
    status("500 Internal Server Error"),
    Case(
        "status-600",
        "`600 What` with the image",
        answer(status="600 What"),
        reason="HTTP has no such status. A client should treat it as a server error (RFC 9110, section 15)",
    ),
    Case("status-999", "`999 Request denied` with a text", answer(b"no", status="999 Request denied")),
    Case("status-525", "`525` with a text", answer(b"no", status="525")),
]


def coded(name: str, title: str, encoding: str, body: bytes, *more: str) -> Case:
    """Return a case with a Content-Encoding."""
    return Case(
        f"coding-{name}", f"`Content-Encoding: {encoding}`{title}", answer(body, f"Content-Encoding: {encoding}", *more)
    )


def _raw_deflate(body: bytes) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return made.compress(body) + made.flush()


_GZIP = gzip.compress(IMAGE)
_CODINGS = [
    coded("gzip", "", "gzip", _GZIP),
    coded("x-gzip", "", "X-GZip", _GZIP),
    coded("deflate", "", "deflate", zlib.compress(IMAGE)),
    coded("deflate-raw", " without zlib's header", "deflate", _raw_deflate(IMAGE)),
    coded("br", "", "br", brotli.compress(IMAGE)),
    coded("zstd", "", "zstd", zstd.compress(IMAGE)),
    coded("gzip-members", " in two members", "gzip", gzip.compress(IMAGE[:300]) + gzip.compress(IMAGE[300:])),
    coded("gzip-stray", ", then stray bytes", "gzip", _GZIP + b"\r\n\0\0"),
    coded("gzip-stray-byte", ", then one stray byte", "gzip", _GZIP + b"\n"),
    coded("gzip-zeros", ", then 600 zeros", "gzip", _GZIP + bytes(600)),
    Case(
        "coding-gzip-cut",
        "truncated `Content-Encoding: gzip`",
        answer(_GZIP[:-4], "Content-Encoding: gzip"),
        reason="The image itself may be truncated too, so the request is retried",
    ),
    coded("gzip-sum", " with a wrong checksum", "gzip", _GZIP[:-8] + b"wron" + _GZIP[-4:]),
    coded("deflate-stray", ", then stray bytes", "deflate", zlib.compress(IMAGE) + b"\r\n"),
    coded("br-stray", ", then stray bytes", "br", brotli.compress(IMAGE) + b"\r\n"),
    coded("zstd-stray", ", then stray bytes", "zstd", zstd.compress(IMAGE) + b"\r\n"),
    *(
        coded(f"{name}-not", "; the body is the image itself", name, IMAGE)
        for name in ("gzip", "deflate", "br", "zstd", "compress", "exi")
    ),
    coded("gzip-html", "; the body is HTML", "gzip", b"<html>no</html>"),
    coded("same-twice", " twice; the body is compressed once", "gzip", _GZIP, "Content-Encoding: gzip"),
    coded("list-twice", "; the body is compressed once", "gzip, gzip", _GZIP),
    coded("twice", "; the body is compressed twice", "gzip, gzip", gzip.compress(_GZIP)),
    coded("two", "", "br, gzip", gzip.compress(brotli.compress(IMAGE))),
    coded(
        "six",
        "; six times",
        "gzip, gzip, gzip, gzip, gzip, gzip",
        gzip.compress(gzip.compress(gzip.compress(gzip.compress(gzip.compress(_GZIP))))),
    ),
    coded("comma", "", "gzip,", _GZIP),
    coded("quality", "", "gzip;q=1.0", _GZIP),
    *(
        coded(name or "empty", "", name, IMAGE)
        for name in ("identity", "none", "", "UTF-8", "aws-chunked", "binary", "image/jpeg", "foo")
    ),
    coded("aws-gzip", "", "aws-chunked,gzip", _GZIP),
    coded("identity-gzip", "", "identity, gzip", _GZIP),
    Case("type-html", "`Content-Type: text/html`", answer(IMAGE, "Content-Type: text/html")),
]


def wall(name: str, title: str, *cookies: str, wanted: str = "seen=1") -> Case:
    """Return a case whose server redirects to the same URL until the client sends back the server's cookies."""
    lines = [f"Set-Cookie: {cookie}" for cookie in cookies]
    return Case(
        f"cookie-{name}",
        title,
        lambda received: _OK if received.has(f"Cookie: {wanted}") else redirect(received.target, *lines),
    )


def _counted(received: ReceivedRequest) -> bytes:
    return _OK if received.has("Cookie: n=3") else redirect(received.target, f"Set-Cookie: n={received.earlier + 1}")


def _over_a_login(received: ReceivedRequest) -> bytes:
    if received.target == "/login":
        return redirect("/image", "Set-Cookie: seen=1; Path=/; HttpOnly; SameSite=Lax")
    return _OK if received.has("Cookie: seen=1") else redirect("/login")


def _elsewhere(received: ReceivedRequest) -> bytes:
    if "b.example" in received.target:
        return answer(b"leaked", status="403 Forbidden") if "cookie:" in received.head.lower() else _OK
    return redirect("http://b.example/image", "Set-Cookie: seen=1")


def _to_a_subdomain(received: ReceivedRequest) -> bytes:
    if "cdn.a.example" in received.target:
        return _OK if received.has("Cookie: seen=1") else answer(b"no cookie", status="403 Forbidden")
    return redirect("http://cdn.a.example/image", "Set-Cookie: seen=1; Domain=a.example")


_COOKIES = [
    wall("wall", "a redirect to the same URL with `Set-Cookie`", "seen=1; Path=/"),
    wall("two", "the same with two cookies", "seen=1", "b=2", wanted="seen=1; b=2"),
    wall("date", "the same with `Expires`", "seen=1; expires=Thu, 31-Dec-2037 23:55:55 GMT; path=/"),
    Case("cookie-login", "a redirect to a page that sets a cookie and leads back", _over_a_login),
    Case("cookie-counted", "three redirects to the same URL, each with another cookie", _counted),
    Case(
        "cookie-subdomain",
        "a redirect to a subdomain with `Domain=`",
        _to_a_subdomain,
        urls=("http://a.example/image",),
        proxied=True,
    ),
    Case(
        "cookie-elsewhere",
        "a redirect with a cookie to a host that must not get it",
        _elsewhere,
        urls=("http://a.example/image",),
        proxied=True,
    ),
    Case(
        "cookie-path",
        "a cookie for another path",
        lambda received: (
            _OK
            if received.earlier and "cookie:" not in received.head.lower()
            else redirect("/there", "Set-Cookie: a=b; Path=/else")
        ),
    ),
    Case(
        "cookie-ignored",
        "an endless redirect to the same URL, always with the same cookie",
        lambda received: redirect(received.target, "Set-Cookie: seen=1"),
    ),
]

CASES = [*_STATUSES, *_CODINGS, *_COOKIES]
