"""With ``--robots obey``, a URL is requested only if the robots.txt of its host allows it. The path is the real one."""

from __future__ import annotations

import gzip
import itertools
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tasks.deadline import Deadline
from tasks.download import urls
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.download.robots import RobotsChecker
from tasks.download.robots_rules import MAX_BYTES
from tasks.errors import (
    BadResponseError,
    BlockedAddressError,
    ConnectError,
    FetchError,
    FetchTimeoutError,
    HttpServerError,
    RateLimitedError,
    RobotsDeniedError,
    RobotsUnreachableError,
    TlsError,
    TruncatedError,
)
from tasks.model import HeaderOptions
from tasks.throttle.gate import HostGate
from tasks.throttle.host_key import HostKeys
from tasks.throttle.memory_registry import MemoryRegistry
from tests.unit.conftest import ONCE, Canned, always, response
from tests.unit.download.attempts import cut_off, download, failure
from tests.unit.download.robots_cases import CASES, Case
from tests.unit.download.robots_site import DENY_ALL, DENY_X, OBEY, Site, decision, site
from tests.waiting import wait_for


@pytest.fixture
def obeying(sessions_to: Callable[..., Sessions], waits: list[float]) -> Callable[[], Downloader]:
    """Make downloaders that know no robots.txt yet, and may connect to loopback."""
    sessions = sessions_to("127.0.0.1")
    return lambda: Downloader(sessions, sleep=waits.append)


@pytest.fixture(scope="module")
def cases_site() -> Iterator[Site]:
    """Run one site for all of Google's cases."""
    with site() as server:
        yield server


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_googles_cases(case: Case, cases_site: Site, obeying: Callable[[], Downloader]) -> None:
    """Each URL of Google's published test cases is downloaded or refused as Google's parser decides."""
    cases_site.robots = lambda: [response("\n".join(case.lines).encode())]
    downloader = obeying()
    for token, (allowed, denied) in case.decisions.items():
        options = replace(OBEY, headers=HeaderOptions(f"{token}/1.0"))
        decisions = {path: decision(downloader, cases_site.url + path, options) for path in (*allowed, *denied)}
        assert decisions == {**dict.fromkeys(allowed, True), **dict.fromkeys(denied, False)}


def test_ignored_by_default(obeying: Callable[[], Downloader]) -> None:
    """Without --robots obey, no robots.txt is requested."""
    with site(DENY_ALL) as server:
        assert decision(obeying(), f"{server.url}/1.jpg", ONCE)
        assert server.paths == ["/1.jpg"]


def test_denied_image_is_not_requested(obeying: Callable[[], Downloader]) -> None:
    """A forbidden URL is not requested and not retried, and the message names the host, the robot and the option."""
    with site(DENY_X) as server:
        downloader, url = obeying(), f"{server.url}/x/1.jpg?a=b"
        error, attempts = failure(downloader, url, replace(OBEY, retries=2))
        assert (type(error), attempts, server.paths) == (RobotsDeniedError, 1, ["/robots.txt"])
        assert str(error) == (
            f"robots.txt of {server.url} forbids it to imagefleet (use --robots ignore to download the image anyway)"
        )


def test_asked_once_for_each_host(obeying: Callable[[], Downloader]) -> None:
    """All images of a host need one request for robots.txt. Another port is another host."""
    with site(DENY_X) as first, site() as second:
        downloader = obeying()
        for path in ("/1.jpg", "/x.jpg", "/2.jpg"):
            decision(downloader, first.url + path)
            decision(downloader, second.url + path)
    assert first.paths == ["/robots.txt", "/1.jpg", "/2.jpg"]
    assert second.paths == ["/robots.txt", "/1.jpg", "/x.jpg", "/2.jpg"]


def test_request_has_the_user_agent_and_no_secrets(obeying: Callable[[], Downloader]) -> None:
    """robots.txt is requested by the run's User-Agent, without the credentials for the image."""
    with site() as server:
        url = server.url.replace("://", "://user:word@")
        headers = HeaderOptions("SomeBot/1.0", "https://page.example/", (("X-Key", "word"),))
        assert decision(obeying(), url, replace(OBEY, headers=headers))
        assert sorted(server.requests[0].split(b"\r\n")[2:-2]) == [
            b"Accept-Encoding: identity",
            b"Accept: image/*,*/*;q=0.8",
            b"User-Agent: SomeBot/1.0",
        ]


