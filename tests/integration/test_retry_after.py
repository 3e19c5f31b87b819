"""A long Retry-After occupies no slot, because the task is queued again with a countdown. The task never gets lost."""

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

from producer.dispatch import chord_state
from tasks.broker import requeue
from tasks.celery import IMAGE_QUEUE
from tests.integration import processes

#: There are more images than a worker with one slot takes in advance.
_WAITING = 20
_numbers = count(1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[redis.Redis]:
    """Give a client of a Redis for this test alone."""
    with processes.redis_server(tmp_path) as port, processes.connect(broker_url(port)) as client:
        yield client


def broker_url(port: int) -> str:
    """Return the broker URL of a Redis at a port of this machine."""
    return f"redis://127.0.0.1:{port}/0"


@contextmanager
def fleet(server: redis.Redis, folder: Path, *names: str) -> Iterator[list[processes.Background]]:
    """Run workers at the test's Redis. Each worker has one slot."""
    url = broker_url(server.connection_pool.connection_kwargs["port"])
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                processes.worker(
                    name, folder, url, folder, "127.0.0.1", "-c", "1", "-n", f"{name}@%h", "-E", "-l", "info"
                )
            )
            for name in names
        ]


@contextmanager
def running(server: redis.Redis, folder: Path, urls: list[str], *options: str) -> Iterator[processes.Background]:
    """Run these URLs with --max-retry-after 0, so that no wait occupies a slot."""
    (folder / "list").write_text("\n".join(urls))
    url = broker_url(server.connection_pool.connection_kwargs["port"])
    words: list[str | Path] = [
        "run",
        folder / "list",
        "--out",
        folder / "out",
        "--broker",
        url,
        "--json",
        "--max-retry-after",
        "0",
        # Without this option, the host of the images would rest, and its images would be parked.
        "--no-adaptive",
        *options,
    ]
    with processes.started("producer", processes.command(words), folder) as producer:
        yield producer


def waiting(server: redis.Redis) -> list[dict[str, Any]]:
    """Return the unacknowledged messages with a countdown."""
    records: list[str] = []
    for holder in requeue.unacked_hashes(server):
        values: Any = server.hvals(holder)
        records += values
    return [message for record in records if (message := json.loads(record)[0])["headers"].get("eta")]


def events(listener: Any) -> list[dict[str, Any]]:
    """Return the task events that have come since the last call."""
    found: list[dict[str, Any]] = []
    while (message := listener.get_message(timeout=0.1)) is not None:
        body = (
            json.loads(base64.b64decode(json.loads(message["data"])["body"])) if message["type"] == "pmessage" else []
        )
        found += body if isinstance(body, list) else [body]
    return [event for event in found if event["type"].startswith("task-")]


def refused_once(demo_url: str, after: int, images: int) -> list[str]:
    """Return URLs that answer 429 once and then serve an image.

    The answer 429 has this Retry-After in seconds.
    """
    return [f"{demo_url}/fault/rate-limited-once?after={after}&number={next(_numbers)}" for _ in range(images)]


@pytest.mark.slow
def test_slot_is_free_while_images_wait(server: redis.Redis, demo_url: str, tmp_path: Path) -> None:
    """One slot downloads other images while twenty images wait. Each image has one Outcome with all attempts."""
    urls = refused_once(demo_url, 4, _WAITING) + [f"{demo_url}/images/{number}.jpg" for number in range(_WAITING)]
    with fleet(server, tmp_path, "only") as (worker,), running(server, tmp_path, urls) as producer:
        # Waiting in the slot would take 80 s in all.
        numbers = producer.wait(40).json()
        assert numbers["success"] == 2 * _WAITING
        assert "Retry in 4" in worker.err
    rows = processes.rows(tmp_path / "out")
    assert [row["attempts"] for row in rows] == [2] * _WAITING + [1] * _WAITING
    first_back = min(row["finished_at"] for row in rows[:_WAITING])
    assert max(row["finished_at"] for row in rows[_WAITING:]) < first_back
    # The wait does not count as fetch time.
    assert max(row["fetch_seconds"] for row in rows) < 4
    assert (processes.unacked_count(server), server.llen(IMAGE_QUEUE)) == (0, 0)
    assert not server.keys("celery-task-meta-*")


@pytest.mark.slow
def test_waiting_task_does_not_count_as_lost(server: redis.Redis, demo_url: str, tmp_path: Path) -> None:
    """A task with a countdown stays the same part of its chord. The task displays no secret, and is not resent."""
    urls = [f"{url}&token=secret" for url in refused_once(demo_url, 14, 3)]
    untyped: Any = server
    listener = untyped.pubsub()
    listener.psubscribe("/0.celeryev*")
    with fleet(server, tmp_path, "only") as (worker,), running(server, tmp_path, urls) as producer:
        processes.eventually(lambda: len(waiting(server)) == 3, "three countdowns")
        messages = waiting(server)
        run_id = json.loads((tmp_path / "out" / "run.json").read_text())["id"]
        assert chord_state.pending_task_ids(server, run_id, requeue.unacked_hashes(server)) == {
            f"{run_id}.0000000{n}" for n in range(3)
        }
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
        # The producer inspected the shard after eight idle seconds.
        assert "lost tasks" not in ended.err
        assert "secret" not in worker.err
        task_events = events(listener)
        listener.close()
        assert [event["type"] for event in task_events].count("task-retried") == 3
        assert "secret" not in json.dumps(task_events)
    assert [row["attempts"] for row in processes.rows(tmp_path / "out")] == [2] * 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_waiting_tasks_of_an_ended_worker_are_requeued(
    number: signal.Signals, server: redis.Redis, demo_url: str, tmp_path: Path
) -> None:
    """If a worker is stopped or killed, each of its waiting tasks is executed once by another worker."""
    urls = refused_once(demo_url, 8, 5)
    with fleet(server, tmp_path, "first") as (first,), running(server, tmp_path, urls) as producer:
        # Count only messages with a countdown, because the original messages of these tasks are acknowledged later, in
        # batches.
        processes.eventually(lambda: len(waiting(server)) == processes.unacked_count(server) == 5, "five countdowns")
        first.process.send_signal(number)
        first.process.wait(15)
        if number == signal.SIGTERM:
            assert server.llen(IMAGE_QUEUE) == 5
        with fleet(server, tmp_path, "second"):
            ended = producer.wait(50)
        assert (ended.json()["success"], "are lost" in ended.err) == (5, False)
    assert [row["attempts"] for row in processes.rows(tmp_path / "out")] == [2] * 5


def test_countdowns_are_bounded(server: redis.Redis, demo_url: str, tmp_path: Path) -> None:
    """If each answer has a Retry-After, the first attempt is followed by ``--retries`` further attempts.

    If a Retry-After asks for minutes, no attempt follows.
    """
    urls = [f"{demo_url}/fault/rate-limited?after={after}" for after in (1, 121)]
    with fleet(server, tmp_path, "only"), running(server, tmp_path, urls, "--retries", "2") as producer:
        assert producer.wait(40).json()["reasons"] == {"rate_limited": 2}
    rows = processes.rows(tmp_path / "out")
    assert [row["attempts"] for row in rows] == [3, 1]
    assert [row["error_message"].partition(": ")[2] for row in rows] == [
        "the server requests a wait of 1 s, more than the limit of 0 s",
        "the server requests a wait of 121 s, more than the limit of 120 s",
    ]
