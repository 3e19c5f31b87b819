"""A dead worker's tasks are requeued at once, and a live worker keeps its tasks."""

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

from config import limits
from tasks.broker import client as broker_client
from tasks.broker import keys, requeue, transport
from tasks.broker.heartbeat import Heartbeat
from tasks.broker.liveness import ContinuousContact, WorkerId
from tasks.celery import IMAGE_QUEUE
from tests.integration import processes
from tests.integration.test_transport import consuming, drain, put

_QUEUE = "presence-test"
_ME = WorkerId("a@here", "here", "boot.1", os.getpid(), "1")
#: The id of a worker on another host.
_ELSEWHERE = replace(_ME, node="b@there", host="there", random="2")

pytestmark = pytest.mark.slow


@pytest.fixture
def heartbeat(redis_url: str) -> Heartbeat:
    """Give this process's heartbeat. The test triggers each beat by a call."""
    return Heartbeat(_ME, lambda: broker_client.client(redis_url, retry=False), transport.known_tags)


def record_unacked(server: redis.Redis, worker: WorkerId, count: int, exchange: str = "") -> None:
    """Record this number of unacknowledged messages for a worker, as the worker's transport does."""
    server.sadd(keys.WORKERS, worker.name)
    for number in range(count):
        message = {
            "body": str(number),
            "headers": {"id": str(number), "none": []},
            "properties": {"delivery_tag": f"tag-{number}", "delivery_info": {"exchange": exchange}},
        }
        server.hset(
            keys.worker_key(keys.UNACKED, worker.name), f"tag-{number}", json.dumps([message, exchange, _QUEUE])
        )
        server.zadd(keys.worker_key(keys.UNACKED_INDEX, worker.name), {f"tag-{number}": time.time()})


def queued(server: redis.Redis) -> list[dict[str, Any]]:
    """Return the messages of the queue. The last message of the queue is delivered next."""
    found: Any = server.lrange(_QUEUE, 0, -1)
    return [json.loads(message) for message in found]


def test_requeues_all_tasks_of_a_dead_worker(server: redis.Redis) -> None:
    """Each message is first in its queue and differs only by kombu's redelivery marks. The worker is unregistered."""
    record_unacked(server, _ELSEWHERE, 5)
    assert requeue.requeue_from_dead_workers(server) == 5
    messages = queued(server)
    assert sorted(message["body"] for message in messages) == list("01234")
    for message in messages:
        assert message["headers"] == {"id": message["body"], "none": [], "redelivered": True}
        assert message["properties"]["delivery_info"]["redelivered"] is True
    assert server.keys("*") == [_QUEUE]


def test_message_goes_to_the_queues_of_its_exchange(server: redis.Redis) -> None:
    """If a message was sent to an exchange, it is requeued along the bindings of this exchange."""
    server.sadd("_kombu.binding.shop", "\x06\x16".join([_QUEUE, "", "bound"]), "\x06\x16".join(["x", "", "other"]))
    record_unacked(server, _ELSEWHERE, 1, exchange="shop")
    requeue.requeue_from_dead_workers(server)
    assert [server.llen(name) for name in ("bound", "other", _QUEUE)] == [1, 0, 0]


def test_damaged_record_goes_to_the_dead_letter_list(server: redis.Redis) -> None:
    """A damaged record goes to the transport's dead-letter list. It does not keep the dead worker registered."""
    record_unacked(server, _ELSEWHERE, 1)
    server.hset(keys.worker_key(keys.UNACKED, _ELSEWHERE.name), "odd", "no record")
    requeue.requeue_from_dead_workers(server)
    assert server.lrange(keys.DEAD_LETTER, 0, -1) == ["no record"]
    assert server.llen(_QUEUE) == 1
    assert not server.exists(keys.WORKERS)


