"""Validators are sent back unchanged to the URL they came from, or not at all."""

from __future__ import annotations

import pytest

from tasks.download.conditional import Validators, usable_validators
from tasks.model import URL_LIMIT, PreviousImage, shortened

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
    """Each well-formed validator is sent, together with the usual headers."""
    condition = usable_validators(previous_image(etag, date))
    assert condition is not None
    assert condition.conditional_headers({"Accept": "*/*"}) == {"Accept": "*/*", **asked}


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
    """A malformed ETag is not sent; nor is a truncated one, because it has lost its end."""
    assert usable_validators(previous_image(etag)) is None


@pytest.mark.parametrize(
    "date", ["", "0", "2026-01-01", f"{_DATE}\r\nX: y", f"{_DATE}\n", "Thu, 01 Jan 26 00:00:00 GMT"]
)
def test_invalid_dates_are_not_sent(date: str) -> None:
    """A value that is not an HTTP date is not sent."""
    assert usable_validators(previous_image(None, date)) is None


def test_condition_is_for_its_url() -> None:
    """Validators mean nothing to any URL but their own; a redirect may lead to another URL by now."""
    here, there = (
        usable_validators(previous_image('"a"')),
        usable_validators(previous_image('"a"', final_url="http://b.example/?sig=***")),
    )
    assert here == Validators('"a"', None, None)
    assert there is not None
    assert (here.came_from(None), here.came_from("http://b.example/?sig=***")) == (True, False)
    assert (there.came_from(None), there.came_from("http://b.example/?sig=***")) == (False, True)


@pytest.mark.parametrize("tail", ["a" * 500, "\\" * 500, "a" * 200 + "\\" * 60, "a" * 150 + "\\" * 90])
def test_truncated_final_url_gives_no_condition(tail: str) -> None:
    """A final URL that may be truncated in the manifest could belong to many URLs."""
    assert usable_validators(previous_image('"a"', final_url=shortened(f"http://b.example/?{tail}", URL_LIMIT))) is None
