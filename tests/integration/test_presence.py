"""A worker that is gone has its tasks given back at once, and one that lives keeps them."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.connection import Connection

from config import bounds
from tasks import broker, keys, presence, transport
from tasks.celery import IMAGES
from tasks.presence import Contact, Presence, Worker
from tests.integration import parts
from tests.integration.test_transport import consuming, drain, put

_QUEUE = "presence-test"
_ME = Worker("a@here", "here", "boot.1", os.getpid(), "1")
#: As long as a worker of another host.
_ELSEWHERE = replace(_ME, node="b@there", host="there", random="2")

pytestmark = pytest.mark.slow


@pytest.fixture
def shown(redis_url: str) -> Presence:
    """Give the presence of this process, which the test beats for."""
    return Presence(_ME, lambda: broker.client(redis_url, patient=False), transport.known)


def hold(server: redis.Redis, worker: Worker, count: int, exchange: str = "") -> None:
    """Let a worker hold so many messages, as its transport records them."""
    server.sadd(keys.WORKERS, worker.name)
    for number in range(count):
        message = {
            "body": str(number),
            "headers": {"id": str(number), "none": []},
            "properties": {"delivery_tag": f"tag-{number}", "delivery_info": {"exchange": exchange}},
        }
        server.hset(keys.held(keys.UNACKED, worker.name), f"tag-{number}", json.dumps([message, exchange, _QUEUE]))
        server.zadd(keys.held(keys.UNACKED_INDEX, worker.name), {f"tag-{number}": time.time()})


def queued(server: redis.Redis) -> list[dict[str, Any]]:
    """Return the messages of the queue, the next one last."""
    found: Any = server.lrange(_QUEUE, 0, -1)
    return [json.loads(message) for message in found]


def test_all_that_a_dead_worker_held_goes_back(server: redis.Redis) -> None:
    """Each message is next in its queue, marked as kombu marks it and else unchanged, and the worker is forgotten."""
    hold(server, _ELSEWHERE, 5)
    assert presence.hand_back_of_the_dead(server) == 5
    messages = queued(server)
    assert sorted(message["body"] for message in messages) == list("01234")
    for message in messages:
        assert message["headers"] == {"id": message["body"], "none": [], "redelivered": True}
        assert message["properties"]["delivery_info"]["redelivered"] is True
    assert server.keys("*") == [_QUEUE]


def test_message_goes_to_the_queues_of_its_exchange(server: redis.Redis) -> None:
    """A message that was sent to an exchange goes where the exchange's binding says."""
    server.sadd("_kombu.binding.shop", "\x06\x16".join([_QUEUE, "", "bound"]), "\x06\x16".join(["x", "", "other"]))
    hold(server, _ELSEWHERE, 1, exchange="shop")
    presence.hand_back_of_the_dead(server)
    assert [server.llen(name) for name in ("bound", "other", _QUEUE)] == [1, 0, 0]


def test_record_that_is_none_is_put_aside(server: redis.Redis) -> None:
    """What nobody can read goes where the transport puts such things; it does not keep a dead worker for ever."""
    hold(server, _ELSEWHERE, 1)
    server.hset(keys.held(keys.UNACKED, _ELSEWHERE.name), "odd", "no record")
    presence.hand_back_of_the_dead(server)
    assert server.lrange(keys.PUT_ASIDE, 0, -1) == ["no record"]
    assert server.llen(_QUEUE) == 1
    assert not server.exists(keys.WORKERS)


