"""Only temporary failures are retried, after a backoff or the server's Retry-After."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.demo import DemoServer
from tasks.deadline import Deadline
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.retry import backoff, countdown, parse_retry_after
from tasks.errors import (
    BadResponseError,
    EmptyBodyError,
    FetchError,
    HttpClientError,
    HttpNotImplementedError,
    HttpRetryableClientError,
    HttpServerError,
    LongWaitError,
    RateLimitedError,
    RedirectError,
)
from tasks.model import FetchOptions
from tests.unit.conftest import Canned, always, response
from tests.unit.download.attempts import download, failure


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
    """Retry-After is parsed as seconds. A value that is neither seconds nor a date gives None."""
    assert parse_retry_after(value) == seconds


@pytest.mark.parametrize(
    "form",
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S"],
    ids=["IMF-fixdate", "RFC 850", "asctime", "without a zone"],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_retry_after_date(form: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A date is converted to the seconds until that date.

    A date without a zone is in UTC, whatever zone the worker uses.
    """
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
    """Any text is parsed as zero or more seconds, or as None."""
    seconds = parse_retry_after(value)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("route", "attempts"),
    [("server-error", 3), ("drop", 3), ("truncated", 3), ("not-found", 1), ("empty", 1), ("redirect-loop", 1)],
)
def test_only_temporary_failures_are_retried(
    demo: DemoServer, downloader: Downloader, waits: list[float], route: str, attempts: int
) -> None:
    """A temporary failure is retried as often as allowed, with a wait before each retry. Any other failure is final."""
    _, tried = failure(downloader, f"{demo.url}/fault/{route}", FetchOptions(retries=2, backoff=0))
    assert tried == attempts
    assert waits == [0.0] * (attempts - 1)


@pytest.mark.parametrize("route", ["server-error-once", "drop-once"])
def test_second_attempt_succeeds(
    demo: DemoServer, allowed: list[str], sessions_to: Callable[..., Sessions], tmp_path: Path, route: str
) -> None:
    """After one failure, an image is saved at the second attempt."""
    # On a reused connection, the dropped request would be repeated within the same attempt.
    downloader = Downloader(sessions_to(*allowed), sleep=lambda _: None)
    got, attempts = download(
        downloader, f"{demo.url}/fault/{route}/3.jpg?{tmp_path.name}", FetchOptions(retries=1, backoff=0)
    )
    assert (got.http_status, attempts) == (200, 2)


def test_backoff_doubles(demo: DemoServer, downloader: Downloader, waits: list[float]) -> None:
    """The wait doubles with each retry. A random part of at most half of the wait is subtracted."""
    failure(downloader, f"{demo.url}/fault/drop", FetchOptions(retries=3, backoff=1.0, deadline=60.0))
    assert len(waits) == 3
    for retry, wait in enumerate(waits):
        assert 2**retry / 2 <= wait <= 2**retry


def test_retry_after_is_respected(demo: DemoServer, downloader: Downloader, waits: list[float], tmp_path: Path) -> None:
    """A longer Retry-After overrides our own backoff."""
    url = f"{demo.url}/fault/rate-limited-once/3.jpg?after=2&{tmp_path.name}"
    got, attempts = download(downloader, url, FetchOptions(retries=1, backoff=0, deadline=10.0))
    assert (got.http_status, attempts, waits) == (200, 2, [2.0])


@pytest.mark.parametrize("after", [10, 10**9])
def test_retry_after_beyond_the_deadline_gives_up(
    demo: DemoServer, downloader: Downloader, waits: list[float], after: int
) -> None:
    """If the wait would outlast the deadline, the download fails at once."""
    options = FetchOptions(retries=5, backoff=0, deadline=5.0)
    error, attempts = failure(downloader, f"{demo.url}/fault/rate-limited?after={after}", options)
    assert (type(error), attempts, waits) == (RateLimitedError, 1, [])


@given(st.integers(0, 10), st.floats(0, 100), st.none() | st.floats(0, 1e6))
def test_backoff_stays_in_its_bounds(retry: int, base: float, retry_after: float | None) -> None:
    """A wait is 50 to 100 % of the doubled base, but at most 30 s. A wait is never shorter than Retry-After."""
    full = min(base * 2**retry, 30.0)
    least = retry_after or 0.0
    assert max(full / 2, least) <= backoff(retry, base, retry_after) <= max(full, least)