@pytest.mark.parametrize(
    ("status", "allowed"),
    {"200 OK": False, "206 Partial": False, "299 Else": False, "304 Same": True, "302 Found": True}.items(),
)
def test_statuses_of_the_file(status: str, allowed: bool, obeying: Callable[[], Downloader]) -> None:
    """The rules are in a 2xx. A redirect that leads nowhere allows everything."""
    with site(DENY_ALL, status) as server:
        assert decision(obeying(), server.url) is allowed


@pytest.mark.parametrize("status", ["400 Bad", "401 Who", "403 Forbidden", "404 No", "408 Slow", "410 Gone", "451 Law"])
def test_missing_file_allows_everything(status: str, obeying: Callable[[], Downloader]) -> None:
    """After a 4xx except 429, everything is allowed, and the file is not requested again."""
    with site(DENY_ALL, status) as server:
        downloader = obeying()
        assert [decision(downloader, server.url + path) for path in ("/1", "/2")] == [True, True]
        assert server.asked == 1


def test_too_many_requests_is_the_images_own_error(obeying: Callable[[], Downloader], waits: list[float]) -> None:
    """After a 429, the image waits as the server asks, and then robots.txt is requested again."""
    with Site(lambda: [next(answers)]) as server:
        answers = iter([response(b"", "429 Slow down", "Retry-After: 7"), response(DENY_X)])
        assert decision(obeying(), f"{server.url}/1.jpg", replace(OBEY, retries=1, deadline=60))
        assert (waits, server.paths) == ([7.0], ["/robots.txt", "/robots.txt", "/1.jpg"])
    with site(b"", "429 Slow down", "Retry-After: 500") as server:
        error, _ = failure(obeying(), server.url, replace(OBEY, retries=1))
        assert type(error) is RateLimitedError
        assert str(error).startswith("robots.txt: HTTP 429 Slow down: the server requests a wait of 500 s")


def test_server_error_is_retried(obeying: Callable[[], Downloader]) -> None:
    """A server that fails once delays only the image."""
    with Site(lambda: [next(answers)]) as server:
        answers = iter([response(b"", "503 Busy"), response(DENY_X)])
        assert decision(obeying(), f"{server.url}/1.jpg", replace(OBEY, retries=1))
        assert server.asked == 2


