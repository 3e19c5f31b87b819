"""Downloads continue when file descriptors run out. The least recently used idle connections are closed first."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from producer.local_fleet.fleet import FleetSize, check_size
from tasks import file_descriptors
from tasks.download.adapters import Sessions
from tasks.errors import UsageError
from tasks.file_descriptors import IdleConnections, is_exhausted, max_slots, retry_when_exhausted
from tests.unit.conftest import Canned, always, response
from tests.unit.download.test_adapters import get


@pytest.fixture
def sockets() -> Iterator[Callable[[int], list[socket.socket]]]:
    """Make sockets, and close them after the test."""
    with ExitStack() as stack:
        yield lambda number: [stack.enter_context(socket.socket()) for _ in range(number)]


def run_program(code: str, descriptors: int, *arguments: str) -> dict[str, int]:
    """Run a program with this limit of file descriptors. Return the program's JSON output."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors)),
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, int] = json.loads(ended.stdout)
    return found


def test_closes_least_recently_used_first(sockets: Callable[[int], list[socket.socket]]) -> None:
    """A reused connection is closed last. A connection in use is not closed."""
    idle = IdleConnections(100)
    first, second, third, busy = sockets(4)
    for each in (first, second, third, busy, first):
        assert not idle.take(each) or each is first
        idle.add(each)
    assert idle.take(busy)
    assert idle.close_oldest(2) == 2
    assert [each.fileno() == -1 for each in (first, second, third, busy)] == [False, True, True, False]
    assert not idle.take(second)
    assert len(idle) == 1


def test_follows_the_limit(sockets: Callable[[int], list[socket.socket]]) -> None:
    """If a new descriptor's number is in the last quarter of the limit, the surplus idle connections are closed."""
    idle = IdleConnections(100)
    for each in sockets(10):
        idle.add(each)
    idle.make_room(74)
    assert len(idle) == 10
    idle.make_room(77)
    assert len(idle) == 7
    idle.set_limit(10_000)
    idle.make_room(9_743)
    assert len(idle) == 7
    idle.make_room(9_999)
    assert len(idle) == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_retries_after_a_lack_of_descriptors(sockets: Callable[[int], list[socket.socket]], number: int) -> None:
    """If the process or the machine has no free descriptor, an idle connection is closed, and the call is retried."""
    (each,) = sockets(1)
    file_descriptors.IDLE_CONNECTIONS.add(each)

    @retry_when_exhausted
    def step() -> str:
        if each.fileno() != -1:
            raise OSError(number, os.strerror(number))
        return "done"

    assert step() == "done"


def test_other_errors_are_raised_at_once() -> None:
    """A call is retried only if it failed for lack of descriptors."""
    calls: list[None] = []

    @retry_when_exhausted
    def step() -> None:
        calls.append(None)
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(OSError, match="no space"):
        step()
    assert len(calls) == 1


def test_finds_the_cause_of_an_error() -> None:
    """redis-py and LocalStore wrap the system's error in their own errors."""
    raised = redis.ConnectionError("Error 24 connecting to 127.0.0.1:6379")
    raised.__context__ = OSError(errno.EMFILE, "Too many open files")
    assert is_exhausted(raised)
    assert not is_exhausted(OSError(errno.ENOSPC, "no space"))
    assert not is_exhausted(None)


def test_raises_the_soft_limit_to_the_hard_one() -> None:
    """A process raises its soft limit to the hard limit when it starts, not when a module is imported."""
    found = run_program(
        """
        import json, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
        from producer.cli import main as cli
        from tasks import file_descriptors as descriptors
        before = descriptors.limit()
        print(json.dumps({"before": before, "after": descriptors.raise_limit(), "again": descriptors.raise_limit()}))
        """,
        300,
    )
    assert found == {"before": 100, "after": 200, "again": 200}


def test_slots_leave_room_for_everything_else() -> None:
    """A worker with 128 slots runs under a limit of 256 descriptors, but a worker with 250 slots does not."""
    assert max_slots(256) >= 128
    assert max_slots(256) < 250
    assert max_slots(10) == 0


def test_closed_idle_connection_is_replaced(sessions_to: Callable[..., Sessions]) -> None:
    """If a thread's idle connection was closed to make room, the thread opens a new connection.

    Opening the new connection costs no attempt.
    """
    with Canned(always(response())) as server:
        sessions = sessions_to("127.0.0.1")
        for connections in (1, 2, 3):
            assert get(f"{server.url}/", sessions) == b"body"
            assert server.connections == connections
            assert get(f"{server.url}/", sessions) == b"body"
            assert server.connections == connections
            file_descriptors.IDLE_CONNECTIONS.close_oldest(len(file_descriptors.IDLE_CONNECTIONS))