def test_two_who_give_back_at_once_give_back_once(server: redis.Redis, redis_url: str) -> None:
    """Four clients bury the same worker: each message is in its queue once."""
    hold(server, _ELSEWHERE, 300)
    with ExitStack() as stack:
        clients = [stack.enter_context(broker.client(redis_url)) for _ in range(4)]
        threads = [threading.Thread(target=presence.hand_back_of_the_dead, args=[client]) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(int(message["body"]) for message in queued(server)) == list(range(300))
    assert server.keys("*") == [_QUEUE]


def test_nobody_is_buried_before_contact_has_lasted(server: redis.Redis, shown: Presence) -> None:
    """Who has just come, or finds Redis after a pause, waits as long as a sign of life lasts before he judges."""
    shown.beat(server)
    hold(server, _ELSEWHERE, 1)
    shown.beat(server)
    assert server.llen(_QUEUE) == 0
    with broker.client(f"redis://127.0.0.1:{parts.free_port()}/0", patient=False) as nobody:
        since = time.monotonic() - bounds.WORKER_LIFETIME
        shown._contact = Contact(since, time.monotonic())
        assert shown._contact.long_enough
        with pytest.raises(redis.ConnectionError):
            shown.beat(nobody)
    shown.beat(server)
    assert server.llen(_QUEUE) == 0
    shown._contact = Contact(since, time.monotonic())
    shown.beat(server)
    assert (server.llen(_QUEUE), server.smembers(keys.WORKERS)) == (1, {_ME.name})


def test_process_of_this_host_that_is_no_more_is_known_at_once(server: redis.Redis, shown: Presence) -> None:
    """The one before it with its process id, and one whose process id nobody has; another host's say nothing."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    before, ended = replace(_ME, random="0"), replace(_ME, pid=child.pid, random="2")
    running = replace(_ME, pid=os.getppid(), random="3")
    for other in (before, ended, running, _ELSEWHERE, replace(before, place="boot.2")):
        server.set(keys.alive(other.name), 1)
        hold(server, other, 1)
    shown.beat(server)
    assert server.llen(_QUEUE) == 2
    left: Any = server.smembers(keys.WORKERS)
    assert left.isdisjoint({before.name, ended.name})
    assert len(left) == 4


def test_lost_answer_is_found(
    server: redis.Redis, redis_url: str, shown: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Redis gave to this worker and never arrived goes back; what it holds stays with it."""
    transport.install()
    monkeypatch.setattr(transport.Channel, "holder", _ME.name)
    put(redis_url, _QUEUE, 3)
    held: list[Any] = []
    with consuming(redis_url, [_QUEUE], 12, lambda _, message: held.append(message)) as connection:
        drain(connection, lambda: len(held) == 3)
        hold(server, _ME, 2)
        for _ in range(2):
            shown._looked = 0.0
            assert server.llen(_QUEUE) == 0
            shown.beat(server)
        parts.eventually(lambda: server.llen(_QUEUE) == 2, "what was lost")
        assert server.hlen(keys.held(keys.UNACKED, _ME.name)) == 3
        for message in held:
            message.ack()
    assert not server.exists(keys.held(keys.UNACKED, _ME.name), keys.held(keys.UNACKED_INDEX, _ME.name))


def test_what_goes_on_after_a_broken_connection_is_known(
    server: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that had begun belongs to no channel until it ends, and is not taken for one that was lost."""
    transport.install(begun=lambda: {None})  # type: ignore[arg-type]  # plain messages have no id
    monkeypatch.setattr(transport.Channel, "holder", _ME.name)
    put(redis_url, _QUEUE, 1)
    held: list[Any] = []
    with consuming(redis_url, [_QUEUE], 12, lambda _, message: held.append(message)) as connection:
        drain(connection, lambda: len(held) == 1)
        (message,) = held
        message.channel.qos.restore_unacked()
        assert message.delivery_tag in transport.known()
        message.ack()
    assert message.delivery_tag not in transport.known()
    assert server.llen(_QUEUE) == 0
    transport.install()


def test_what_is_overdue_goes_back(server: redis.Redis, shown: Presence) -> None:
    """What plain kombu holds beyond the visibility timeout goes back, as it would among kombu's own consumers."""
    record = [{"headers": {}, "properties": {"delivery_info": {}}}, "", _QUEUE]
    server.hset(keys.UNACKED, mapping={"old": json.dumps(record), "new": json.dumps(record)})
    server.zadd(keys.UNACKED_INDEX, {"old": time.time() - bounds.VISIBILITY_TIMEOUT - 1, "new": time.time()})
    shown.beat(server)
    assert (server.llen(_QUEUE), server.hkeys(keys.UNACKED)) == (1, ["new"])


def test_holders(server: redis.Redis) -> None:
    """Whoever looks for a message finds all that is unacknowledged, kombu's own first."""
    server.sadd(keys.WORKERS, "b", "a")
    assert presence.holders(server) == ["unacked", "unacked:a", "unacked:b"]


def test_producer_records_where_kombu_does(redis_url: str) -> None:
    """Who is no worker process has no id, and kombu's own names."""
    transport.install()
    with Connection(redis_url) as connection:
        assert connection.channel().qos.unacked_key == "unacked"


# Real workers


@pytest.fixture
def alone_redis(tmp_path: Path) -> Iterator[str]:
    """Give the URL of a Redis of the test's own."""
    with parts.redis_server(tmp_path) as port:
        yield f"redis://127.0.0.1:{port}/0"


def slow_list(folder: Path, demo_url: str, count: int, latency: int) -> Path:
    """Write a list of images whose server takes its time."""
    path = folder / "list"
    path.write_text("".join(f"{demo_url}/images/{index}.jpg?latency={latency}\n" for index in range(count)))
    return path


def working(name: str, folder: Path, url: str) -> Any:
    """Return a worker, to be entered."""
    return parts.worker(name, folder, url, folder, "127.0.0.1", "-n", f"{name}@%h", "-c", "8", "-l", "WARNING")


@pytest.mark.timeout(120)
def test_other_worker_does_what_a_killed_one_held(alone_redis: str, demo_url: str, tmp_path: Path) -> None:
    """All that a killed worker held is done by another well within a minute, while nothing else moves."""
    source = slow_list(tmp_path, demo_url, 24, 4)
    argv = parts.command(["run", source, "--out", tmp_path / "out", "--broker", alone_redis, "--json"])
    with (
        parts.connect(alone_redis) as server,
        parts.started("run", argv, tmp_path) as run,
        working("killed", tmp_path, alone_redis) as killed,
    ):
        parts.eventually(lambda: parts.unacked_count(server) == 24, "all that it takes")
        with working("other", tmp_path, alone_redis):
            parts.eventually(lambda: server.scard(keys.WORKERS) == 2, "the other one")
            # Nobody waits for its end, so the system goes on to list it: only its sign of life tells.
            killed.process.kill()
            started = time.monotonic()
            assert run.wait(60).json()["success"] == 24
            assert time.monotonic() - started < bounds.HANDED_BACK + 3 * 4 + 5


def test_next_worker_of_the_host_takes_over_at_once(alone_redis: str, demo_url: str, tmp_path: Path) -> None:
    """A worker that was killed and is started again has its tasks back with its first sign of life."""
    source = slow_list(tmp_path, demo_url, 8, 1)
    argv = parts.command(["run", source, "--out", tmp_path / "out", "--broker", alone_redis, "--json"])
    with parts.connect(alone_redis) as server, parts.started("run", argv, tmp_path) as run:
        with working("same", tmp_path, alone_redis) as killed:
            parts.eventually(lambda: parts.unacked_count(server) == 8, "all that it takes")
            killed.process.kill()
            killed.process.wait()
        with working("same", tmp_path, alone_redis) as next_one:
            parts.eventually(lambda: "8 tasks that it held are given back" in next_one.err, "the return", 12)
            assert run.wait(30).json()["success"] == 8


def test_worker_that_stops_leaves_nothing(alone_redis: str, demo_url: str, tmp_path: Path) -> None:
    """A worker that is told to stop gives back what had not begun, and no key tells of it any more."""
    source = slow_list(tmp_path, demo_url, 24, 2)
    argv = parts.command(["run", source, "--out", tmp_path / "out", "--broker", alone_redis, "--json"])
    with parts.connect(alone_redis) as server, parts.started("run", argv, tmp_path):
        with working("stopped", tmp_path, alone_redis) as worker:
            parts.eventually(lambda: parts.unacked_count(server) == 24, "all that it takes")
            worker.process.terminate()
            assert worker.wait().code == 0
        assert server.llen(IMAGES) == 24 - 8
        assert not [key for key in server.keys("*") if "stopped@" in key]
        assert not server.exists(keys.WORKERS)


@contextmanager
def losing_an_answer(url: str) -> Iterator[str]:
    """Give the URL of a way to a Redis, on which the first messages that a worker is given are lost."""
    place = ("127.0.0.1", int(url.rpartition(":")[2].partition("/")[0]))
    lost = threading.Event()

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = False
            with socket.create_connection(place) as server:
                while True:
                    for ready in select.select([self.request, server], [], [])[0]:
                        data = ready.recv(1 << 16)
                        asked = asked or b"record_of" in data
                        # What the script answers begins with how many messages were put aside; some follow.
                        if not data or (asked and ready is server and b"$" in data and not lost.is_set()):
                            if data:
                                lost.set()
                            return
                        (server if ready is self.request else self.request).sendall(data)

    class Way(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address = True, True

        def handle_error(self, *_: Any) -> None:
            """Say nothing: either side may end a connection at any time."""

    with Way(("127.0.0.1", 0), Connection) as way:
        threading.Thread(target=way.serve_forever, daemon=True).start()
        yield f"redis://127.0.0.1:{way.server_address[1]}/0"
        way.shutdown()
        assert lost.is_set()


@pytest.mark.timeout(120)
def test_messages_that_were_lost_on_the_way_are_done(alone_redis: str, demo_url: str, tmp_path: Path) -> None:
    """A worker whose connection breaks before it hears what it was given has it back soon, not after minutes."""
    source = slow_list(tmp_path, demo_url, 8, 0)
    argv = parts.command(["run", source, "--out", tmp_path / "out", "--broker", alone_redis, "--json"])
    with (
        parts.connect(alone_redis) as server,
        parts.started("run", argv, tmp_path) as run,
        losing_an_answer(alone_redis) as way,
    ):
        parts.eventually(lambda: server.llen(IMAGES) == 8, "tasks")
        with working("unlucky", tmp_path, way) as worker:
            assert run.wait(60).json()["success"] == 8
            assert "did not arrive, and are given back" in worker.err


@pytest.mark.timeout(120)
def test_stopped_redis_buries_nobody(alone_redis: str, demo_url: str, tmp_path: Path) -> None:
    """Redis stands still for longer than signs of life last: all have expired, all workers live, and none is buried."""
    source = slow_list(tmp_path, demo_url, 32, 30)
    argv = parts.command(["run", source, "--out", tmp_path / "out", "--broker", alone_redis, "--json"])
    with (
        parts.connect(alone_redis) as server,
        parts.started("run", argv, tmp_path),
        working("one", tmp_path, alone_redis) as one,
        working("two", tmp_path, alone_redis) as two,
    ):
        parts.eventually(lambda: parts.unacked_count(server) == 32, "what both hold")
        pid = server.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(bounds.WORKER_LIFETIME + 2)
        os.kill(pid, signal.SIGCONT)
        parts.eventually(lambda: len(server.keys(keys.alive("*"))) == 2, "signs of life")
        time.sleep(2 * bounds.WORKER_BEAT)
        assert "is gone" not in one.err + two.err
        for worker in (one, two):
            worker.process.kill()
