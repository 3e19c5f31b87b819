"""All processes of a fleet share the robots.txt of each host through Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tasks.broker import client as broker_client
from tasks.broker import keys, robots_store
from tasks.broker.robots_store import RedisRobotsStore
from tasks.celery import PROTOCOL
from tasks.download import robots
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.download.robots_rules import RULES_SECONDS, UNREACHABLE_SECONDS
from tasks.errors import RobotsUnreachableError
from tests.integration import processes
from tests.unit.conftest import response
from tests.unit.download.attempts import failure
from tests.unit.download.robots_site import DENY_X, OBEY, Site, decision, site


@pytest.fixture(scope="module")
def sessions() -> Sessions:
    """Give sessions that may connect to loopback."""
    return Sessions(Guard(["127.0.0.1"]))


@pytest.fixture
def process(sessions: Sessions, server: redis.Redis) -> Callable[[], Downloader]:
    """Make downloaders that stand for processes of one fleet."""
    return lambda: Downloader(sessions, robots_store=RedisRobotsStore(server, PROTOCOL))


def test_processes_share_the_rules(process: Callable[[], Downloader], server: redis.Redis) -> None:
    """One process fetches the file, and the others read its rules in Redis for an hour."""
    with site(DENY_X) as host:
        decisions = [decision(process(), host.url + path) for path in ("/1", "/x", "/2")]
        assert (decisions, host.paths) == ([True, False, True], ["/robots.txt", "/1", "/2"])
        assert RULES_SECONDS - 60 < int(server.ttl(keys.robots(PROTOCOL, host.url))) <= RULES_SECONDS
        assert not server.exists(keys.robots_claim(PROTOCOL, host.url))


def test_processes_wait_for_the_first_one(process: Callable[[], Downloader], monkeypatch: pytest.MonkeyPatch) -> None:
    """While one process fetches the file, another process waits, and sends no request of its own."""
    asked, waiting = threading.Event(), threading.Event()

    def answer() -> list[bytes]:
        asked.set()
        assert waiting.wait(5)
        return [response(DENY_X)]

    with Site(answer) as host, ThreadPoolExecutor(2) as threads:
        first, second = process(), process()
        monkeypatch.setattr(second._robots, "_pause", lambda _: waiting.set())
        one = threads.submit(decision, first, f"{host.url}/1")
        assert asked.wait(5)
        other = threads.submit(decision, second, f"{host.url}/x")
        assert (one.result(), other.result()) == (True, False)
        assert host.asked == 1


def test_dead_process_is_not_waited_for(
    process: Callable[[], Downloader], server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a process dies while it fetches the file, others wait for a moment, and then fetch it themselves."""
    monkeypatch.setattr(robots, "_WAIT_SECONDS", 0.2)
    with site(DENY_X) as host:
        assert RedisRobotsStore(server, PROTOCOL).claim(host.url)
        assert not decision(process(), f"{host.url}/x")
        assert host.asked == 1
        assert decision(process(), f"{host.url}/1")
        assert host.asked == 1


def test_failing_server_is_shared_for_a_minute(process: Callable[[], Downloader], server: redis.Redis) -> None:
    """If a server fails, no process of the fleet asks it again for a minute."""
    with site(b"", "503 Busy") as host:
        errors = [failure(process(), host.url, OBEY)[0] for _ in range(2)]
        assert [type(error) for error in errors] == [RobotsUnreachableError] * 2
        assert host.paths == ["/robots.txt"]
        assert 0 < int(server.ttl(keys.robots(PROTOCOL, host.url))) <= UNREACHABLE_SECONDS


def test_network_error_is_not_shared(process: Callable[[], Downloader], server: redis.Redis) -> None:
    """A process whose own network may be broken forbids nothing to the others."""
    with site() as host:
        closed = host.url
    failure(process(), closed, OBEY)
    assert server.keys("imagefleet:*") == []


def test_hosts_can_not_fill_redis(
    process: Callable[[], Downloader], server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process saves a limited amount of rules in an hour. It uses further rules itself."""
    now = [0.0]
    monkeypatch.setattr(robots_store, "monotonic", lambda: now[0])
    monkeypatch.setattr(robots_store, "_MAX_CHARACTERS", 150)
    with site(DENY_X) as first, site(DENY_X) as second, site(DENY_X) as third, site(DENY_X) as fourth:
        downloader = process()
        for host in (first, second, third):
            assert [decision(downloader, host.url + path) for path in ("/x", "/1")] == [False, True]
        now[0] += 3601
        assert not decision(downloader, f"{fourth.url}/x")
        assert [server.exists(keys.robots(PROTOCOL, host.url)) for host in (first, second, third, fourth)] == [
            1,
            1,
            0,
            1,
        ]


def test_unreachable_redis_stops_no_download(sessions: Sessions) -> None:
    """Without Redis, each process fetches the files itself."""
    client = broker_client.client(f"redis://127.0.0.1:{processes.free_port()}", retry=False)
    with client, site(DENY_X) as host:
        downloader = Downloader(sessions, robots_store=RedisRobotsStore(client, PROTOCOL))
        assert [decision(downloader, host.url + path) for path in ("/1", "/x")] == [True, False]
        assert host.asked == 1
