"""Runs with parked tasks: the messages and the runs stay whole, and the images of other hosts do not wait."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.utils.json import dumps
from PIL import Image

from producer.dispatch import chord_state
from tasks.celery import IMAGE_QUEUE
from tasks.throttle import keys
from tasks.throttle.parking import ParkedTask, Parking
from tests.encoding import encoded
from tests.integration import processes
from tests.loopback_server import LoopbackHandler, LoopbackServer

_UNACKED = ("unacked:one", "unacked_index:one")
_HOST = "a.example"


class BusyServer(LoopbackServer):
    """A server whose answers wait until the test releases them."""

    body = encoded(Image.new("RGB", (4, 3), "red"), "PNG")

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.released = threading.Event()
        self.paths: list[str] = []
        self.open = self.most = 0
        self.lock = threading.Lock()
        #: The status of the answer to each path's first request; 200 if it is missing.
        self.first: dict[str, int] = {}

    @property
    def key(self) -> str:
        """The key of this host."""
        return f"127.0.0.1:{self.server_address[1]}"

    def urls(self, count: int, more: str = "") -> list[str]:
        """Return different URLs of this server."""
        return [f"{self.url}/{number}.png{more}" for number in range(count)]


class _Handler(LoopbackHandler):
    server: BusyServer

    def do_GET(self) -> None:  # noqa: N802  # the base class finds it by this name
        """Send an image when it is released, or redirect at once."""
        target = self.path.partition("?to=")[2]
        if target:
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        busy = self.server
        with busy.lock:
            busy.paths.append(self.path)
            busy.open += 1
            busy.most = max(busy.most, busy.open)
            status = busy.first.pop(self.path, 200)
        busy.released.wait(30)
        with busy.lock:
            busy.open -= 1
        # The client may have ended.
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(busy.body)))
            self.end_headers()
            self.wfile.write(busy.body)


@dataclass(frozen=True)
class Stage:
    """A fleet and an output folder, for runs that go on beside the test."""

    broker: str
    out: Path
    folder: Path
    redis: redis.Redis
    pool: ThreadPoolExecutor

    def words(self, urls: list[str], *options: str, name: str = "") -> list[str | Path]:
        """Return the words of a command that runs these URLs."""
        source = self.folder / f"list{name}.txt"
        source.write_text("".join(f"{url}\n" for url in urls))
        out = self.out.with_name(f"{self.out.name}{name}")
        return ["run", source, "--out", out, "--broker", self.broker, "--json", *options]

    def run(self, urls: list[str], *options: str, name: str = "") -> Future[processes.Completed]:
        """Start a run of these URLs."""
        return self.pool.submit(processes.producer, *self.words(urls, *options, name=name))

    def parked(self, host: str) -> int:
        """Return the number of parked tasks of a host."""
        return int(self.redis.llen(keys.parked(host)))

    def until_parked(self, count: int, host: str) -> None:
        """Wait until this number of a host's tasks is parked."""
        processes.eventually(lambda: self.parked(host) == count, f"{count} parked tasks")


@pytest.fixture
def stage(fleet: str, out: Path, tmp_path: Path) -> Iterator[Stage]:
    """Give the fleet of the session."""
    with processes.connect(fleet) as client, ThreadPoolExecutor(2) as pool:
        yield Stage(fleet, out, tmp_path, client, pool)


@contextmanager
def busy_server() -> Iterator[BusyServer]:
    """Run a server, and release its answers at the end."""
    with BusyServer() as server:
        try:
            yield server
        finally:
            server.released.set()


