"""A shard's messages are those of a Celery chord, a window of them in flight, until each shard's manifest stands."""

from __future__ import annotations

import base64
import gc
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from celery import chord

from config import bounds
from producer import dispatch
from producer.dispatch import Dispatcher, Progress
from producer.sharding import Planner
from tasks import broker, keys, manifest, plan
from tasks.celery import IMAGES, SHARDS, app
from tasks.errors import Fault, Interrupted, UsageFault
from tasks.jobs import collect_shard, fetch_image
from tasks.model import ImageRequest, RunOptions
from tasks.storage import Store
from tasks.urls import MAX_LENGTH
from tests.conditions import PATIENCE, wait_for
from tests.integration import parts

_SHARD_SIZE = 2
_RUN_ID = "20260101-000000-abcdef"
_GROUP = f"{_RUN_ID}.00000"
_OPTIONS = RunOptions("/out", _SHARD_SIZE, run_id=_RUN_ID)
_SECRET_URL = "http://user:word@a.example/?token=x"


class Stopped(Exception):
    """Raised by a test to end a run."""


class Sent(NamedTuple):
    """The messages of one shard, and the size of its chord with its life time."""

    messages: list[dict[str, Any]]
    size: tuple[str, int]


@pytest.fixture(scope="module")
def connected(redis_url: str) -> Iterator[redis.Redis]:
    """The app, connected to the tests' Redis, and a client of it."""
    with parts.app_with_broker(redis_url), broker.client(redis_url) as client:
        yield client
        gc.collect()  # results end their subscriptions when they are collected, and need the server for it
        app.backend.result_consumer.stop()
        app.backend.client.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty run's folder."""
    return Store(tmp_path)