def test_concurrent_requeues_requeue_once(server: redis.Redis, redis_url: str) -> None:
    """If four clients remove the same dead worker, each message is in its queue once."""
    record_unacked(server, _ELSEWHERE, 300)
    with ExitStack() as stack:
        clients = [stack.enter_context(broker_client.client(redis_url)) for _ in range(4)]
        threads = [threading.Thread(target=requeue.requeue_from_dead_workers, args=[client]) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(int(message["body"]) for message in queued(server)) == list(range(300))
    assert server.keys("*") == [_QUEUE]


def test_declares_no_one_dead_before_lasting_contact(server: redis.Redis, heartbeat: Heartbeat) -> None:
    """After its start or a Redis outage, a worker waits for a heartbeat lifetime before it declares workers dead."""
    heartbeat.beat(server)
    record_unacked(server, _ELSEWHERE, 1)
    heartbeat.beat(server)
    assert server.llen(_QUEUE) == 0
    with broker_client.client(f"redis://127.0.0.1:{processes.free_port()}/0", retry=False) as unreachable:
        since = time.monotonic() - limits.HEARTBEAT_TIMEOUT
        heartbeat._contact = ContinuousContact(since, time.monotonic())
        assert heartbeat._contact.is_long_enough
        with pytest.raises(redis.ConnectionError):
            heartbeat.beat(unreachable)
    heartbeat.beat(server)
    assert server.llen(_QUEUE) == 0
    heartbeat._contact = ContinuousContact(since, time.monotonic())
    heartbeat.beat(server)
    assert (server.llen(_QUEUE), server.smembers(keys.WORKERS)) == (1, {_ME.name})


def test_detects_a_dead_process_of_its_host_at_once(server: redis.Redis, heartbeat: Heartbeat) -> None:
    """On this host, a reused or unused process id proves a worker's death. Process ids of other hosts prove nothing."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    before, ended = replace(_ME, random="0"), replace(_ME, pid=child.pid, random="2")
    running = replace(_ME, pid=os.getppid(), random="3")
    for other in (before, ended, running, _ELSEWHERE, replace(before, namespace="boot.2")):
        server.set(keys.heartbeat(other.name), 1)
        record_unacked(server, other, 1)
    heartbeat.beat(server)
    assert server.llen(_QUEUE) == 2
    left: Any = server.smembers(keys.WORKERS)
    assert left.isdisjoint({before.name, ended.name})
    assert len(left) == 4


def test_requeues_messages_of_a_lost_reply(
    server: redis.Redis, redis_url: str, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a reply of Redis never reached this worker, the messages in the reply are requeued.

    The worker keeps the messages that it received.
    """
    transport.install()
    monkeypatch.setattr(transport.Channel, "worker_id", _ME.name)
    put(redis_url, _QUEUE, 3)
    taken: list[Any] = []
    with consuming(redis_url, [_QUEUE], 12, lambda _, message: taken.append(message)) as connection:
        drain(connection, lambda: len(taken) == 3)
        record_unacked(server, _ME, 2)
        for _ in range(2):
            heartbeat._checked_at = 0.0
            assert server.llen(_QUEUE) == 0
            heartbeat.beat(server)
        processes.eventually(lambda: server.llen(_QUEUE) == 2, "the lost messages")
        assert server.hlen(keys.worker_key(keys.UNACKED, _ME.name)) == 3
        for message in taken:
            message.ack()
    assert not server.exists(keys.worker_key(keys.UNACKED, _ME.name), keys.worker_key(keys.UNACKED_INDEX, _ME.name))


def test_running_task_of_a_broken_connection_is_known(
    server: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that still runs after its channel was closed does not count as lost."""
    transport.install(running_ids=lambda: {None})  # type: ignore[arg-type]  # plain messages have no id
    monkeypatch.setattr(transport.Channel, "worker_id", _ME.name)
    put(redis_url, _QUEUE, 1)
    taken: list[Any] = []
    with consuming(redis_url, [_QUEUE], 12, lambda _, message: taken.append(message)) as connection:
        drain(connection, lambda: len(taken) == 1)
        (message,) = taken
        message.channel.qos.restore_unacked()
        assert message.delivery_tag in transport.known_tags()
        message.ack()
    assert message.delivery_tag not in transport.known_tags()
    assert server.llen(_QUEUE) == 0
    transport.install()


def test_requeues_overdue_messages_of_kombu(server: redis.Redis, heartbeat: Heartbeat) -> None:
    """If plain kombu keeps messages beyond the visibility timeout, we requeue them, as kombu's consumers do."""
    record = [{"headers": {}, "properties": {"delivery_info": {}}}, "", _QUEUE]
    server.hset(keys.UNACKED, mapping={"old": json.dumps(record), "new": json.dumps(record)})
    server.zadd(keys.UNACKED_INDEX, {"old": time.time() - limits.VISIBILITY_TIMEOUT - 1, "new": time.time()})
    heartbeat.beat(server)
    assert (server.llen(_QUEUE), server.hkeys(keys.UNACKED)) == (1, ["new"])


def test_lists_all_unacked_hashes(server: redis.Redis) -> None:
    """The list of hashes that may hold unacknowledged messages begins with kombu's own hash."""
    server.sadd(keys.WORKERS, "b", "a")
    assert requeue.unacked_hashes(server) == ["unacked", "unacked:a", "unacked:b"]


def test_producer_uses_kombus_keys(redis_url: str) -> None:
    """A process that is not a worker has no worker id, and uses kombu's own key names."""
    transport.install()
    with Connection(redis_url) as connection:
        assert connection.channel().qos.unacked_key == "unacked"


# Real workers


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[str]:
    """Give the URL of a Redis for this test alone."""
    with processes.redis_server(tmp_path) as port:
        yield f"redis://127.0.0.1:{port}/0"


def slow_list(folder: Path, demo_url: str, count: int, latency: int) -> Path:
    """Write a list of images from a slow server."""
    path = folder / "list"
    path.write_text("".join(f"{demo_url}/images/{index}.jpg?latency={latency}\n" for index in range(count)))
    return path


def start_worker(name: str, folder: Path, url: str) -> Any:
    """Return a context manager that runs a worker."""
    return processes.worker(name, folder, url, folder, "127.0.0.1", "-n", f"{name}@%h", "-c", "8", "-l", "WARNING")


@pytest.mark.timeout(120)
def test_other_worker_does_the_tasks_of_a_killed_one(own_redis: str, demo_url: str, tmp_path: Path) -> None:
    """In a fleet that is otherwise idle, another worker executes all tasks of a killed worker well within a minute."""
    source = slow_list(tmp_path, demo_url, 24, 4)
    argv = processes.command(["run", source, "--out", tmp_path / "out", "--broker", own_redis, "--json"])
    with processes.connect(own_redis) as server, processes.started("run", argv, tmp_path) as run:
        # A worker with room for fewer than a quarter of its messages takes no more, so all 24 must be in the queue.
        processes.eventually(lambda: server.llen(IMAGE_QUEUE) == 24, "tasks")
        with start_worker("killed", tmp_path, own_redis) as killed:
            processes.eventually(lambda: processes.unacked_count(server) == 24, "its unacknowledged messages")
            with start_worker("other", tmp_path, own_redis):
                processes.eventually(lambda: server.scard(keys.WORKERS) == 2, "the other worker")
                # The killed worker stays in the process table as a zombie, so only its missing heartbeat shows its
                # death.
                killed.process.kill()
                started = time.monotonic()
                assert run.wait(60).json()["success"] == 24
                assert time.monotonic() - started < limits.REDELIVERY_SECONDS + 3 * 4 + 5


def test_restarted_worker_requeues_its_tasks_at_once(own_redis: str, demo_url: str, tmp_path: Path) -> None:
    """If a killed worker has a successor on the same host, the successor's first heartbeat requeues the tasks."""
    source = slow_list(tmp_path, demo_url, 8, 1)
    argv = processes.command(["run", source, "--out", tmp_path / "out", "--broker", own_redis, "--json"])
    with processes.connect(own_redis) as server, processes.started("run", argv, tmp_path) as run:
        with start_worker("same", tmp_path, own_redis) as killed:
            processes.eventually(lambda: processes.unacked_count(server) == 8, "its unacknowledged messages")
            killed.process.kill()
            killed.process.wait()
        with start_worker("same", tmp_path, own_redis) as next_one:
            processes.eventually(lambda: "requeued its 8 tasks" in next_one.err, "the requeued tasks", 12)
            assert run.wait(30).json()["success"] == 8


def test_stopped_worker_leaves_nothing_behind(own_redis: str, demo_url: str, tmp_path: Path) -> None:
    """A stopped worker requeues the tasks it has not started, and leaves no key behind."""
    source = slow_list(tmp_path, demo_url, 24, 4)
    argv = processes.command(["run", source, "--out", tmp_path / "out", "--broker", own_redis, "--json"])
    with processes.connect(own_redis) as server, processes.started("run", argv, tmp_path):
        # A worker with room for fewer than a quarter of its messages takes no more, so all 24 must be in the queue.
        processes.eventually(lambda: server.llen(IMAGE_QUEUE) == 24, "tasks")
        with start_worker("stopped", tmp_path, own_redis) as worker:
            processes.eventually(lambda: processes.unacked_count(server) == 24, "its unacknowledged messages")
            worker.process.terminate()
            assert worker.wait().code == 0
        assert server.llen(IMAGE_QUEUE) == 24 - 8
        assert not [key for key in server.keys("*") if "stopped@" in key]
        assert not server.exists(keys.WORKERS)


@contextmanager
def proxy_losing_a_reply(url: str) -> Iterator[str]:
    """Give the URL of a proxy to Redis that loses the first messages delivered to a worker."""
    place = ("127.0.0.1", int(url.rpartition(":")[2].partition("/")[0]))
    lost = threading.Event()

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = False
            with socket.create_connection(place) as server:
                while True:
                    for ready in select.select([self.request, server], [], [])[0]:
                        data = ready.recv(1 << 16)
                        asked = asked or b"kombu_record" in data
                        # The script's reply begins with the number of dead-lettered messages. The delivered messages
                        # follow in the reply.
                        if not data or (asked and ready is server and b"$" in data and not lost.is_set()):
                            if data:
                                lost.set()
                            return
                        (server if ready is self.request else self.request).sendall(data)

    class Proxy(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address = True, True

        def handle_error(self, *_: Any) -> None:
            """Ignore the error: either side may close a connection at any time."""

    with Proxy(("127.0.0.1", 0), Connection) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"redis://127.0.0.1:{proxy.server_address[1]}/0"
        proxy.shutdown()
        assert lost.is_set()


@pytest.mark.timeout(120)
def test_requeues_messages_lost_with_a_connection(own_redis: str, demo_url: str, tmp_path: Path) -> None:
    """Messages that are lost with a broken connection are requeued soon, and not only after minutes."""
    source = slow_list(tmp_path, demo_url, 8, 0)
    argv = processes.command(["run", source, "--out", tmp_path / "out", "--broker", own_redis, "--json"])
    with (
        processes.connect(own_redis) as server,
        processes.started("run", argv, tmp_path) as run,
        proxy_losing_a_reply(own_redis) as proxy,
    ):
        processes.eventually(lambda: server.llen(IMAGE_QUEUE) == 8, "tasks")
        with start_worker("unlucky", tmp_path, proxy) as worker:
            assert run.wait(60).json()["success"] == 8
            assert "tasks lost on the way from Redis to this worker" in worker.err


@pytest.mark.timeout(120)
def test_paused_redis_declares_no_one_dead(own_redis: str, demo_url: str, tmp_path: Path) -> None:
    """If all heartbeats expire while Redis is paused, no live worker is declared dead afterwards."""
    source = slow_list(tmp_path, demo_url, 32, 30)
    argv = processes.command(["run", source, "--out", tmp_path / "out", "--broker", own_redis, "--json"])
    with (
        processes.connect(own_redis) as server,
        processes.started("run", argv, tmp_path),
        start_worker("one", tmp_path, own_redis) as one,
        start_worker("two", tmp_path, own_redis) as two,
    ):
        processes.eventually(lambda: processes.unacked_count(server) == 32, "the unacknowledged messages of both")
        pid = server.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(limits.HEARTBEAT_TIMEOUT + 2)
        os.kill(pid, signal.SIGCONT)
        processes.eventually(lambda: len(server.keys(keys.heartbeat("*"))) == 2, "heartbeats")
        time.sleep(2 * limits.HEARTBEAT_INTERVAL)
        assert "is dead" not in one.err + two.err
        for worker in (one, two):
            worker.process.kill()