#: Each status, with two values: the number of attempts if two retries are allowed, and the final error.
_STATUSES: dict[int, tuple[int, type[FetchError]]] = {
    **dict.fromkeys([*range(400, 408), *range(409, 425), 426, 428, 431, 451, 499], (1, HttpClientError)),
    **dict.fromkeys([408, 425], (3, HttpRetryableClientError)),
    429: (3, RateLimitedError),
    **dict.fromkeys([500, 502, 503, 504, 506, 507, 508, 510, 511, 520, 599], (3, HttpServerError)),
    **dict.fromkeys([501, 505], (1, HttpNotImplementedError)),
    **dict.fromkeys([304, 600, 999], (1, BadResponseError)),
    **dict.fromkeys([300, 305, 306, 399], (1, RedirectError)),
    204: (1, EmptyBodyError),
}


@pytest.mark.parametrize(("status", "expected"), _STATUSES.items(), ids=map(str, _STATUSES))
def test_status_decides_about_retries(
    status: int, expected: tuple[int, type[FetchError]], sessions_to: Callable[..., Sessions]
) -> None:
    """Each status, with two values: whether it is retried, and its error class."""
    with Canned(always(response(b"body", f"{status} What"))) as server:
        downloader = Downloader(sessions_to(server.address), sleep=lambda _: None)
        error, attempts = failure(downloader, server.url, FetchOptions(timeout=2.0, retries=2, backoff=0))
    assert (attempts, type(error), error.http_status) == (*expected, status)


@pytest.mark.parametrize("values", [("2", "2"), ("1", "2"), ("soon", "2")])
def test_longest_retry_after_counts(
    values: tuple[str, str], waits: list[float], sessions_to: Callable[..., Sessions]
) -> None:
    """A repeated Retry-After counts once. If two values differ, the longer one counts."""
    fields = [f"Retry-After: {value}" for value in values]
    replies = iter([response(b"", "503 What", *fields), response()])
    with Canned(lambda _: [next(replies)]) as server:
        downloader = Downloader(sessions_to(server.address), sleep=waits.append)
        download(downloader, server.url, FetchOptions(retries=1, backoff=0))
    assert waits == [2.0]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_long_wait_holds_no_slot(status: int, waits: list[float], sessions_to: Callable[..., Sessions]) -> None:
    """No slot is held for longer than --max-retry-after, and the message names the requested wait.

    If the wait is exactly --max-retry-after, the slot sleeps.
    """
    for after, tried in ((31, 1), (30, 2)):
        with Canned(always(response(b"", f"{status} What", f"Retry-After: {after}"))) as server:
            downloader = Downloader(sessions_to(server.address), sleep=waits.append)
            error, attempts = failure(downloader, server.url, FetchOptions(retries=1, backoff=0))
        assert attempts == tried
        assert isinstance(error, RateLimitedError) == (status == 429 or tried == 1)
        assert isinstance(error, LongWaitError) == (tried == 1)
        assert ("the server requests a wait of 31 s, more than the limit of 30 s" in str(error)) == (tried == 1)
    assert waits == [30.0]


@pytest.mark.parametrize(
    ("after", "earlier", "expected"),
    [(120, 0, LongWaitError), (120, 1, LongWaitError), (120, 2, RateLimitedError), (121, 0, RateLimitedError)],
    ids=["first", "last but one", "last attempt", "too long for a countdown"],
)
def test_wait_becomes_a_countdown(
    after: int, earlier: int, expected: type[FetchError], sessions_to: Callable[..., Sessions]
) -> None:
    """A wait of up to 120 s becomes a countdown if an attempt is left. Attempts of earlier deliveries count too."""
    with Canned(always(response(b"", "503 What", f"Retry-After: {after}"))) as server:
        downloader = Downloader(sessions_to(server.address))
        options = FetchOptions(retries=2, backoff=0)
        with pytest.raises(FetchError) as caught:
            downloader.download(server.url, options, Deadline(10, 60), lambda _: None, earlier)
    assert (type(caught.value), caught.value.retry_after) == (expected, after)


def test_attempts_of_earlier_deliveries_count(sessions_to: Callable[..., Sessions]) -> None:
    """All deliveries of a task together make at most as many attempts as a single delivery."""
    attempts: list[None] = []
    with Canned(always(response(b"", "503 What"))) as server:
        downloader = Downloader(sessions_to(server.address), sleep=lambda _: None)
        with pytest.raises(HttpServerError):
            downloader.download(
                server.url, FetchOptions(retries=4), Deadline(10, 60), lambda _: attempts.append(None), 3
            )
    assert len(attempts) == 2


def test_countdown_has_jitter() -> None:
    """Tasks that are refused at the same time run again after the requested wait plus up to 10 %."""
    found = {countdown(100.0) for _ in range(100)}
    assert len(found) > 1
    assert all(100 <= seconds <= 110 for seconds in found)