@pytest.fixture
def server(connected: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    """An empty Redis, and a dispatcher that looks at it often."""
    connected.flushall()
    monkeypatch.setattr(dispatch, "_TICK", 0.01)
    return connected


def dispatcher(store: Store, server: redis.Redis, urls: Iterable[str]) -> tuple[Dispatcher, Planner]:
    """A dispatcher of these URLs, and the planner it waits for."""
    requests = (ImageRequest(index, url) for index, url in enumerate(urls))
    planner = Planner(requests, store, _SHARD_SIZE, lambda rows, shards: None, _RUN_ID)
    planner.start()
    return Dispatcher(replace(_OPTIONS, out=str(store.root)), store, planner, server), planner


def run(job: Dispatcher, check: Callable[[], None], window: int = 1) -> list[Progress]:
    """See a run through; return what its listener was told."""
    told: list[Progress] = []
    job.run(window, check, told.append)
    return told


def stop() -> None:
    """End the run that asks."""
    raise Stopped


def taken(server: Any) -> list[dict[str, Any]]:
    """Take the messages for images out of their queue, the oldest first, with their bodies decoded."""
    messages = [json.loads(item) for item in server.lrange(IMAGES, 0, -1)[::-1]]
    server.delete(IMAGES)
    return [{**message, "body": json.loads(base64.b64decode(message["body"]))} for message in messages]


def finish(server: Any, store: Store, shard: int, signal: bool = True) -> None:
    """Do what the workers do at the end of a shard."""
    store.create(manifest.name(shard), b"")
    if signal:
        server.rpush(keys.done(_RUN_ID), json.dumps({"shard": shard}))


@pytest.fixture
def ours(server: redis.Redis, store: Store) -> Sent:
    """What the dispatcher sends for a shard."""
    job, planner = dispatcher(store, server, ["http://a.example/0", _SECRET_URL])
    planner.wait(1, PATIENCE)
    with pytest.raises(Stopped):
        run(job, stop)
    return Sent(taken(server), size_of(server, _GROUP))


@pytest.fixture
def celerys(server: redis.Redis) -> Sent:
    """What Celery's own chord sends for it."""
    header = [
        fetch_image.s(_RUN_ID, index, url).set(task_id=f"{_RUN_ID}.00000{index}")
        for index, url in enumerate(["http://a.example/0", _SECRET_URL])
    ]
    body = collect_shard.s(run_id=_RUN_ID, shard=0).set(task_id=f"{_GROUP}.collect")
    chord(header, app=app)(body)
    messages = taken(server)
    group = messages[0]["headers"]["group"]
    return Sent(json.loads(json.dumps(messages).replace(group, _GROUP)), size_of(server, group))


def size_of(server: Any, group: str) -> tuple[str, int]:
    """What Redis holds of a chord's size, and for how many seconds."""
    key = app.backend.get_key_for_group(group, ".s")
    return server.get(key), server.ttl(key)


def test_message_is_that_of_a_chord(ours: Sent, celerys: Sent) -> None:
    """In all that a worker reads, a message is the one that Celery's chord sends; only what is shown differs."""
    assert len(ours.messages) == len(celerys.messages) == _SHARD_SIZE
    for mine, theirs in zip(ours.messages, celerys.messages, strict=True):
        shown = {"argsrepr", "origin"}
        for name in theirs["headers"].keys() - shown:
            assert (name, mine["headers"][name]) == (name, theirs["headers"][name])
        for name in theirs["properties"].keys() - {"delivery_tag", "reply_to"}:
            assert (name, mine["properties"][name]) == (name, theirs["properties"][name])
        (args, kwargs, embed), (their_args, their_kwargs, their_embed) = mine["body"], theirs["body"]
        assert (args, kwargs) == (their_args, their_kwargs)
        assert embed.keys() == their_embed.keys()
        assert {name: embed[name] for name in ("callbacks", "errbacks", "chain")} == dict.fromkeys(
            ("callbacks", "errbacks", "chain")
        )


def test_body_is_that_of_a_chord(ours: Sent, celerys: Sent) -> None:
    """The chord's body is the same task with the same arguments and id; it needs no group and no reply."""
    for mine, theirs in zip(ours.messages, celerys.messages, strict=True):
        body, expected = mine["body"][2]["chord"], theirs["body"][2]["chord"]
        for option in ("reply_to", "group_id"):
            del expected["options"][option]
        assert body == expected


def test_size_is_that_of_a_chord(ours: Sent, celerys: Sent) -> None:
    """The chord's size stands in Redis as Celery writes it."""
    assert ours.size == celerys.size
    assert ours.size[0] == str(_SHARD_SIZE)


def test_message_in_full(ours: Sent) -> None:
    """What matters of a message, word for word; what Flower shows of it has no secret."""
    headers, (args, kwargs, _) = ours.messages[1]["headers"], ours.messages[1]["body"]
    assert (args, kwargs) == ([_RUN_ID, 1, _SECRET_URL], {})
    assert headers["task"] == "tasks.jobs.fetch_image"
    assert headers["id"] == f"{_RUN_ID}.000001"
    assert (headers["group"], headers["group_index"]) == (_GROUP, 1)
    assert headers["ignore_result"] is True
    assert (headers["retries"], headers["eta"], headers["expires"]) == (0, None, None)
    assert headers["argsrepr"] == "http://***@a.example/?token=***"
    assert headers["kwargsrepr"] == "{}"
    assert ours.messages[1]["properties"]["delivery_info"]["routing_key"] == IMAGES
    assert app.conf.task_routes[collect_shard.name] == {"queue": SHARDS}


def test_long_url_is_cut(server: redis.Redis, store: Store) -> None:
    """A URL that no worker will fetch is sent with just as many characters as tell so."""
    job, planner = dispatcher(store, server, ["http://a.example/" + "b" * 1_000_000])
    planner.wait(1, PATIENCE)
    with pytest.raises(Stopped):
        run(job, stop)
    (message,) = taken(server)
    assert len(message["body"][0][2]) == MAX_LENGTH + 1
    assert len(message["headers"]["argsrepr"]) <= 120


def test_window_is_watched_while_it_is_filled(store: Store, server: redis.Redis) -> None:
    """After each shard that is sent, the dispatcher looks at the fleet: a large window takes a while to fill."""
    job, planner = dispatcher(store, server, (f"http://a.example/{number}" for number in range(3 * _SHARD_SIZE)))
    planner.wait(3, PATIENCE)
    seen: list[int] = []

    def look() -> None:
        seen.append(server.llen(IMAGES))
        if len(seen) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(job, look, window=3)
    assert seen == [_SHARD_SIZE, 2 * _SHARD_SIZE, 3 * _SHARD_SIZE]


def test_run_whose_list_was_not_read_to_its_end_is_not_done(server: redis.Redis, store: Store) -> None:
    """A run that is to end early is interrupted, though all that was planned until then is done."""
    more = threading.Event()

    def slow() -> Iterator[str]:
        yield from ("http://a.example/0", "http://a.example/1")
        more.wait(PATIENCE)
        yield "http://a.example/2"

    job, planner = dispatcher(store, server, slow())

    def end() -> None:
        if planner.shards and not more.is_set() and job.has_sent:
            planner.stop()
            job.finish()
            more.set()
            wait_for(lambda: planner.closed)
            finish(server, store, 0)

    with pytest.raises(Interrupted):
        run(job, end)
    assert planner.cut
    assert not store.exists(plan.name(1))


def test_early_end_does_not_wait_for_redis(server: redis.Redis, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is told to end while Redis is away ends: it could hear of nothing more. One failure is no absence."""
    job, _ = dispatcher(store, server, ["http://a.example/0"])
    monkeypatch.setattr("producer.dispatch.time.sleep", lambda _: None)
    failures = [redis.ConnectionError("away")]

    def step() -> int:
        if failures:
            raise failures.pop()
        return 7

    job.finish()
    assert job._guarded(step, lambda: None) == 7
    failures += [redis.ConnectionError("away")] * 2
    with pytest.raises(Interrupted):
        job._guarded(step, lambda: None)


def test_window_bounds_what_is_in_flight(server: redis.Redis, store: Store) -> None:
    """Never more shards than the window are in flight, and each that ends lets the next one go."""
    flying: list[int] = []
    ended: list[int] = []

    def work() -> None:
        shards = sorted({int(message["headers"]["group"].rpartition(".")[2]) for message in taken(server)})
        flying.extend(shards)
        assert len(flying) <= 2
        if flying:
            ended.append(flying.pop(0))
            finish(server, store, ended[-1])

    job, _ = dispatcher(store, server, [f"http://a.example/{number}" for number in range(9)])
    told = run(job, work, window=2)
    assert ended == [0, 1, 2, 3, 4]
    assert (told[-1].planned, told[-1].plan_complete) == (9, True)


def test_run_is_timed(server: redis.Redis, store: Store) -> None:
    """The time of a run is from its first message to its last manifest."""
    job, _ = dispatcher(store, server, ["http://a.example/"])
    timing = job.run(1, lambda: finish(server, store, 0), lambda _: None)
    assert 0 < timing.first_sent < timing.last_done
    assert timing.wall_seconds == timing.last_done - timing.first_sent


def test_manifest_counts_without_its_signal(server: redis.Redis, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard whose signal was lost is done when its manifest is seen."""
    monkeypatch.setattr(dispatch, "_LOOK", 0.0)
    job, _ = dispatcher(store, server, ["http://a.example/"])
    assert run(job, lambda: finish(server, store, 0, signal=False))


def test_signal_does_not_count_without_its_manifest(
    server: redis.Redis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that says that a manifest stands, which is not to be seen here, writes somewhere else: that is told."""
    monkeypatch.setattr(dispatch, "_VISIBLE", 0.03)
    job, _ = dispatcher(store, server, ["http://a.example/"])
    server.rpush(keys.done(_RUN_ID), json.dumps({"shard": 0}))
    with pytest.raises(Fault, match="The manifest of shard 00000 is not to be seen") as caught:
        run(job, lambda: None)
    assert str(store.root) in str(caught.value)
    assert "shared folder" in caught.value.todo


def test_progress_is_what_the_workers_say(server: redis.Redis, store: Store) -> None:
    """The listener hears the workers' sums, never more images than there are."""
    server.hset(keys.moved(_RUN_ID), mapping={"success": 5, "failed": 1, "bytes": 77})
    job, _ = dispatcher(store, server, ["http://a.example/0", "http://a.example/1", "http://a.example/2"])

    def work() -> None:
        for shard in (0, 1):
            finish(server, store, shard)

    told = run(job, work, window=2)
    assert told[-1] == Progress(success=3, failed=1, bytes=77, planned=3, plan_complete=True)


def test_record_stands_while_the_run_goes_on(server: redis.Redis, store: Store) -> None:
    """Workers find a run's options in Redis, for a time, and nothing of the run when it is over."""
    records: list[Any] = []

    def work() -> None:
        records.append((server.get(keys.run(_RUN_ID)), server.ttl(keys.run(_RUN_ID))))
        finish(server, store, 0)

    job, _ = dispatcher(store, server, ["http://a.example/"])
    run(job, work)
    record, seconds = records[-1]
    assert RunOptions.from_json(json.loads(record)) == replace(_OPTIONS, out=str(store.root))
    assert 0 < seconds <= bounds.RECORD_LIFETIME
    assert server.exists(*keys.of_run(_RUN_ID)) == 0


def test_record_that_redis_has_lost_is_restored(
    server: redis.Redis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that does nothing but wait for shards puts it back: without it workers drop what they are sent."""
    monkeypatch.setattr(dispatch, "_TICK", 0.2)
    monkeypatch.setattr(dispatch, "_LOOK", 0.3)
    seen: list[bool] = []

    def work() -> None:
        if len(seen) == 4:
            server.delete(keys.run(_RUN_ID))
        seen.append(bool(server.exists(keys.run(_RUN_ID))))
        if len(seen) == 12:
            finish(server, store, 0)

    job, planner = dispatcher(store, server, ["http://a.example/"])
    planner.wait(0, PATIENCE)
    run(job, work)
    assert not seen[4]
    assert seen[-1]


def test_shard_that_can_not_be_collected_ends_the_run(server: redis.Redis, store: Store) -> None:
    """What a worker says went wrong with a shard is told, and what is queued is dropped with the run's record."""
    job, _ = dispatcher(store, server, ["http://a.example/"])
    message = {"shard": 0, "error": "could not save 00000.parquet: No space left on device"}
    server.rpush(keys.done(_RUN_ID), json.dumps(message))
    with pytest.raises(Fault, match=r"Shard 00000 could not be collected: could not save .*No space left"):
        run(job, lambda: None)
    assert server.exists(*keys.of_run(_RUN_ID)) == 0


def test_source_that_breaks_off_ends_the_run(server: redis.Redis, store: Store) -> None:
    """Where the Source can't be read to its end, what was planned is finished, and then the error is told."""

    def urls() -> Iterator[str]:
        yield from ["http://a.example/0", "http://a.example/1"]
        raise UsageFault("The list can't be read", "it is gone", "Give another.")

    job, _ = dispatcher(store, server, urls())
    with pytest.raises(UsageFault, match="it is gone"):
        run(job, lambda: finish(server, store, 0))
    assert store.exists(manifest.name(0))


def test_standstill_without_workers_is_told(server: redis.Redis, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that nobody works at says so, in place of waiting in silence."""
    monkeypatch.setattr(dispatch, "_STILL", 0.0)
    job, _ = dispatcher(store, server, ["http://a.example/"])
    told: list[Progress] = []

    def listen(progress: Progress) -> None:
        told.append(progress)
        if progress.note:
            finish(server, store, 0)

    job.run(1, lambda: None, listen)
    assert any("waiting for 1 image; no worker responds" in progress.note for progress in told)


def test_run_that_can_save_nothing_ends(server: redis.Redis, store: Store) -> None:
    """Two hundred images in a row that could not be saved end a run; one that was saved between them lets it go on."""
    job, _ = dispatcher(store, server, ["http://a.example/"])
    sums = [(0, 199), (1, 200), (1, 399), (0, 10), (0, 209), (0, 210)]
    told: list[int] = []

    def work() -> None:
        success, unsaved = sums[len(told)]
        server.hset(keys.moved(_RUN_ID), mapping={"success": success, "failed": unsaved, "unsaved": unsaved})
        told.append(unsaved)

    with pytest.raises(Fault, match="Nothing can be saved any more") as caught:
        run(job, work)
    assert told == [unsaved for _, unsaved in sums]
    assert "the last 200 images" in caught.value.why
    assert f"producer resume {store.root}" in caught.value.todo


def test_temporary_error_of_redis_is_waited_for(
    store: Store, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full Redis is told with its own words, in the place of what was told last, until it takes the write."""
    job, _ = dispatcher(store, server, ["http://127.0.0.1/a"])
    told: list[Progress] = []
    job._listener, job._shown = told.append, Progress(3, 1, 77, 9, True)
    server.config_set("maxmemory", 1)

    def wait(_: float) -> None:
        server.config_set("maxmemory", 0)

    monkeypatch.setattr("producer.dispatch.time.sleep", wait)
    assert job._guarded(lambda: server.set("key", "value"), lambda: None)
    (waiting,) = told
    assert (waiting.success, waiting.planned) == (3, 9)
    assert "OOM command not allowed" in waiting.note
    assert "maxmemory" in waiting.note


def test_lasting_error_of_redis_ends_the_run(store: Store, server: redis.Redis) -> None:
    """At once, with what Redis says and how the run goes on."""
    job, _ = dispatcher(store, server, ["http://127.0.0.1/a"])
    server.set("key", "no list")
    with pytest.raises(Fault, match="Redis refuses a command: it answers: WRONGTYPE") as caught:
        job._guarded(lambda: server.lpush("key", "value"), lambda: None)
    assert "producer resume" in caught.value.todo


def test_temporary_error_of_redis_is_not_waited_for_for_ever(
    store: Store, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time that an outage may take, the run ends and can be resumed."""
    job, _ = dispatcher(store, server, ["http://127.0.0.1/a"])
    monkeypatch.setattr(dispatch, "_AWAY", -1.0)
    server.config_set("maxmemory", 1)
    try:
        with pytest.raises(Fault, match="Redis can't be used: for -1 s it has answered: OOM") as caught:
            job._guarded(lambda: server.set("key", "value"), lambda: None)
    finally:
        server.config_set("maxmemory", 0)
    assert "Raise maxmemory" in caught.value.todo
    assert "producer resume" in caught.value.todo
