"""Whatever happens, one request becomes one Outcome. The Outcome matches the saved file."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from producer.demo import DemoServer, draw_image
from tasks.collect import collect
from tasks.download import urls
from tasks.download.adapters import Sessions
from tasks.download.downloader import Download, Downloader
from tasks.errors import DnsError, FetchError, FetchTimeoutError, HttpClientError, LongWaitError, RateLimitedError
from tasks.fetch import FetchRequest, failed_outcome, fetch, worker_name
from tasks.image_options import ResizeMode, ResizeOptions
from tasks.model import FetchOptions, ImageRequest, Outcome, PreviousImage, Reason, Refusal, RunOptions, Status, Verify
from tasks.previous_image import PreviousFile
from tasks.retry_later import PriorAttempts, RetryLater
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.unit.conftest import Canned, Judge, always, image, response

_REF = ShardRef("", 0)

_RUN = RunOptions("/out", 10, FetchOptions(deadline=5.0, retries=1, backoff=0))
_RESIZING = replace(_RUN, fetch=replace(_RUN.fetch, resize=ResizeOptions(ResizeMode.KEEP_RATIO, 32)))
_LARGEST = 1024


def without_times(outcome: Outcome) -> Outcome:
    """Return an Outcome without the times of its delivery."""
    return replace(outcome, fetch_seconds=0.0, finished_at=0.0, phases=None)


class Raising(Downloader):
    """Simulate an internal error in the downloader."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def download(self, *_: Any) -> Download:
        """Raise the error."""
        raise self._error


def test_long_wait_is_requeued(store: LocalStore) -> None:
    """A long wait gives a countdown with the attempts and time so far. A caller that can't requeue gets an Outcome."""
    waits = Raising(
        LongWaitError("HTTP 503: the server requests a wait of 60 s at http://a.example/?token=x", retry_after=60.0)
    )
    earlier = PriorAttempts(2, 1.5)
    with pytest.raises(RetryLater, match=r"token=\*\*\*") as caught:
        fetch(FetchRequest("http://a.example/", 0, prior=earlier), _RUN, store, waits, defer_long_waits=True)
    assert 60 <= caught.value.countdown <= 66
    assert caught.value.prior.attempts == 2
    assert 1.5 <= caught.value.prior.seconds < 3
    assert caught.value.__suppress_context__
    outcome = fetch(FetchRequest("http://a.example/", 0, prior=earlier), _RUN, store, waits)
    assert (outcome.reason, outcome.attempts) == (Reason.RATE_LIMITED, 2)


class SilentHost(Downloader):
    """Simulate a host that gives no response, and note when it is reported: by the number of attempts before.

    The attempt with the number `probe` probes the host.
    """

    def __init__(self, rest: float | None = None, probe: int = 0) -> None:
        self.reported, self._rest, self._attempts, self._probe = list[int](), rest, 0, probe

    def download(
        self, url: str, options: FetchOptions, deadline: Any, on_attempt: Callable[[Any], None], *_: Any
    ) -> Download:
        """Try as often as the options allow, or until the host rests."""
        while True:
            error = FetchTimeoutError("sent nothing")
            error.silent_host = urls.parse(url)
            self._attempts += 1
            error.is_probe = self._attempts == self._probe
            on_attempt(error)
            if error.rest is not None:
                raise LongWaitError("the host rests", retry_after=error.rest)
            if self._attempts > options.retries:
                raise error

    def report_unreachable(self, error: FetchError, throttle: Any) -> float | None:
        """Note the report, and return the rest of the host."""
        self.reported.append(self._attempts)
        return self._rest


@pytest.mark.parametrize(("is_host_fault", "attempts"), [(True, 1), (False, 2)])
def test_silent_host_is_reported_before_the_retries(store: LocalStore, is_host_fault: bool, attempts: int) -> None:
    """A host without a response is reported once: after the first attempt if this worker reaches other hosts."""
    host = SilentHost()
    outcome = fetch(FetchRequest("http://a.example/1.jpg", 0), _RUN, store, host, judge=Judge(is_host_fault))
    assert (outcome.reason, outcome.attempts, host.reported) == (Reason.TIMEOUT, 2, [attempts])


def test_image_of_a_silent_host_is_requeued_when_the_host_rests(store: LocalStore) -> None:
    """If the report of the first attempt lets the host rest, the image frees its slot."""
    request = FetchRequest("http://a.example/1.jpg", 0)
    with pytest.raises(RetryLater) as caught:
        fetch(request, _RUN, store, SilentHost(5.0), defer_long_waits=True, judge=Judge(True))
    assert caught.value.prior.attempts == 1