def message(tag: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as kombu writes it."""
    body = base64.b64encode(dumps([["run", 1, "http://ä.example/"], kwargs, {"chain": []}]).encode()).decode()
    return {
        "body": body,
        "headers": {"id": "run.3.1", "lang": "py", "stamps": [], "shadow": None, "argsrepr": "('ä', [], {})", "x": {}},
        "properties": {"delivery_tag": tag, "delivery_info": {"exchange": "", "routing_key": IMAGE_QUEUE}},
    }


def test_parked_message_keeps_its_content(server: redis.Redis) -> None:
    """A message goes from a worker to its host's list and back to its queue. Only its delivery tag is new."""
    sent = message("tag-1", {"tried_by": [], "path": "ü/ 1", "previous": None})
    server.hset(_UNACKED[0], "tag-1", dumps([sent, "", IMAGE_QUEUE]))
    server.zadd(_UNACKED[1], {"tag-1": 1.0})
    server.set(keys.run("run"), "{}")
    parking, task = Parking(server), ParkedTask("tag-1", _HOST, "run", 3)
    assert parking.park(task, _UNACKED)
    assert not parking.park(task, _UNACKED)
    assert (server.exists(*_UNACKED), server.smembers(keys.PARKED_HOSTS)) == (0, {_HOST})
    assert parking.parked_in_shards("run") == {3: 1}
    assert chord_state.pending_task_ids(server, "run", [_UNACKED[0]]) == {"run.3.1"}
    assert parking.serve() == 1
    [back] = server.lrange(IMAGE_QUEUE, 0, -1)
    found = json.loads(back)
    tag = found["properties"]["delivery_tag"]
    assert tag != "tag-1"
    assert back == dumps({**sent, "properties": {**sent["properties"], "delivery_tag": tag}})
    assert (parking.parked_in_shards("run"), server.exists(keys.PARKED_HOSTS), parking.serve()) == ({}, 0, 0)


def test_tasks_are_served_in_the_order_of_parking(server: redis.Redis) -> None:
    """The task that has waited longest is the next of its queue."""
    parking = Parking(server)
    for number in range(3):
        tag = f"tag-{number}"
        server.hset(_UNACKED[0], tag, dumps([message(tag, {"number": number}), "", IMAGE_QUEUE]))
        assert parking.park(ParkedTask(tag, _HOST, "run", number), _UNACKED)
    server.set(keys.run("run"), "{}")
    server.hset(keys.host(_HOST), mapping={"limit": 8, "rate": ""})
    assert parking.serve() == 3
    bodies = [base64.b64decode(json.loads(text)["body"]) for text in reversed(server.lrange(IMAGE_QUEUE, 0, -1))]
    assert [json.loads(body)[1]["number"] for body in bodies] == [0, 1, 2]


@pytest.mark.parametrize("most", [0, 1])
def test_shard_of_a_busy_host_lets_a_later_shard_start(stage: Stage, most: int) -> None:
    """A shard whose images all wait gives its place back, unless `--max-parked` is 0."""
    with busy_server() as slow, busy_server() as fast:
        fast.released.set()
        # An image of the first shard has the only permit, so only the second shard waits with all of its images.
        options = ("--per-host-concurrency", "1", "--shard-size", "4", "--window", "2", "--max-parked", str(most))
        run = stage.run(slow.urls(8) + fast.urls(4), *options)
        stage.until_parked(7, slow.key)
        if most:
            processes.eventually(lambda: len(fast.paths) == 4, "the images of the fast host")
        else:
            assert fast.paths == []
        slow.released.set()
        assert run.result(60).json()["success"] == 12
        assert slow.most == 1


def test_names_with_one_address_share_a_limit(stage: Stage) -> None:
    """With `--per ip`, two names of one server together have no more requests open than one host may have."""
    with busy_server() as server:
        urls = [url for one in server.urls(4) for url in (one, one.replace("127.0.0.1", "localhost"))]
        run = stage.run(urls, "--per", "ip", "--per-host-concurrency", "2")
        stage.until_parked(6, server.key)
        server.released.set()
        assert run.result(60).json()["success"] == 8
        assert server.most == 2


def test_two_runs_share_the_limit_of_a_host(stage: Stage) -> None:
    """Two runs at one broker together never have more requests open than the limit of one."""
    with busy_server() as server:
        options = ("--per-host-concurrency", "2")
        words = stage.words(server.urls(6, "?a"), *options, name="-a")
        with processes.started("first", processes.command(words), stage.folder) as first:
            second = stage.run(server.urls(6, "?b"), *options, name="-b")
            stage.until_parked(10, server.key)
            server.released.set()
            assert [first.wait(60).json()["success"], second.result(60).json()["success"]] == [6, 6]
        assert server.most == 2


def test_redirect_to_a_busy_host_is_parked(stage: Stage) -> None:
    """An image waits for the host that its redirect leads to, and starts again when this host is free."""
    with busy_server() as target, busy_server() as start:
        urls = target.urls(1) + [f"{start.url}/{number}?to={target.url}/x{number}.png" for number in range(3)]
        run = stage.run(urls, "--per-host-concurrency", "1")
        stage.until_parked(3, target.key)
        assert target.most == 1
        target.released.set()
        assert run.result(60).json()["success"] == 4
        assert target.most == 1
    assert {row["attempts"] for row in processes.rows(stage.out)} == {1}


@pytest.mark.parametrize("adaptive", [True, False], ids=["adaptive", "not-adaptive"])
def test_image_that_was_refused_keeps_its_attempts(stage: Stage, adaptive: bool) -> None:
    """An image that got a 429 is tried again, and its first attempt still counts."""
    with busy_server() as server:
        server.released.set()
        server.first["/0.png"] = 429
        options = () if adaptive else ("--no-adaptive",)
        assert stage.run(server.urls(3), "--per-host-concurrency", "1", *options).result(60).json()["success"] == 3
    assert [row["attempts"] for row in processes.rows(stage.out)] == [2, 1, 1]


@pytest.mark.parametrize("command", ["cancel", "Ctrl-C"])
def test_run_with_parked_tasks_ends_and_is_resumed(stage: Stage, command: str) -> None:
    """A run is cancelled or interrupted while its tasks are parked. A resumed run downloads each image once."""
    with busy_server() as server:
        words = stage.words(server.urls(6), "--per-host-concurrency", "1", "--shard-size", "3")
        with processes.started("run", processes.command(words), stage.folder) as run:
            stage.until_parked(5, server.key)
            if command == "cancel":
                assert processes.producer("cancel", stage.out, "--broker", stage.broker).code == 0
            else:
                os.kill(run.process.pid, signal.SIGINT)
            server.released.set()
            run.wait(30)
        resumed = processes.producer("resume", stage.out, "--broker", stage.broker, "--json")
        assert resumed.json()["success"] == 6
        assert server.most == 1
        stage.until_parked(0, server.key)
    assert len(processes.rows(stage.out)) == 6


def test_limit_from_a_file_counts_for_one_port(stage: Stage) -> None:
    """A table of `--host-limits` with a port limits this port."""
    limits = stage.folder / "limits.toml"
    with busy_server() as server:
        limits.write_text(f'["{server.key}"]\nconcurrency = 2\n')
        run = stage.run(server.urls(6), "--host-limits", str(limits))
        stage.until_parked(4, server.key)
        server.released.set()
        assert run.result(60).json()["success"] == 6
        assert server.most == 2


def test_limits_come_from_a_file_and_count_for_a_domain(stage: Stage) -> None:
    """`--host-limits` sets the limit of a host, and with `--per ip`, two names of one address share it."""
    limits = stage.folder / "limits.toml"
    limits.write_text('["127.0.0.1"]\nconcurrency = 2\n["localhost"]\nconcurrency = 2\n')
    with busy_server() as server:
        urls = server.urls(4) + [url.replace("127.0.0.1", "localhost") for url in server.urls(4, "?b")]
        run = stage.run(urls, "--host-limits", str(limits), "--per", "ip")
        stage.until_parked(6, server.key)
        server.released.set()
        assert run.result(60).json()["success"] == 8
        assert server.most == 2