def test_a_connection_in_use_is_not_closed(sessions_to: Callable[..., Sessions]) -> None:
    """A connection stays open while it is being read, however few descriptors are left."""

    def answer(_: bytes) -> Iterator[bytes]:
        yield response(b"", "200 OK", "Content-Length: 8", length=False) + b"half"
        file_descriptors.IDLE_CONNECTIONS.close_oldest(1_000)
        yield b"half"

    with Canned(answer) as server:
        sessions = sessions_to("127.0.0.1")
        assert [get(f"{server.url}/", sessions) for _ in range(2)] == [b"halfhalf"] * 2
        assert server.connections == 1


def test_closed_connections_are_not_kept(sessions_to: Callable[..., Sessions]) -> None:
    """When a thread moves on to other hosts, its closed connections leave the idle list."""
    # Connections that other tests have dropped would leave the list at any later moment.
    gc.collect()
    before = len(file_descriptors.IDLE_CONNECTIONS)
    with Canned(always(response())) as first, Canned(always(response(b"x", "200 OK", "Connection: close"))) as second:
        sessions = sessions_to("127.0.0.1")
        get(f"{first.url}/", sessions)
        assert len(file_descriptors.IDLE_CONNECTIONS) == before + 1
        get(f"{second.url}/", sessions)
        assert len(file_descriptors.IDLE_CONNECTIONS) == before + 1
        for host in range(2, 14):
            with pytest.raises(Exception, match="not a public address"):
                get(f"http://127.0.0.{host}:{first.port}/", sessions)
        sessions.adapter()._last = None
        sessions.adapter().close()
        assert len(file_descriptors.IDLE_CONNECTIONS) == before


_DOWNLOADS = """
    import json, sys
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    from tasks import file_descriptors as descriptors
    from tasks.deadline import Deadline
    from tasks.download.downloader import Downloader
    from tasks.download.guard import Guard
    from tasks.model import FetchOptions
    from tasks.download.adapters import Sessions
    from tasks.storage.local_store import LocalStore

    descriptors.raise_limit()
    port, folder, slots = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    store, downloader = LocalStore(folder), Downloader(Sessions(Guard(["127.0.0.0/8"])))
    options, highest = FetchOptions(retries=0, timeout=30.0, deadline=30.0), 0

    def one(number):
        global highest
        url = f"http://127.0.1.{number % 20 + 1}:{port}/{number}"
        attempts = []
        got = downloader.download(url, options, Deadline(30.0, 30.0), lambda _: attempts.append(None))
        store.create(f"{number % 7}/{number}", got.body)
        highest = max(highest, len(descriptors.IDLE_CONNECTIONS))
        return len(attempts)

    with ThreadPoolExecutor(slots) as pool:
        attempts = sum(pool.map(one, range(300)))
    saved = sum(1 for _ in folder.glob("?/*"))
    print(json.dumps({"saved": saved, "attempts": attempts, "highest": highest}))
"""


@pytest.mark.parametrize(("limit", "slots"), [(64, 40), (64, 70)])
def test_all_images_are_saved_with_few_descriptors(tmp_path: Path, kept_alive: int, limit: int, slots: int) -> None:
    """If 20 hosts keep connections open, nothing fails or is retried, even with more slots than descriptors."""
    found = run_program(_DOWNLOADS, limit, str(kept_alive), str(tmp_path), str(slots))
    assert (found["saved"], found["attempts"]) == (300, 300)
    assert found["highest"] <= limit * 3 // 4


@pytest.fixture
def kept_alive() -> Iterator[int]:
    """Run a server that keeps every connection open, and return its port.

    The server listens on all loopback addresses.
    """
    with Canned(always(response()), host="0.0.0.0") as server:  # all of 127.0.0.0/8
        yield server.port


@pytest.mark.parametrize(
    ("size", "refused"),
    [
        (FleetSize(1, 128), ""),
        (FleetSize(1, 193), "193 downloads at a time can't run in one process here"),
        (FleetSize(8, 16), ""),
        (FleetSize(9, 16), "9 workers can't share a Redis server on this machine"),
    ],
)
def test_fleet_above_the_descriptor_limit_is_refused(
    monkeypatch: pytest.MonkeyPatch, size: FleetSize, refused: str
) -> None:
    """A local fleet with more slots or workers than the descriptor limit allows is refused before it starts."""
    monkeypatch.setattr(file_descriptors, "limit", lambda: 256)
    if not refused:
        check_size(size)
        return
    with pytest.raises(UsageError) as caught:
        check_size(size)
    assert caught.value.what == refused
    assert "256" in caught.value.why or "200" in caught.value.why
    assert "ulimit -n" in caught.value.hint
