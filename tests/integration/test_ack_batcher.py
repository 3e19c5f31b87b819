"""Finished tasks are reported in batches. First, their chord parts are counted. Then, the tasks are acknowledged."""

from __future__ import annotations

import gc
import json
import logging
from base64 import b64decode
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from celery.app.task import Context
from celery.backends.redis import RedisBackend
from celery.worker import state

from tasks.broker import ack_batcher, backend
from tasks.broker import client as broker_client
from tasks.broker.backend import BatchingBackend
from tests.waiting import wait_for

_TASK, _GROUP, _SIZE = "tests.part", "group-1", 250


class Channel:
    """A channel that records when it sends acknowledgements to Redis."""

    def __init__(self, log: list[str]) -> None:
        self.qos = SimpleNamespace(flush=lambda: log.append("flush"))


class Message:
    """A message that records when it is acknowledged."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.headers = {"id": name}
        self._log, self.channel = log, Channel(log)

    def ack_log_error(self, *_: Any) -> None:
        """Record it."""
        self._log.append(f"ack {self.headers['id']}")


def test_acknowledges_a_message_after_counting_its_part() -> None:
    """If a worker dies between counting the chord parts and acknowledging the tasks, nothing is lost."""
    log: list[str] = []
    batcher = ack_batcher.AckBatcher(lambda parts: log.extend(f"count {part}" for part in parts))
    for name in ("a", "b"):
        batcher.add_part(name)
        batcher.acknowledge(Message(name, log))
    wait_for(lambda: not batcher.pending())
    for name in ("a", "b"):
        assert log.index(f"count {name}") < log.index(f"ack {name}") < len(log) - log[::-1].index("flush")


def test_uncounted_part_is_not_acknowledged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If a worker stops while Redis is unreachable, another worker gets its unacknowledged message."""
    monkeypatch.setattr(state, "should_stop", 0)

    def count(_: list[Any]) -> None:
        raise redis.ConnectionError("away")

    log: list[str] = []
    batcher = ack_batcher.AckBatcher(count)
    batcher.add_part("a")
    with caplog.at_level(logging.WARNING):
        batcher.acknowledge(Message("a", log))
        wait_for(lambda: not batcher.pending())
    assert log == []
    assert "could not acknowledge finished tasks: away" in caplog.text


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """Give an app that counts chord parts in batches, on an empty Redis."""
    with broker_client.client(redis_url) as server:
        server.flushall()
    before = (BatchingBackend.batched_tasks, ack_batcher.BatchedRequest.ack_batcher)
    found = Celery("settling", broker=redis_url, backend=redis_url, set_as_current=False)
    backend.install(found, frozenset([_TASK]))
    yield found
    gc.collect()  # garbage-collected results unsubscribe, and need the server for this
    BatchingBackend.batched_tasks, ack_batcher.BatchedRequest.ack_batcher = before


def part(place: int) -> Any:
    """Return Celery's context of a finished task, with the fields that chords need."""
    body = {"task": "tests.body", "args": [], "kwargs": {}, "options": {"task_id": "body-1"}, "immutable": False}
    ended = {"task": _TASK, "id": f"task-{place}", "root_id": "run-1", "group": _GROUP, "group_index": place}
    return Context(ended, chord=body, called_directly=False)


def test_sends_the_collect_task_once_with_all_results_in_order(app: Celery, redis_url: str) -> None:
    """The last part completes a chord, in whatever order the parts arrive and despite duplicates.

    The task of the last part is the parent of the chord's body.
    """

    @app.task(name="tests.body")  # type: ignore[untyped-decorator]  # Celery's
    def body(results: list[Any]) -> None:
        """This task never runs, and stays in its queue."""

    @app.task(name=_TASK)  # type: ignore[untyped-decorator]  # Celery's
    def header() -> None:
        """This task never runs, but the test reports it as finished."""

    app.backend.set_chord_size(_GROUP, _SIZE)
    sent: list[str] = []
    batcher = ack_batcher.BatchedRequest.ack_batcher
    for place in [*reversed(range(_SIZE)), 7, 7]:
        app.backend.on_chord_part_return(part(place), "SUCCESS", {"n": place})
        batcher.acknowledge(Message(f"task-{place}", sent))
    wait_for(lambda: not batcher.pending())
    with broker_client.client(redis_url) as server:
        bodies: Any = server.lrange("celery", 0, -1)
    (fired,) = bodies
    message = json.loads(fired)
    (results,), _, _ = json.loads(b64decode(message["body"]))
    assert results == [{"n": place} for place in range(_SIZE)]
    assert message["headers"]["parent_id"] in {f"task-{place}" for place in range(_SIZE)}
    assert message["headers"]["root_id"] == "run-1"
    assert len([line for line in sent if line.startswith("ack")]) == _SIZE + 2