def test_failing_server_is_not_asked_for_images(
    obeying: Callable[[], Downloader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the server keeps failing, its images fail at once for a minute. Then robots.txt is requested again."""
    now = [100.0]
    monkeypatch.setattr("tasks.download.recent_hosts.monotonic", lambda: now[0])
    with site(b"", "500 Broken") as server:
        downloader, options = obeying(), replace(OBEY, retries=2)
        first, attempts = failure(downloader, server.url, options)
        assert (type(first), attempts, server.asked) == (RobotsUnreachableError, 3, 3)
        assert str(first).startswith(f"robots.txt: HTTP 500 Broken, so {server.url} is not asked for images now")
        second, attempts = failure(downloader, server.url, options)
        assert (type(second), attempts, server.asked) == (RobotsUnreachableError, 1, 3)
        now[0] += 61
        server.robots = lambda: [response(DENY_X)]
        assert [decision(downloader, server.url + path) for path in ("/1", "/x")] == [True, False]
    assert server.paths == [*["/robots.txt"] * 4, "/1"]
    assert isinstance(first, HttpServerError)


_UNREADABLE: dict[str, tuple[Callable[[], Iterable[bytes]], type[FetchError]]] = {
    "no response": (cut_off, ConnectError),
    "not HTTP": (lambda: [b"SSH-2.0-OpenSSH_9.6\r\n\r\n"], BadResponseError),
    "too short": (
        lambda: cut_off(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", DENY_X.replace(b"/x", b"/y")),
        TruncatedError,
    ),
    "not gzip": (lambda: [response(DENY_X, "200 OK", "Content-Encoding: gzip")], BadResponseError),
    "redirect to a private address": (
        lambda: [response(b"", "302 Found", "Location: http://10.0.0.1/robots.txt")],
        BlockedAddressError,
    ),
}


@pytest.mark.parametrize(("robots", "kind"), _UNREADABLE.values(), ids=_UNREADABLE)
def test_unreadable_file_forbids_everything(
    robots: Callable[[], Iterable[bytes]], kind: type[FetchError], obeying: Callable[[], Downloader]
) -> None:
    """If robots.txt can't be read, no image is requested, and the message says that robots.txt is the cause."""
    with Site(robots) as server:
        error, _ = failure(obeying(), f"{server.url}/1.jpg", OBEY)
        assert "/1.jpg" not in server.paths
    assert type(error) is kind
    assert str(error).startswith("robots.txt: ")


def test_dead_host_has_its_usual_errors(obeying: Callable[[], Downloader]) -> None:
    """A host that can't be reached fails with the same reasons as without --robots obey."""
    with site() as server:
        closed = server.url
    assert type(failure(obeying(), closed, OBEY)[0]) is ConnectError
    assert type(failure(obeying(), "http://10.0.0.1/", OBEY)[0]) is BlockedAddressError


def test_tls_advice_is_given_once(server_context: ssl.SSLContext) -> None:
    """The advice about --insecure is in the message once, although the error comes from the request for robots.txt."""
    with Site(list, server_context) as server:
        error, _ = failure(Downloader(Sessions(Guard(["127.0.0.1"]))), server.url, OBEY)
    assert type(error) is TlsError
    assert str(error).count("--insecure") == 1


def test_insecure_run_shares_no_rules_with_others(server_context: ssl.SSLContext) -> None:
    """Rules from a server that was not verified count only for insecure runs."""
    with Site(lambda: [response(DENY_X)], server_context) as server:
        downloader = Downloader(Sessions(Guard(["127.0.0.1"]), allow_insecure_tls=True))
        assert not decision(downloader, f"{server.url}/x", replace(OBEY, insecure=True))
        error, _ = failure(downloader, f"{server.url}/x", OBEY)
    assert type(error) is TlsError


def test_slow_server_times_out(obeying: Callable[[], Downloader]) -> None:
    """A host that does not send its robots.txt in time costs one timeout, and no image is requested."""
    with Site(lambda: [b"HTTP/1.1 200 OK\r\n"]) as server:
        error, _ = failure(obeying(), server.url, replace(OBEY, timeout=0.05))
        assert server.paths == ["/robots.txt"]
    assert type(error) is FetchTimeoutError
    assert "sent nothing for 0.05 s (--timeout)" in str(error)


@pytest.mark.parametrize(("hops", "allowed"), [(5, False), (6, True)])
def test_redirects_are_followed_to_other_hosts(hops: int, allowed: bool, obeying: Callable[[], Downloader]) -> None:
    """Five redirects lead to the rules, also on another host. After more redirects, everything is allowed."""
    with Canned(always(response(DENY_ALL))) as rules, Canned(lambda _: [next(answers)]) as first:
        moved = [response(b"", "302 Found", f"Location: {first.url}/{hop}") for hop in range(1, hops)]
        last = response(b"", "301 Moved", f"Location: {rules.url}/")
        answers = iter([*moved, last, response(b"image")])
        assert decision(obeying(), first.url, replace(OBEY, max_redirects=0)) is allowed


def test_each_hop_of_an_image_is_checked(obeying: Callable[[], Downloader]) -> None:
    """If an image redirects to another host, that host's robots.txt is obeyed, and the message names the host."""
    with site(DENY_X) as second, Canned(lambda _: [next(answers)]) as first:
        moved = response(b"", "302 Found", f"Location: {second.url}/x.jpg")
        answers = iter([response(b"", "404 None"), moved])
        error, _ = failure(obeying(), first.url, OBEY)
        assert second.paths == ["/robots.txt"]
    assert type(error) is RobotsDeniedError
    assert second.url in str(error)
    assert error.final_url == f"{second.url}/x.jpg"


def test_redirect_from_https_is_followed(server_context: ssl.SSLContext, obeying: Callable[[], Downloader]) -> None:
    """A robots.txt may be on plain http, even if images may not."""
    with Canned(always(response(DENY_ALL))) as plain, Site(list, server_context) as tls:
        tls.robots = lambda: [response(b"", "302 Found", f"Location: {plain.url}/")]
        assert not decision(obeying(), tls.url)


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_huge_file_is_cut_off(coding: str, obeying: Callable[[], Downloader]) -> None:
    """Of a huge file, only 500 KiB count, compressed or not, and the rest is not read."""
    body = DENY_X + b"# comment\n" * (MAX_BYTES // 5) + b"Disallow: /late\n"
    sent = gzip.compress(body) if coding == "gzip" else body
    with site(sent, "200 OK", f"Content-Encoding: {coding}") as server:
        downloader = obeying()
        assert [decision(downloader, server.url + path) for path in ("/x", "/late")] == [False, True]
        assert server.asked == 1


def test_bomb_is_cut_off(obeying: Callable[[], Downloader]) -> None:
    """A compressed file that inflates to far more than 500 KiB is read no further."""
    with site(gzip.compress(DENY_X + bytes(8 * 1024**2)), "200 OK", "Content-Encoding: gzip") as server:
        assert not decision(obeying(), f"{server.url}/x")


@pytest.mark.parametrize("body", [b"", b"<!doctype html><title>Home</title>", b"\xef\xbb\xbf"])
def test_file_without_rules_allows_everything(body: bytes, obeying: Callable[[], Downloader]) -> None:
    """An empty file, or a web page in its place, allows every image."""
    with site(body) as server:
        assert decision(obeying(), server.url)


def test_threads_share_one_request(obeying: Callable[[], Downloader]) -> None:
    """All slots of a process wait for one request for robots.txt."""
    go = threading.Event()

    def answer() -> list[bytes]:
        go.wait(5)
        return [response(DENY_X)]

    with Site(answer) as server, ThreadPoolExecutor(8) as threads:
        downloader = obeying()
        decisions = [threads.submit(decision, downloader, f"{server.url}/{path}") for path in "x123x456"]
        go.set()
        assert [item.result() for item in decisions] == [path != "x" for path in "x123x456"]
        assert server.asked == 1


def test_waiting_thread_does_not_inherit_a_deadline() -> None:
    """If the slot that fetches the file runs out of time, a waiting slot with time left fetches it itself."""
    asked, waiting = list[float](), threading.Event()

    def fetch(_: urls.Url, __: object, deadline: Deadline) -> bytes:
        asked.append(deadline.seconds)
        if len(asked) == 1:
            waiting.wait(5)
            time.sleep(max(deadline.remaining, 0))
            raise FetchTimeoutError("the file did not finish within 0.2 s (--deadline)")
        return DENY_X

    checker, url = RobotsChecker(fetch), urls.parse("http://a.example/1.jpg")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(checker.check, url, OBEY, Deadline(5, 0.2))
        wait_for(lambda: bool(asked))
        second = pool.submit(checker.check, url, OBEY, Deadline(5, 30))
        waiting.set()
        with pytest.raises(FetchTimeoutError):
            first.result(5)
        assert second.result(5) is None
    assert asked == [0.2, 30]


def test_waiting_thread_keeps_its_deadline(obeying: Callable[[], Downloader]) -> None:
    """A slot that waits for another slot's request gives up at its own deadline."""
    go, asked = threading.Event(), threading.Event()

    def answer() -> list[bytes]:
        asked.set()
        go.wait(5)
        return [response(b"")]

    with Site(answer) as server, ThreadPoolExecutor(1) as threads:
        downloader = obeying()
        first = threads.submit(decision, downloader, server.url)
        assert asked.wait(5)
        error, _ = failure(downloader, server.url, replace(OBEY, deadline=0.05))
        go.set()
        assert first.result()
    assert type(error) is FetchTimeoutError
    assert str(error) == f"robots.txt of {server.url} did not finish within 0.05 s (--deadline)"


def test_waiting_threads_get_errors_of_their_own() -> None:
    """If a request fails, each waiting slot gets a copy of the error, because it adds facts about its own image."""
    is_waiting = threading.Event()

    class WatchedDeadline(Deadline):
        @property
        def remaining(self) -> float:
            is_waiting.set()
            return super().remaining

    def fetch(*_: object) -> bytes:
        assert is_waiting.wait(5)
        raise BlockedAddressError("no")

    checker, url = RobotsChecker(fetch), urls.parse("http://a.example/1.jpg")
    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(checker.check, url, OBEY, WatchedDeadline(5, 5)) for _ in range(2)]
        first, second = (result.exception() for result in results)
    assert first is not second
    assert repr(first) == repr(second) == "BlockedAddressError('robots.txt: no')"


def test_crawl_delay_paces_a_host(sessions_to: Callable[..., Sessions]) -> None:
    """The images of a host with a crawl delay are requested one after another, with this delay between them."""
    times: list[float] = []

    def answer(request: bytes) -> list[bytes]:
        is_robots = request.startswith(b"GET /robots.txt ")
        if not is_robots:
            times.append(time.monotonic())
        return [response(b"User-agent: *\nCrawl-delay: 0.1\n" if is_robots else b"image")]

    gate = HostGate(MemoryRegistry(), "one", HostKeys(lambda _: "127.0.0.1"), math.inf)
    with Canned(answer) as server, ThreadPoolExecutor(4) as threads:
        downloader = Downloader(sessions_to(server.address), gate=gate)
        list(threads.map(lambda number: download(downloader, f"{server.url}/{number}", OBEY), range(4)))
    gate.stop()
    times.sort()
    assert all(later - earlier > 0.05 for earlier, later in itertools.pairwise(times))
    assert times[-1] - times[0] > 0.25
