"""A server's wish for a long wait costs no slot: the task is sent again with a countdown, and is never lost by that."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis

from producer import tally
from tasks import presence
from tasks.celery import IMAGES
from tests.integration import parts

#: More than a worker of one slot has room for.
_WAITING = 20
_numbers = count(1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[redis.Redis]:
    """Give a client of a Redis of the test's own."""
    with parts.redis_server(tmp_path) as port, parts.connect(url_of(port)) as client:
        yield client


def url_of(port: int) -> str:
    """The broker URL of a Redis at a port of this machine."""
    return f"redis://127.0.0.1:{port}/0"


@contextmanager
def fleet(server: redis.Redis, folder: Path, *names: str) -> Iterator[list[parts.Background]]:
    """Keep workers of one slot each up, which take part of the test's Redis."""
    url = url_of(server.connection_pool.connection_kwargs["port"])
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                parts.worker(name, folder, url, folder, "127.0.0.1", "-c", "1", "-n", f"{name}@%h", "-E", "-l", "info")
            )
            for name in names
        ]


@contextmanager
def running(server: redis.Redis, folder: Path, urls: list[str], *options: str) -> Iterator[parts.Background]:
    """Keep a run of these URLs up that holds no slot for any wait."""
    (folder / "list").write_text("\n".join(urls))
    url = url_of(server.connection_pool.connection_kwargs["port"])
    words: list[str | Path] = [
        "run",
        folder / "list",
        "--out",
        folder / "out",
        "--broker",
        url,
        "--json",
        "--max-wait",
        "0",
        *options,
    ]
    with parts.started("producer", parts.command(words), folder) as producer:
        yield producer


def waiting(server: redis.Redis) -> list[dict[str, Any]]:
    """The messages with a countdown that are in a worker's hands."""
    records: list[str] = []
    for holder in presence.holders(server):
        values: Any = server.hvals(holder)
        records += values
    return [message for record in records if (message := json.loads(record)[0])["headers"].get("eta")]


def events(listener: Any) -> list[dict[str, Any]]:
    """What workers have told of tasks since the last look."""
    found: list[dict[str, Any]] = []
    while (told := listener.get_message(timeout=0.1)) is not None:
        body = json.loads(base64.b64decode(json.loads(told["data"])["body"])) if told["type"] == "pmessage" else []
        found += body if isinstance(body, list) else [body]
    return [event for event in found if event["type"].startswith("task-")]


def refused_once(demo_url: str, after: int, images: int) -> list[str]:
    """URLs that are served at the second hit, each after a wait of so many seconds."""
    return [f"{demo_url}/fault/rate-limited-once?after={after}&number={next(_numbers)}" for _ in range(images)]


@pytest.mark.slow
def test_slot_is_free_while_images_wait(server: redis.Redis, demo_url: str, tmp_path: Path) -> None:
    """One slot has twenty images wait at once and does others meanwhile; each has one Outcome, with all attempts."""
    urls = refused_once(demo_url, 4, _WAITING) + [f"{demo_url}/images/{number}.jpg" for number in range(_WAITING)]
    with fleet(server, tmp_path, "only") as (worker,), running(server, tmp_path, urls) as producer:
        # Not in the slot: that would be 80 s.
        numbers = producer.wait(40).json()
        assert numbers["success"] == 2 * _WAITING
        assert "Retry in 4" in worker.err
    rows = parts.rows(tmp_path / "out")
    assert [row["attempts"] for row in rows] == [2] * _WAITING + [1] * _WAITING
    first_back = min(row["finished_at"] for row in rows[:_WAITING])
    assert max(row["finished_at"] for row in rows[_WAITING:]) < first_back
    # The wait is no part of it.
    assert max(row["fetch_seconds"] for row in rows) < 4
    assert (parts.unacked_count(server), server.llen(IMAGES)) == (0, 0)
    assert not server.keys("celery-task-meta-*")


@pytest.mark.slow
def test_waiting_task_is_held_and_not_sent_again(server: redis.Redis, demo_url: str, tmp_path: Path) -> None:
    """A task under a countdown is the same part of the same chord, shows no secret, and is in nobody's eyes lost."""
    urls = [f"{url}&token=secret" for url in refused_once(demo_url, 14, 3)]
    untyped: Any = server
    listener = untyped.pubsub()
    listener.psubscribe("/0.celeryev*")
    with fleet(server, tmp_path, "only") as (worker,), running(server, tmp_path, urls) as producer:
        parts.eventually(lambda: len(waiting(server)) == 3, "three countdowns")
        messages = waiting(server)
        run_id = json.loads((tmp_path / "out" / "run.json").read_text())["id"]
        assert tally.held(server, run_id, presence.holders(server)) == {f"{run_id}.0000000{n}" for n in range(3)}
        for message in messages:
            headers, (args, kwargs, embed) = message["headers"], json.loads(base64.b64decode(message["body"]))
            assert headers["id"] == f"{run_id}.0000000{args[1]}"
            assert (headers["group"], headers["group_index"]) == (f"{run_id}.00000", args[1])
            assert (headers["retries"], headers["ignore_result"]) == (1, True)
            assert "token=***" in headers["argsrepr"]
            assert (kwargs["attempts"], args[2]) == (1, urls[args[1]])
            assert embed["chord"]["options"]["task_id"] == f"{run_id}.00000.collect"
        ended = producer.wait(60)
        assert ended.json()["success"] == 3
        # It was looked into after eight seconds.
        assert "are lost" not in ended.err
        assert "secret" not in worker.err
        told = events(listener)
        listener.close()
        assert [event["type"] for event in told].count("task-retried") == 3
        assert "secret" not in json.dumps(told)
    assert [row["attempts"] for row in parts.rows(tmp_path / "out")] == [2] * 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_worker_that_ends_hands_its_waiting_tasks_on(
    number: signal.Signals, server: redis.Redis, demo_url: str, tmp_path: Path
) -> None:
    """What a worker that is stopped or killed holds under a countdown is done by another, once."""
    urls = refused_once(demo_url, 8, 5)
    with fleet(server, tmp_path, "first") as (first,), running(server, tmp_path, urls) as producer:
        # Without the messages that they came from, whose acknowledgements wait for company.
        parts.eventually(lambda: len(waiting(server)) == parts.unacked_count(server) == 5, "five countdowns")
        first.process.send_signal(number)
        first.process.wait(15)
        if number == signal.SIGTERM:
            assert server.llen(IMAGES) == 5
        with fleet(server, tmp_path, "second"):
            ended = producer.wait(50)
        assert (ended.json()["success"], "are lost" in ended.err) == (5, False)
    assert [row["attempts"] for row in parts.rows(tmp_path / "out")] == [2] * 5


def test_countdowns_are_bounded(server: redis.Redis, demo_url: str, tmp_path: Path) -> None:
    """Who asks for a wait again and again is asked --retries times more; who asks for minutes, once."""
    urls = [f"{demo_url}/fault/rate-limited?after={after}" for after in (1, 121)]
    with fleet(server, tmp_path, "only"), running(server, tmp_path, urls, "--retries", "2") as producer:
        assert producer.wait(40).json()["reasons"] == {"rate_limited": 2}
    rows = parts.rows(tmp_path / "out")
    assert [row["attempts"] for row in rows] == [3, 1]
    assert [row["error_message"].partition(": ")[2] for row in rows] == [
        "asks for a wait of 1 s, more than 0",
        "asks for a wait of 121 s, more than 120",
    ]
