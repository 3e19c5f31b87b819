"""Retry-After is parsed in all its forms, and invalid values are ignored."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.download.retry import parse_retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("1.5", None),
        ("-1", None),
        ("soon", None),
        ("²", None),
        ("9" * 5000, 999_999_999.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 99 Foo 1970 00:00:00 GMT", None),
        (f"Thu, 01 Jan 1{'5' * 60} 00:00:00 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Retry-After is parsed as seconds; a value in another form than seconds or a date gives None."""
    assert parse_retry_after(value) == seconds


@pytest.mark.parametrize(
    "form",
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S"],
    ids=["IMF-fixdate", "RFC 850", "asctime", "without a zone"],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_retry_after_date(form: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A date is converted to the seconds until then; without a zone it is in UTC, whatever the worker's own zone is."""
    value = time.strftime(form, time.gmtime(time.time() + 60))
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        seconds = parse_retry_after(value)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert seconds is not None
    assert 58 <= seconds <= 60


@given(st.text(max_size=40) | st.from_regex(r"\w{3}, \d{1,3} (Jan|Feb) \d{1,30} \d\d?:\d\d:\d\d( GMT| [+-]\d{1,6})?"))
def test_retry_after_never_raises(value: str) -> None:
    """Any text is parsed as a time of zero or more, or as None."""
    seconds = parse_retry_after(value)
    assert seconds is None or seconds >= 0