def test_unanswered_probe_is_reported_after_a_report(store: LocalStore) -> None:
    """If the second attempt probes the host, its failure is reported too, because it decides about the next rest."""
    host = SilentHost(probe=2)
    fetch(FetchRequest("http://a.example/1.jpg", 0), _RUN, store, host, judge=Judge(True))
    assert host.reported == [1, 2]


def test_report_before_the_retries_takes_no_time_from_them(store: LocalStore) -> None:
    """A report that waits for Redis does not use up the deadline of its image."""
    ends = []

    class SlowReport(SilentHost):
        def download(
            self, url: str, options: FetchOptions, deadline: Any, on_attempt: Callable[[Any], None], *_: Any
        ) -> Download:
            ends.append(deadline.ends)
            try:
                return super().download(url, options, deadline, on_attempt)
            finally:
                ends.append(deadline.ends)

        def report_unreachable(self, error: FetchError, throttle: Any) -> float | None:
            time.sleep(0.2)
            return None

    fetch(FetchRequest("http://a.example/1.jpg", 0), _RUN, store, SlowReport(), judge=Judge(True))
    assert ends[1] - ends[0] >= 0.19


def test_deliveries_add_up(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """Attempts and fetch time are totals of all deliveries."""
    outcome = fetch(
        FetchRequest(f"{demo.url}/images/3.png", 0, prior=PriorAttempts(1, 7.0)),
        _RUN,
        store,
        downloader,
        defer_long_waits=True,
    )
    assert (outcome.ok, outcome.attempts) == (True, 2)
    assert outcome.fetch_seconds > 7


def test_refused_row_is_not_fetched(store: LocalStore) -> None:
    """A refused row gets its Outcome without a request. The Outcome's message is redacted."""
    refused = Refusal(Reason.INVALID_ROW, "line 7 is not a row: http://a.example/?token=secret")
    outcome = fetch(FetchRequest("", 7, refused=refused), _RUN, store, Raising(AssertionError()))
    assert (outcome.status, outcome.reason, outcome.attempts) == (Status.FAILED_TO_DOWNLOAD, Reason.INVALID_ROW, 0)
    assert outcome.error_message == "line 7 is not a row: http://a.example/?token=***"


def test_image_with_a_name_of_its_own(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """An image's file has the request's name and the real format's extension. A second delivery finds the file."""
    request = FetchRequest(f"{demo.url}/images/3.png", 27, path="cats/tom")
    outcome = fetch(request, _RUN, store, downloader)
    assert (outcome.key, outcome.path, store.exists("cats/tom.png")) == ("000027", "cats/tom.png", True)
    again = fetch(replace(request, recover=True), _RUN, store, Raising(AssertionError()))
    assert (again.path, again.recovered, again.sha256) == ("cats/tom.png", True, outcome.sha256)


def test_name_by_content(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """Images with the same bytes share a file. A late duplicate of one image does not remove the file."""
    first = FetchRequest(f"{demo.url}/images/3.png", 27, path="all/{sha256}")
    outcome = fetch(first, _RUN, store, downloader)
    assert outcome.path == f"all/{outcome.sha256}.png"
    other = fetch(replace(first, index=28, recover=True), _RUN, store, downloader)
    assert (other.path, other.recovered, store.list_files("all")) == (outcome.path, False, [outcome.path])
    store.remove(outcome.path)
    store.replace(manifest.name(2), b"the manifest of the shard")
    late = fetch(replace(first, index=29), _RUN, store, downloader)
    assert store.exists(str(late.path))


def test_name_in_a_changed_message_writes_nothing(
    demo: DemoServer, downloader: Downloader, store: LocalStore, tmp_path: Path
) -> None:
    """No message makes a worker write outside of the run's folder, or over the run's own files."""
    for path in ("../other", "/other", ".plan/00000", "00001/other"):
        outcome = fetch(FetchRequest(f"{demo.url}/images/3.png", 0, path=path), _RUN, store, downloader)
        assert outcome.reason == Reason.INTERNAL
    assert not list(tmp_path.rglob("*.png"))


def test_expected_hash(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """Only bytes with the expected hash are saved. The hash is computed from the download, not from a resized image."""
    url = f"{demo.url}/images/3.png?width=40&height=30"
    good = "sha256:" + hashlib.sha256(draw_image(3, 40, 30, "png")).hexdigest()
    assert fetch(FetchRequest(url, 0, expected_hash=good), _RESIZING, store, downloader).ok
    outcome = fetch(FetchRequest(url, 1, expected_hash="sha256:" + "0" * 64), _RUN, store, downloader)
    assert (outcome.reason, outcome.http_status, outcome.path) == (Reason.HASH_MISMATCH, 200, None)


def test_saved_image(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """A saved image's Outcome has its path, its properties and its origin."""
    outcome = fetch(FetchRequest(f"{demo.url}/images/3.png?width=40&height=30", 27), _RUN, store, downloader)
    body = draw_image(3, 40, 30, "png")
    assert outcome == Outcome(
        key="000027",
        status=Status.SUCCESS,
        path="00002/000027.png",
        width=40,
        height=30,
        original_width=40,
        original_height=30,
        format="png",
        bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        http_status=200,
        etag=outcome.etag,
        last_modified="Thu, 01 Jan 2026 00:00:00 GMT",
        attempts=1,
        fetch_seconds=outcome.fetch_seconds,
        finished_at=outcome.finished_at,
        phases=outcome.phases,
        worker=worker_name(),
    )
    assert store.read("00002/000027.png") == body
    assert 0 < outcome.fetch_seconds < 5


def test_extension_follows_the_bytes(store: LocalStore, sessions_to: Callable[..., Sessions]) -> None:
    """A GIF sent as a JPEG is saved as a GIF."""
    with Canned(always(response(image("GIF"), "200 OK", "Content-Type: image/jpeg"))) as server:
        outcome = fetch(FetchRequest(f"{server.url}/a.jpg", 0), _RUN, store, Downloader(sessions_to(server.address)))
    assert (outcome.path, outcome.format) == ("00000/000000.gif", "gif")


@pytest.mark.parametrize(
    ("route", "reason", "attempts", "http_status"),
    [
        ("not-found", Reason.HTTP_4XX, 1, 404),
        ("server-error", Reason.HTTP_5XX, 2, 500),
        ("html", Reason.NOT_IMAGE, 1, 200),
        ("broken-image", Reason.UNDECODABLE, 1, 200),
        ("big-pixels", Reason.TOO_MANY_PIXELS, 1, 200),
    ],
)
def test_failure_is_an_outcome(
    demo: DemoServer,
    downloader: Downloader,
    store: LocalStore,
    route: str,
    reason: Reason,
    attempts: int,
    http_status: int,
) -> None:
    """A failure's Outcome has a reason, a message, the attempts and the HTTP status. No file exists."""
    outcome = fetch(FetchRequest(f"{demo.url}/fault/{route}", 3), _RUN, store, downloader)
    assert (outcome.http_status, outcome.final_url) == (http_status, None)
    assert (outcome.key, outcome.status, outcome.reason) == ("000003", reason.status, reason)
    assert outcome.attempts == attempts
    assert outcome.error_message
    assert outcome.path is None
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "reason", "http_status"),
    [
        ("{url}/fault/html", Reason.NOT_IMAGE, 200),
        ("{url}/fault/not-found", Reason.HTTP_4XX, 404),
        ("http://127.0.0.1:1/", Reason.BLOCKED_ADDRESS, None),
    ],
)
def test_failure_after_a_redirect(
    demo: DemoServer, downloader: Downloader, store: LocalStore, target: str, reason: Reason, http_status: int | None
) -> None:
    """A failure after a redirect records the final URL."""
    final = target.format(url=demo.url)
    outcome = fetch(FetchRequest(f"{demo.url}/fault/redirect-to?url={final}", 3), _RUN, store, downloader)
    assert (outcome.reason, outcome.http_status, outcome.final_url) == (reason, http_status, final)


@pytest.mark.parametrize(("verify", "reason"), [(Verify.HEADER, None), (Verify.DECODE, Reason.UNDECODABLE)])
def test_incomplete_image(
    verify: Verify, reason: Reason | None, store: LocalStore, sessions_to: Callable[..., Sessions]
) -> None:
    """An image with a valid header and half its pixels is saved, unless --verify decode is given."""
    whole = draw_image(3, 300, 200)
    run = replace(_RUN, fetch=replace(_RUN.fetch, verify=verify))
    with Canned(always(response(whole[: len(whole) // 2]))) as server:
        downloader = Downloader(sessions_to(server.address))
        assert fetch(FetchRequest(server.url, 0), run, store, downloader).reason == reason
    with Canned(always(response(whole))) as server:
        outcome = fetch(FetchRequest(server.url, 1), run, store, Downloader(sessions_to(server.address)))
    assert (outcome.reason, outcome.width, outcome.original_width) == (None, 300, 300)


def test_control_characters_are_removed(store: LocalStore, sessions_to: Callable[..., Sessions]) -> None:
    """Control characters in a server's headers are not passed on."""
    fields = ("ETag: \x9b31m", "Last-Modified: \x90now")
    with Canned(always(response(image("PNG"), "200 OK", *fields))) as server:
        outcome = fetch(FetchRequest(server.url, 0), _RUN, store, Downloader(sessions_to(server.address)))
    assert (outcome.etag, outcome.last_modified) == (None, None)
    with Canned(always(response(b"", "404 Not\x1b[2J\x9bFound"))) as server:
        outcome = fetch(FetchRequest(server.url, 1), _RUN, store, Downloader(sessions_to(server.address)))
    assert outcome.error_message == "HTTP 404 Not\ufffd[2J\ufffdFound"


@pytest.mark.parametrize("url", ["", "a.example", "http://[", "ftp://a.example/", "http://a.example/\ud800", "\0"])
def test_invalid_url_is_an_outcome(downloader: Downloader, store: LocalStore, url: str) -> None:
    """A row without a valid URL has the reason invalid_url, and no attempt."""
    outcome = fetch(FetchRequest(url, 0), _RUN, store, downloader)
    assert (outcome.reason, outcome.attempts) == (Reason.INVALID_URL, 0)


@pytest.mark.parametrize("error", [RuntimeError("boom"), MemoryError("full"), RecursionError("deep"), KeyError("x")])
def test_internal_error_is_an_outcome(
    store: LocalStore, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """An unexpected exception becomes an Outcome too, and its URL is logged without secrets."""
    caplog.set_level(logging.ERROR)
    outcome = fetch(FetchRequest("http://user:hunter2@a.example/?token=secret", 0), _RUN, store, Raising(error))
    assert (outcome.status, outcome.reason) == (Status.FAILED_TO_DOWNLOAD, Reason.INTERNAL)
    assert error.args[0] in (outcome.error_message or "")
    assert "hunter2" not in caplog.text
    assert "secret" not in caplog.text


def test_error_of_redis_is_not_an_outcome(store: LocalStore) -> None:
    """If a stopping worker can't ask for a permit, the image has no Outcome here, because another worker gets it."""
    with pytest.raises(redis.ConnectionError):
        fetch(FetchRequest("http://a.example/1.jpg", 0), _RUN, store, Raising(redis.ConnectionError("gone")))


def test_interrupt_is_not_swallowed(store: LocalStore) -> None:
    """An interrupt ends the process and does not become an Outcome."""
    with pytest.raises(KeyboardInterrupt):
        fetch(FetchRequest("http://a.example/", 0), _RUN, store, Raising(KeyboardInterrupt()))


def test_unwritable_store_is_an_outcome(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """If nothing can be saved, the Outcome's reason is `storage`."""
    (store.root / "00000").write_bytes(b"")
    outcome = fetch(FetchRequest(f"{demo.url}/images/3.png", 0), _RUN, store, downloader)
    assert outcome.reason is Reason.STORAGE
    assert "could not save 00000/000000.png" in (outcome.error_message or "")


def test_second_delivery_of_the_same_image(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """A redelivered task has the same Outcome."""
    first, second = (fetch(FetchRequest(f"{demo.url}/images/3.png", 0), _RUN, store, downloader) for _ in range(2))
    assert (second.sha256, second.path, second.recovered) == (first.sha256, first.path, False)


def test_second_delivery_of_another_image(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """If the URL serves another image to the second delivery, the Outcome describes the image that was saved first."""
    first = fetch(FetchRequest(f"{demo.url}/images/3.png?width=40", 0), _RUN, store, downloader)
    second = fetch(FetchRequest(f"{demo.url}/images/4.png?width=50", 0), _RUN, store, downloader)
    assert second.recovered
    assert (second.sha256, second.width, second.bytes) == (first.sha256, 40, first.bytes)
    assert hashlib.sha256(store.read("00000/000000.png")).hexdigest() == second.sha256


def test_resized_image(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """A resized image's Outcome describes the saved file, and gives the original's size."""
    outcome = fetch(FetchRequest(f"{demo.url}/images/3.png?width=200&height=100", 27), _RESIZING, store, downloader)
    body = store.read("00002/000027.jpg")
    assert (outcome.status, outcome.path, outcome.format) == (Status.SUCCESS, "00002/000027.jpg", "jpeg")
    assert (outcome.width, outcome.height) == (64, 32)
    assert (outcome.original_width, outcome.original_height) == (200, 100)
    assert (outcome.bytes, outcome.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert (outcome.http_status, outcome.attempts, outcome.recovered) == (200, 1, False)
    with Image.open(io.BytesIO(body)) as saved:
        assert (saved.format, saved.size) == ("JPEG", (64, 32))


def test_incomplete_image_is_not_resized(store: LocalStore, sessions_to: Callable[..., Sessions]) -> None:
    """An image with missing pixels is saved unchanged if nothing needs its pixels. It can't be resized."""
    whole = draw_image(3, 100, 50, "jpeg")
    with Canned(always(response(whole[: len(whole) // 2]))) as server:
        downloader = Downloader(sessions_to(server.address))
        kept, resized = (
            fetch(FetchRequest(server.url, index), run, store, downloader)
            for index, run in enumerate((_RUN, _RESIZING))
        )
    assert kept.ok
    assert (resized.status, resized.reason) == (Status.FAILED_TO_RESIZE, Reason.UNDECODABLE)
    assert "truncated" in (resized.error_message or "")
    assert store.list_files("00000") == [kept.path]


def test_second_delivery_of_the_same_resized_image(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """If a task is redelivered, it makes the same file again and returns the same Outcome."""
    url = f"{demo.url}/images/3.jpg?width=200&height=100"
    first, second = (fetch(FetchRequest(url, 0), _RESIZING, store, downloader) for _ in range(2))
    assert without_times(second) == without_times(first)
    assert second.original_width == 200


def test_second_delivery_of_another_resized_image(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """The second delivery's Outcome describes the saved file.

    The Outcome lacks the original's size, because that size is unknown by then.
    """
    first = fetch(FetchRequest(f"{demo.url}/images/3.png?width=200&height=100", 0), _RESIZING, store, downloader)
    second = fetch(FetchRequest(f"{demo.url}/images/4.png?width=300&height=100", 0), _RESIZING, store, downloader)
    assert second.recovered
    assert (second.sha256, second.width, second.height, second.bytes) == (first.sha256, 64, 32, first.bytes)
    assert (second.original_width, second.original_height) == (None, None)


@pytest.fixture
def finished(store: LocalStore) -> LocalStore:
    """Return a store with a finished shard. The shard's first image is saved, and its second image has failed."""
    store.create_durably(plan.name(0), plan.encode([ImageRequest(0, "a"), ImageRequest(1, "b")], ShardRef("", 0)))
    store.create("00000/000000.png", image())
    named = Outcome("000000", Status.SUCCESS, path="00000/000000.png")
    collect(0, [named, Outcome("000001", Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT)], _RUN, store)
    return store


def test_late_duplicate_removes_its_file(demo: DemoServer, downloader: Downloader, finished: LocalStore) -> None:
    """If a duplicate task runs after its image was recorded as failed, it leaves no file behind."""
    fetch(FetchRequest(f"{demo.url}/images/3.png", 1), _RUN, finished, downloader)
    assert finished.list_files("00000") == ["00000/000000.png"]


def test_late_duplicate_keeps_a_listed_file(demo: DemoServer, downloader: Downloader, finished: LocalStore) -> None:
    """A duplicate task of a saved image changes nothing."""
    before = finished.read("00000/000000.png")
    fetch(FetchRequest(f"{demo.url}/images/3.png", 0), _RUN, finished, downloader)
    assert finished.read("00000/000000.png") == before
    assert manifest.decode(finished.read("00000.parquet"), ["path"])["path"].to_pylist()[0] == "00000/000000.png"


def test_recovered_image_is_not_downloaded(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """If an earlier delivery saved the image, the Outcome describes the saved file.

    Facts that only the server had are missing.
    """
    first = fetch(FetchRequest(f"{demo.url}/images/3.png", 0), _RUN, store, downloader)
    second = fetch(FetchRequest("http://a.example/gone", 0, recover=True), _RUN, store, Raising(AssertionError()))
    assert second.recovered
    assert second == replace(
        first,
        recovered=True,
        attempts=0,
        http_status=None,
        etag=None,
        last_modified=None,
        fetch_seconds=second.fetch_seconds,
        finished_at=second.finished_at,
        phases=second.phases,
    )


def test_recovered_image_may_have_any_extension(store: LocalStore) -> None:
    """A saved image is found under any accepted extension."""
    for index, (kind, extension) in enumerate({"GIF": "gif", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp"}.items()):
        store.create(f"00000/00000{index}.{extension}", image(kind))
        outcome = fetch(FetchRequest("http://a.example/", index, recover=True), _RUN, store, Raising(AssertionError()))
        assert (outcome.ok, outcome.path) == (True, f"00000/00000{index}.{extension}")


def test_image_without_a_file_is_downloaded(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """With `recover`, an image without a saved file is downloaded as usual."""
    outcome = fetch(FetchRequest(f"{demo.url}/images/3.png", 0, recover=True), _RUN, store, downloader)
    assert (outcome.ok, outcome.attempts, outcome.recovered) == (True, 1, False)


def test_resized_image_is_not_recovered(demo: DemoServer, downloader: Downloader, store: LocalStore) -> None:
    """A resized image is fetched again, because its original's facts are unknown."""
    url = f"{demo.url}/images/3.png?width=200&height=100"
    first = fetch(FetchRequest(url, 0), _RESIZING, store, downloader)
    second = fetch(FetchRequest(url, 0, recover=True), _RESIZING, store, downloader)
    assert (second.attempts, second.recovered, second.original_width) == (1, False, 200)
    assert second.sha256 == first.sha256


@pytest.mark.parametrize("recover", [False, True], ids=["redelivered", "resent"])
@pytest.mark.parametrize("damage", [b"", bytes(500)], ids=["empty", "zeros"])
def test_damaged_file_is_replaced(
    demo: DemoServer, downloader: Downloader, store: LocalStore, damage: bytes, recover: bool
) -> None:
    """If a power loss has left a file empty or zeroed, the image is fetched again."""
    store.create("00000/000000.png", damage)
    outcome = fetch(FetchRequest(f"{demo.url}/images/3.png", 0, recover=recover), _RUN, store, downloader)
    assert (outcome.ok, outcome.attempts, outcome.recovered) == (True, 1, False)
    assert hashlib.sha256(store.read("00000/000000.png")).hexdigest() == outcome.sha256


@pytest.fixture
def old(tmp_path: Path) -> LocalStore:
    """Return the folder of a previous run."""
    (tmp_path / "old").mkdir()
    return LocalStore(tmp_path / "old")


@pytest.fixture
def new(tmp_path: Path) -> LocalStore:
    """Return the folder of the run that refreshes the previous run."""
    (tmp_path / "new").mkdir()
    return LocalStore(tmp_path / "new")


def saved_before(url: str, downloader: Downloader, old: LocalStore, run: RunOptions = _RUN) -> PreviousFile:
    """Return a URL's image in the previous run, saved under another key."""
    outcome = fetch(FetchRequest(url, 23), run, old, downloader)
    assert outcome.ok
    return PreviousFile(PreviousImage.from_json(asdict(outcome)), old)


def conditional(body: bytes, *fields: str) -> Callable[[bytes], list[bytes]]:
    """Return a body with an ETag. If a request has this ETag, reply with a 304 and these headers."""

    def answer(request: bytes) -> list[bytes]:
        if b'If-None-Match: "e"' in request:
            return [response(b"", "304 Not Modified", *fields, length=False)]
        return [response(body, "200 OK", 'ETag: "e"', "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT")]

    return answer


@pytest.mark.parametrize("run", [_RUN, _RESIZING], ids=["as downloaded", "resized"])
def test_unchanged_image_is_reused(
    old: LocalStore, new: LocalStore, sessions_to: Callable[..., Sessions], run: RunOptions
) -> None:
    """An unchanged image costs only a 304.

    The image's file gets a second name, and its Outcome equals a download's Outcome.
    """
    with Canned(conditional(draw_image(3, 80, 60, "png"))) as server:
        downloader = Downloader(sessions_to(server.address))
        previous = saved_before(server.url, downloader, old, run)
        full = fetch(FetchRequest(server.url, 3), run, new, downloader)
        new.remove(full.path or "")
        previous = replace(previous, image=replace(previous.image, exif="{}"))
        outcome = fetch(FetchRequest(server.url, 3, previous=previous), run, new, downloader)
    assert len(server.requests) == 3
    assert outcome == replace(
        full,
        http_status=304,
        exif="{}",
        fetch_seconds=outcome.fetch_seconds,
        finished_at=outcome.finished_at,
        phases=outcome.phases,
    )
    assert outcome.path is not None
    assert new.path(outcome.path).samefile(old.path(previous.image.path))
    assert new.list_files(".tmp") == []


@pytest.mark.parametrize(("run", "http_status"), [(_RUN, 304), (_RESIZING, 200)], ids=["as downloaded", "resized"])
def test_expected_hash_of_an_unchanged_image(
    old: LocalStore, new: LocalStore, sessions_to: Callable[..., Sessions], run: RunOptions, http_status: int
) -> None:
    """A previous file is reused if it has the downloaded bytes. Otherwise, the image is downloaded to be verified."""
    body = draw_image(3, 80, 60, "png")
    with Canned(conditional(body)) as server:
        downloader = Downloader(sessions_to(server.address))
        previous = saved_before(server.url, downloader, old, run)
        good = "sha256:" + hashlib.sha256(body).hexdigest()
        request = FetchRequest(server.url, 0, previous=previous, expected_hash=good)
        outcome = fetch(request, run, new, downloader)
        changed = fetch(replace(request, index=1, expected_hash="sha256:" + "0" * 64), run, new, downloader)
    assert (outcome.ok, outcome.http_status, outcome.sha256) == (True, http_status, previous.image.sha256)
    assert changed.reason == Reason.HASH_MISMATCH


def test_new_validators_win(old: LocalStore, new: LocalStore, sessions_to: Callable[..., Sessions]) -> None:
    """The next run uses the validators of a 304 instead of the old validators."""
    with Canned(conditional(image(), 'ETag: W/"f"')) as server:
        downloader = Downloader(sessions_to(server.address))
        previous = saved_before(server.url, downloader, old)
        outcome = fetch(FetchRequest(server.url, 0, previous=previous), _RUN, new, downloader)
    assert (outcome.http_status, outcome.etag, outcome.last_modified) == (
        *(304, 'W/"f"'),
        "Thu, 01 Jan 2026 00:00:00 GMT",
    )


@pytest.mark.parametrize("change", ["gone", "shorter", "link", "wrong extension", "outside"])
def test_unusable_previous_file_sends_no_condition(
    old: LocalStore, new: LocalStore, sessions_to: Callable[..., Sessions], change: str
) -> None:
    """Without a usable previous file, no conditional request is sent."""
    with Canned(conditional(image())) as server:
        downloader = Downloader(sessions_to(server.address))
        previous = saved_before(server.url, downloader, old)
        if change == "shorter":
            old.path(previous.image.path).write_bytes(image()[:-1])
        elif change == "link":
            old.path(previous.image.path).rename(old.path("there"))
            old.path(previous.image.path).symlink_to(old.path("there"))
        elif change == "gone":
            old.path(previous.image.path).unlink()
        else:
            path = {"wrong extension": "00002/000023.txt", "outside": "../old/00002/000023.png"}[change]
            old.path("00002/000023.txt").write_bytes(image())
            previous = replace(previous, image=replace(previous.image, path=path))
        outcome = fetch(FetchRequest(server.url, 0, previous=previous), _RUN, new, downloader)
    assert (outcome.ok, outcome.http_status, outcome.attempts) == (True, 200, 1)
    assert b"If-" not in server.requests[-1]


@pytest.mark.parametrize("change", ["changed, same size", "removed meanwhile"])
def test_changed_previous_file_is_not_reused(
    old: LocalStore, new: LocalStore, sessions_to: Callable[..., Sessions], change: str
) -> None:
    """If a previous file differs from its manifest, the image is requested in full at once."""
    body = image()
    answers = conditional(body)

    def answer(request: bytes) -> list[bytes]:
        if change == "removed meanwhile" and b"If-None-Match" in request:
            old.path(previous.image.path).unlink()
        return answers(request)

    with Canned(answer) as server:
        downloader = Downloader(sessions_to(server.address))
        previous = saved_before(server.url, downloader, old)
        if change == "changed, same size":
            old.path(previous.image.path).write_bytes(body[:-1] + b"x")
        outcome = fetch(
            FetchRequest(server.url, 0, previous=previous),
            replace(_RUN, fetch=replace(_RUN.fetch, retries=0)),
            new,
            downloader,
        )
    assert (outcome.ok, outcome.http_status, outcome.attempts) == (True, 200, 2)
    assert new.read(outcome.path or "") == body
    assert [b"If-None-Match" in request for request in server.requests] == [False, True, False]


def test_changed_image_is_downloaded(old: LocalStore, new: LocalStore, sessions_to: Callable[..., Sessions]) -> None:
    """A newer image is saved as usual, and the previous file stays."""
    bodies = iter([image(), image(colour="blue")])
    with Canned(lambda _: [response(next(bodies), "200 OK", 'ETag: "e"')]) as server:
        downloader = Downloader(sessions_to(server.address))
        previous = saved_before(server.url, downloader, old)
        outcome = fetch(FetchRequest(server.url, 0, previous=previous), _RUN, new, downloader)
    assert (outcome.http_status, new.read(outcome.path or "")) == (200, image(colour="blue"))
    assert old.path(previous.image.path).read_bytes() == image()


def test_second_delivery_of_an_unchanged_image(
    old: LocalStore, new: LocalStore, sessions_to: Callable[..., Sessions]
) -> None:
    """A redelivered task has the same Outcome. If another image is saved, the Outcome is marked as recovered."""
    with Canned(conditional(image())) as server:
        downloader = Downloader(sessions_to(server.address))
        previous = saved_before(server.url, downloader, old)
        first, second = (fetch(FetchRequest(server.url, 0, previous=previous), _RUN, new, downloader) for _ in range(2))
        assert without_times(second) == without_times(first)
        new.create("00000/000001.png", image(colour="blue"))
        third = fetch(FetchRequest(server.url, 1, previous=previous), _RUN, new, downloader)
    assert (third.recovered, new.read("00000/000001.png")) == (True, image(colour="blue"))


def _damaged(whole: bytes, how: str) -> bytes:
    half = len(whole) // 2
    return {"cut": whole[:half], "zeros": whole[:half] + bytes(len(whole) - half), "another": b"<html></html>"}[how]


@pytest.mark.parametrize("recover", [False, True], ids=["redelivered", "resent"])
@pytest.mark.parametrize("how", ["cut", "zeros", "another"])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_incomplete_saved_file_is_replaced(
    store: LocalStore, sessions_to: Callable[..., Sessions], kind: str, how: str, recover: bool
) -> None:
    """A valid header proves nothing about the pixels.

    If a file is not fully on disk, it is fetched again and replaced.
    """
    whole = draw_image(3, 200, 200, kind)
    name = f"00000/000000.{'jpg' if kind == 'jpeg' else kind}"
    store.create(name, _damaged(whole, how))
    with Canned(always(response(whole))) as server:
        outcome = fetch(
            FetchRequest(server.url, 0, recover=recover), _RUN, store, Downloader(sessions_to(server.address))
        )
    assert (outcome.ok, outcome.path, outcome.attempts, outcome.recovered) == (True, name, 1, False)
    assert store.read(name) == whole


def test_incomplete_image_from_the_server_is_kept(store: LocalStore, sessions_to: Callable[..., Sessions]) -> None:
    """If only headers are checked, an incomplete image is saved as served. A second delivery changes nothing."""
    half = draw_image(3, 100, 50, "jpeg")[:-300]
    with Canned(always(response(half))) as server:
        downloader = Downloader(sessions_to(server.address))
        first, second = (fetch(FetchRequest(server.url, 0, recover=True), _RUN, store, downloader) for _ in range(2))
    assert (first.sha256, first.recovered) == (second.sha256, second.recovered)
    assert store.read("00000/000000.jpg") == half
    gone = fetch(FetchRequest("http://a.example/", 0, recover=True), _RUN, store, Raising(HttpClientError("HTTP 404")))
    assert not gone.ok
    # The file stays, because a counted Outcome may name it. If no Outcome names the file, the collect task removes it.
    assert store.read("00000/000000.jpg") == half


def test_image_too_costly_to_decode_is_recovered(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If decoding a saved image would take too long, only its header is checked. The image is not downloaded again."""
    store.create("00000/000000.png", image())
    monkeypatch.setattr("tasks.images.decode._MAX_FRAMES", -1)
    outcome = fetch(FetchRequest("http://a.example/", 0, recover=True), _RUN, store, Raising(AssertionError()))
    assert (outcome.ok, outcome.recovered) == (True, True)


_CHARACTERS = {"ASCII": "x", "quotes": '"', "backslashes": "\\", "Latin-1": "\xff"}


@pytest.mark.parametrize("character", _CHARACTERS.values(), ids=_CHARACTERS)
def test_largest_success_stays_small(store: LocalStore, sessions_to: Callable[..., Sessions], character: str) -> None:
    """With headers of any length, the Outcome stays under 1 KB as JSON, because it goes through Redis."""
    long = character * 5000
    sent = response(image(), "200 OK", f"ETag: {long}", f"Last-Modified: {long}")
    moved = response(b"", "302 Found", f"Location: /a?{long}")
    replies = iter([moved, sent])
    with Canned(lambda _: [next(replies)]) as server:
        outcome = fetch(FetchRequest(server.url, 9_999_999), _RUN, store, Downloader(sessions_to(server.address)))
    assert outcome.ok
    outcome = replace(outcome, tls_unverified=True)
    assert len(json.dumps(outcome.to_json())) < _LARGEST


@pytest.mark.parametrize("character", [*_CHARACTERS.values(), "\U0001f40c"], ids=[*_CHARACTERS, "outside the BMP"])
def test_largest_failure_stays_small(character: str) -> None:
    """With a quote of any length in the message, the Outcome stays under 1 KB as JSON."""
    error = RateLimitedError(character * 500, http_status=429)
    error.final_url = "http://a.example/" + character * 500
    outcome = replace(failed_outcome("9999999999", error), tls_unverified=True)
    assert len(json.dumps(outcome.to_json())) < _LARGEST


def test_failed_outcome_keeps_the_status_but_no_secret() -> None:
    """The Outcome of an error has its HTTP status, and a short message without secrets."""
    outcome = failed_outcome(
        "000001", RateLimitedError("http://user:word@a.example/?sig=x " + "y" * 500, http_status=429)
    )
    assert (outcome.http_status, outcome.reason) == (429, Reason.RATE_LIMITED)
    assert outcome.error_message is not None
    assert outcome.error_message.startswith("http://***@a.example/?sig=***")
    assert len(outcome.error_message) <= 200
    assert failed_outcome("000001", DnsError("no such host")).http_status is None