def test_keeps_a_chord_in_celerys_format(app: Celery, redis_url: str) -> None:
    """Workers that count parts as Celery does and workers that count in our batches can share a chord."""
    odd = {"text": "\ud800", "n": 1}
    batcher = ack_batcher.BatchedRequest.ack_batcher
    plain = RedisBackend(url=redis_url.removeprefix("redis+"), app=app)
    groups = ("batched", "plain")
    for group, counting in zip(groups, (app.backend, plain), strict=True):
        counting.set_chord_size(group, _SIZE)
        for place in (0, 1, 1, 200):
            ended = part(place)
            ended.group = group
            counting.on_chord_part_return(ended, "SUCCESS", odd)
            batcher.acknowledge(Message(ended.id, []))
    wait_for(lambda: not batcher.pending())
    with broker_client.client(redis_url) as server:
        states: list[Any] = []
        for group in groups:
            keys = {kind: plain.get_key_for_group(group, kind).decode() for kind in (".j", ".t", ".s", ".d", "", ".c")}
            counted: Any = server.zrange(keys[".j"], 0, -1, withscores=True)
            states.append(
                (
                    [(json.loads(value), place) for value, place in counted],
                    server.smembers(keys[".d"]),
                    server.get(keys[".s"]),
                    {kind: (server.exists(key), server.ttl(key) // 60) for kind, key in keys.items()},
                )
            )
    assert states[0] == states[1]
    assert [place for _, place in states[0][0]] == [0, 1, 200]


def test_leaves_an_unordered_chord_to_celery(app: Celery, redis_url: str) -> None:
    """Celery keeps the parts of this chord in a list, and counts the parts itself."""
    app.conf.result_backend_transport_options = {"result_chord_ordered": False}
    app.backend.set_chord_size(_GROUP, _SIZE)
    for place in (2, 0):
        app.backend.on_chord_part_return(part(place), "SUCCESS", place)
    with broker_client.client(redis_url) as server:
        counted: Any = server.lrange(app.backend.get_key_for_group(_GROUP, ".j").decode(), 0, -1)
    assert [json.loads(value)[3] for value in counted] == [2, 0]


def test_resends_a_script_lost_by_redis(app: Celery, redis_url: str) -> None:
    """The first batch after a restart of Redis finds that its script is missing, and sends the script again."""
    app.backend.set_chord_size(_GROUP, _SIZE)
    with broker_client.client(redis_url) as server:
        server.script_flush()
        batcher = ack_batcher.BatchedRequest.ack_batcher
        log: list[str] = []
        app.backend.on_chord_part_return(part(0), "SUCCESS", {})
        batcher.acknowledge(Message("task-0", log))
        wait_for(lambda: not batcher.pending())
        assert "ack task-0" in log
        assert server.zcard(app.backend.get_key_for_group(_GROUP, ".j").decode()) == 1


def test_keys_of_a_chord_expire(app: Celery, redis_url: str) -> None:
    """All keys of a chord have a time to live, although some parts do not renew it."""
    app.backend.set_chord_size(_GROUP, _SIZE)
    batcher = ack_batcher.BatchedRequest.ack_batcher
    for place in range(3):
        app.backend.on_chord_part_return(part(place), "SUCCESS", {})
        batcher.acknowledge(Message(f"task-{place}", []))
    wait_for(lambda: not batcher.pending())
    with broker_client.client(redis_url) as server:
        for kind in (".j", ".d", ".s"):
            assert server.ttl(app.backend.get_key_for_group(_GROUP, kind).decode()) > 3600
