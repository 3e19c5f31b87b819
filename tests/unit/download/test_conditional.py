"""Validators are sent unchanged, and only to the URL they came from. The server does not resend an unchanged image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tasks.deadline import Deadline
from tasks.download.adapters import Sessions
from tasks.download.conditional import Validators, usable_validators
from tasks.download.downloader import Download, Downloader
from tasks.errors import BadResponseError, OptedOutError
from tasks.model import URL_LIMIT, FetchOptions, PreviousImage, shortened
from tests.unit.conftest import ONCE, Canned, always, response
from tests.unit.download.attempts import cut_off

_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


def previous_image(
    etag: str | None = None, last_modified: str | None = None, final_url: str | None = None
) -> PreviousImage:
    """Return a previous run's image with these validators."""
    return PreviousImage(
        "00000/00000000.png", 1, 1, "png", 1, "f00", final_url=final_url, etag=etag, last_modified=last_modified
    )


@pytest.mark.parametrize(
    ("etag", "date", "asked"),
    [
        ('"a"', None, {"If-None-Match": '"a"'}),
        ('W/"a"', None, {"If-None-Match": 'W/"a"'}),
        ('""', None, {"If-None-Match": '""'}),
        (None, _DATE, {"If-Modified-Since": _DATE}),
        ('"a"', _DATE, {"If-None-Match": '"a"', "If-Modified-Since": _DATE}),
        ("a", _DATE, {"If-Modified-Since": _DATE}),
        ('"a"', "yesterday", {"If-None-Match": '"a"'}),
    ],
)
def test_valid_validators_are_sent(etag: str | None, date: str | None, asked: dict[str, str]) -> None:
    """Each well-formed validator is sent in addition to the usual headers."""
    validators = usable_validators(previous_image(etag, date))
    assert validators is not None
    assert validators.conditional_headers({"Accept": "*/*"}) == {"Accept": "*/*", **asked}


_INVALID_ETAGS = {
    "none": None,
    "without its quotes": "a",
    "two ETags": '"a", "b"',
    "wildcard": "*",
    "truncated": shortened(f'"{"a" * 200}"', 120),
    "header injection": '"a"\r\nX: y',
    "newline at the end": '"a"\n',
    "a quote inside": '"a"b"',
    "not ASCII": '"\xe9"',
}


@pytest.mark.parametrize("etag", _INVALID_ETAGS.values(), ids=_INVALID_ETAGS)
def test_invalid_etags_are_not_sent(etag: str | None) -> None:
    """A malformed ETag is not sent. A truncated ETag is malformed too, because its closing quote is missing."""
    assert usable_validators(previous_image(etag)) is None


@pytest.mark.parametrize(
    "date", ["", "0", "2026-01-01", f"{_DATE}\r\nX: y", f"{_DATE}\n", "Thu, 01 Jan 26 00:00:00 GMT"]
)
def test_invalid_dates_are_not_sent(date: str) -> None:
    """A value that is not an HTTP date is not sent."""
    assert usable_validators(previous_image(None, date)) is None


def test_validators_are_for_their_url() -> None:
    """Validators are valid only for the URL they came from.

    A redirect may have changed its target since the previous run.
    """
    here, there = (
        usable_validators(previous_image('"a"')),
        usable_validators(previous_image('"a"', final_url="http://b.example/?sig=***")),
    )
    assert here == Validators('"a"', None, None)
    assert there is not None
    assert (here.came_from(None), here.came_from("http://b.example/?sig=***")) == (True, False)
    assert (there.came_from(None), there.came_from("http://b.example/?sig=***")) == (False, True)


@pytest.mark.parametrize("tail", ["a" * 500, "\\" * 500, "a" * 200 + "\\" * 60, "a" * 150 + "\\" * 90])
def test_truncated_final_url_gives_no_validators(tail: str) -> None:
    """If the manifest may have truncated the final URL, no validators are sent. Many URLs may begin like that URL."""
    assert usable_validators(previous_image('"a"', final_url=shortened(f"http://b.example/?{tail}", URL_LIMIT))) is None


_UNCHANGED = response(b"", "304 Not Modified", length=False)
_VALIDATORS = Validators('"a"', "Thu, 01 Jan 2026 00:00:00 GMT", None)
_ASKED = (b'If-None-Match: "a"', b"If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT")


def asked(request: bytes) -> tuple[bytes, ...]:
    """Return the conditional headers of a request."""
    return tuple(line for line in request.split(b"\r\n") if line.startswith(b"If-"))


def download_conditionally(
    downloader: Downloader, url: str, validators: Validators = _VALIDATORS, options: FetchOptions = ONCE
) -> tuple[Download, int]:
    """Return the download of a conditional request, and the number of attempts."""
    attempts: list[None] = []
    deadline = Deadline(options.timeout, options.deadline)
    got = downloader.download(url, options, deadline, lambda _: attempts.append(None), 0, validators)
    return got, len(attempts)


def test_unchanged_image_is_not_sent(sessions_to: Callable[..., Sessions]) -> None:
    """A 304 to a conditional request is a valid response, and its connection is reused."""
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


def test_validators_go_to_the_url_that_sent_them(sessions_to: Callable[..., Sessions]) -> None:
    """In a chain of redirects, validators are sent only to the URL they came from."""

    def answer(request: bytes) -> list[bytes]:
        here = request.split(b" ")[1] == b"/"
        return [response(b"", "302 Found", "Location: /b?sig=x") if here else _UNCHANGED]

    with Canned(answer) as server:
        there = replace(_VALIDATORS, url=f"{server.url}/b?sig=***")
        got, _ = download_conditionally(Downloader(sessions_to(server.address)), server.url, there)
    assert (got.unchanged, got.final_url) == (True, there.url)
    assert [asked(request) for request in server.requests] == [(), _ASKED]


@pytest.mark.parametrize("route", ["redirects now", "no longer redirects"])
def test_changed_final_url_gets_no_validators(route: str, sessions_to: Callable[..., Sessions]) -> None:
    """If redirects lead to another URL than before, no validators are sent, and a 304 is an error."""
    replies = iter(
        [response(b"", "302 Found", "Location: /b"), _UNCHANGED] if route == "redirects now" else [_UNCHANGED]
    )
    with Canned(lambda _: [next(replies)]) as server:
        validators = _VALIDATORS if route == "redirects now" else replace(_VALIDATORS, url=f"{server.url}/b")
        with pytest.raises(BadResponseError, match="an unexpected status"):
            download_conditionally(Downloader(sessions_to(server.address)), server.url, validators)
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
    """A failed attempt is repeated with the validators.

    If a newer image is interrupted, its missing bytes are requested.
    """
    newer = response(b"imag", "200 OK", "Accept-Ranges: bytes", 'ETag: "b"', "Content-Length: 8", length=False)
    rest = response(b"eone", "206 Partial", "Content-Range: bytes 4-7/8", 'ETag: "b"')
    replies = iter([iter([response(b"", "503 What")]), cut_off(newer), iter([rest])])
    with Canned(lambda _: next(replies)) as server:
        options = FetchOptions(retries=2, backoff=0, timeout=2.0)
        got, attempts = download_conditionally(Downloader(sessions_to(server.address)), server.url, options=options)
    assert (got.body, got.http_status, attempts) == (b"imageone", 206, 3)
    assert [asked(request) for request in server.requests] == [_ASKED, _ASKED, (b'If-Range: "b"',)]
