"""What tells an image from a newer one is sent back as it came, to the URL that gave it, or not at all."""

from __future__ import annotations

import pytest

from tasks.condition import Condition, condition_of
from tasks.model import URL_LIMIT, Former, shortened

_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


def former(etag: str | None = None, last_modified: str | None = None, final_url: str | None = None) -> Former:
    """A former run's image with these validators."""
    return Former(
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
def test_what_is_asked(etag: str | None, date: str | None, asked: dict[str, str]) -> None:
    """Each validator that has the form of one is sent, beside the fields that are sent anyway."""
    condition = condition_of(former(etag, date))
    assert condition is not None
    assert condition.asking({"Accept": "*/*"}) == {"Accept": "*/*", **asked}


_NONE = {
    "nothing": None,
    "without its quotes": "a",
    "a second one": '"a", "b"',
    "any": "*",
    "cut": shortened(f'"{"a" * 200}"', 120),
    "a line more": '"a"\r\nX: y',
    "a line's end": '"a"\n',
    "a quote inside": '"a"b"',
    "beyond ASCII": '"\xe9"',
}


@pytest.mark.parametrize("etag", _NONE.values(), ids=_NONE)
def test_etag_that_is_none(etag: str | None) -> None:
    """What does not have the form of an ETag is not sent; neither is one that was cut, which has lost its end."""
    assert condition_of(former(etag)) is None


@pytest.mark.parametrize(
    "date", ["", "0", "2026-01-01", f"{_DATE}\r\nX: y", f"{_DATE}\n", "Thu, 01 Jan 26 00:00:00 GMT"]
)
def test_date_that_is_none(date: str) -> None:
    """What is not a date of HTTP is not sent."""
    assert condition_of(former(None, date)) is None


def test_condition_is_for_its_url() -> None:
    """Validators say nothing to another URL than the one that gave them, which redirects may lead to by now."""
    here, there = condition_of(former('"a"')), condition_of(former('"a"', final_url="http://b.example/?sig=***"))
    assert here == Condition('"a"', None, None)
    assert there is not None
    assert (here.is_for(None), here.is_for("http://b.example/?sig=***")) == (True, False)
    assert (there.is_for(None), there.is_for("http://b.example/?sig=***")) == (False, True)


@pytest.mark.parametrize("tail", ["a" * 500, "\\" * 500, "a" * 200 + "\\" * 60, "a" * 150 + "\\" * 90])
def test_final_url_that_was_cut(tail: str) -> None:
    """A final URL that a manifest may hold the beginning of alone stands for many."""
    assert condition_of(former('"a"', final_url=shortened(f"http://b.example/?{tail}", URL_LIMIT))) is None
