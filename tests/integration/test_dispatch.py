"""The dispatcher sends each shard as a Celery chord until all manifests exist. A window limits the shards in flight."""

from __future__ import annotations

import base64
import gc
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from celery import chord

from config import limits
from config.locations import StoreUrl
from producer.dispatch import dispatcher as dispatcher_module
from producer.dispatch import progress_reader, run_record
from producer.dispatch.dispatcher import Dispatcher, DispatchOptions
from producer.dispatch.progress import Progress
from producer.dispatch.published_progress import read_progress
from producer.output import lease, lock
from producer.planning.planner import Planner
from tasks.broker import client as broker_client
from tasks.broker import keys
from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE, app
from tasks.download.urls import MAX_LENGTH
from tasks.errors import CommandError, RunInterruptedError, UsageError
from tasks.jobs import collect_shard, fetch_image
from tasks.model import ImageRequest, RunOptions
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.object_store import ObjectStore
from tasks.storage.store import Store
from tests.integration import processes
from tests.object_server import ObjectServer
from tests.waiting import PATIENCE, wait_for

_SHARD_SIZE = 2
_RUN_ID = "20260101-000000-abcdef"
_GROUP = f"{_RUN_ID}.00000"
_OPTIONS = RunOptions("/out", _SHARD_SIZE, run_id=_RUN_ID)
_SECRET_URL = "http://user:word@a.example/?token=x"


class StoppedError(Exception):
    """Raised by a test to end a run."""


class Sent(NamedTuple):
    """The messages of one shard, and the size and time to live (in seconds) of the shard's chord."""

    messages: list[dict[str, Any]]
    size: tuple[str, int]


@pytest.fixture(scope="module")
def connected(redis_url: str) -> Iterator[redis.Redis]:
    """Connect the app to the tests' Redis, and yield a client of this Redis."""
    with processes.app_with_broker(redis_url), broker_client.client(redis_url) as client:
        yield client
        gc.collect()  # garbage-collected results unsubscribe, and need the server for this
        app.backend.result_consumer.stop()
        app.backend.client.close()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Give an empty run folder."""
    return LocalStore(tmp_path)


@pytest.fixture
def server(connected: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    """Give an empty Redis, and let the dispatcher poll Redis often."""
    connected.flushall()
    monkeypatch.setattr(dispatcher_module, "_TICK_SECONDS", 0.01)
    return connected


def dispatcher(
    store: Store,
    server: redis.Redis,
    urls: Iterable[str],
    check: Callable[[], None] = lambda: None,
    window: int = 1,
) -> tuple[Dispatcher, Planner]:
    """Return a dispatcher for these URLs, and the dispatcher's planner."""
    requests = (ImageRequest(index, url) for index, url in enumerate(urls))
    planner = Planner(requests, store, _SHARD_SIZE, lambda rows, shards: None, _RUN_ID)
    planner.start()
    options = replace(_OPTIONS, out=store.location)
    return Dispatcher(options, store, planner, server, check, DispatchOptions(window)), planner


def run(job: Dispatcher) -> list[Progress]:
    """Run a dispatcher to its end; return the progress reports."""
    reports: list[Progress] = []
    job.run(reports.append)
    return reports


def stop() -> None:
    """End the calling run."""
    raise StoppedError


def take_messages(server: Any) -> list[dict[str, Any]]:
    """Remove the image messages from the queue.

    Return them in order of age with decoded bodies, the oldest message first.
    """
    messages = [json.loads(item) for item in server.lrange(IMAGE_QUEUE, 0, -1)[::-1]]
    server.delete(IMAGE_QUEUE)
    return [{**message, "body": json.loads(base64.b64decode(message["body"]))} for message in messages]


def finish(server: Any, store: LocalStore, shard: int, signal: bool = True) -> None:
    """Finish a shard as the workers do: write its manifest, and signal the producer."""
    store.create(manifest.name(shard), b"")
    if signal:
        server.rpush(keys.done(_RUN_ID), json.dumps({"shard": shard}))


@pytest.fixture
def sent_by_us(server: redis.Redis, store: LocalStore) -> Sent:
    """Give the dispatcher's messages for a shard."""
    job, planner = dispatcher(store, server, ["http://a.example/0", _SECRET_URL], stop)
    planner.wait(1, PATIENCE)
    with pytest.raises(StoppedError):
        run(job)
    return Sent(take_messages(server), size_of(server, _GROUP))


@pytest.fixture
def sent_by_celery(server: redis.Redis) -> Sent:
    """Give the messages of Celery's own chord for the same shard."""
    header = [
        fetch_image.s(_RUN_ID, index, url).set(task_id=f"{_RUN_ID}.00000{index}")
        for index, url in enumerate(["http://a.example/0", _SECRET_URL])
    ]
    body = collect_shard.s(run_id=_RUN_ID, shard=0).set(task_id=f"{_GROUP}.collect")
    chord(header, app=app)(body)
    messages = take_messages(server)
    group = messages[0]["headers"]["group"]
    return Sent(json.loads(json.dumps(messages).replace(group, _GROUP)), size_of(server, group))


def size_of(server: Any, group: str) -> tuple[str, int]:
    """Return a chord's size in Redis, and the chord's time to live in seconds."""
    key = app.backend.get_key_for_group(group, ".s")
    return server.get(key), server.ttl(key)


def test_first_task_removes_the_list_of_failures(store: LocalStore, server: redis.Redis) -> None:
    """The list of failures of an earlier command is removed before a manifest can change."""
    store.replace("failures.jsonl", b"old")
    job, _ = dispatcher(store, server, ["http://a.example/0"], lambda: stop() if job.has_sent else None)
    with pytest.raises(StoppedError):
        run(job)
    assert not store.exists("failures.jsonl")


def test_message_equals_that_of_a_celery_chord(sent_by_us: Sent, sent_by_celery: Sent) -> None:
    """For workers, the dispatcher's message equals the message of Celery's chord. Only fields for display differ."""
    assert len(sent_by_us.messages) == len(sent_by_celery.messages) == _SHARD_SIZE
    for mine, theirs in zip(sent_by_us.messages, sent_by_celery.messages, strict=True):
        shown = {"argsrepr", "origin"}
        for name in theirs["headers"].keys() - shown:
            assert (name, mine["headers"][name]) == (name, theirs["headers"][name])
        for name in theirs["properties"].keys() - {"delivery_tag", "reply_to"}:
            assert (name, mine["properties"][name]) == (name, theirs["properties"][name])
        (args, kwargs, embed), (their_args, their_kwargs, their_embed) = mine["body"], theirs["body"]
        assert (args, {**kwargs, "sent": None}) == (their_args, {**their_kwargs, "sent": None})
        assert embed.keys() == their_embed.keys()
        assert {name: embed[name] for name in ("callbacks", "errbacks", "chain")} == dict.fromkeys(
            ("callbacks", "errbacks", "chain")
        )


def test_chord_body_equals_that_of_a_celery_chord(sent_by_us: Sent, sent_by_celery: Sent) -> None:
    """The chord's body has the same task, arguments and id as Celery's body. The body needs no group and no reply."""
    for mine, theirs in zip(sent_by_us.messages, sent_by_celery.messages, strict=True):
        body, expected = mine["body"][2]["chord"], theirs["body"][2]["chord"]
        for option in ("reply_to", "group_id"):
            del expected["options"][option]
        assert body == expected


def test_chord_size_equals_that_of_a_celery_chord(sent_by_us: Sent, sent_by_celery: Sent) -> None:
    """The chord's size is in Redis in Celery's format."""
    assert sent_by_us.size == sent_by_celery.size
    assert sent_by_us.size[0] == str(_SHARD_SIZE)


def test_message_fields(sent_by_us: Sent) -> None:
    """An image's message has the documented values.

    The text that Flower displays for the message contains no secret.
    """
    headers, (args, kwargs, _) = sent_by_us.messages[1]["headers"], sent_by_us.messages[1]["body"]
    assert (args, list(kwargs)) == ([_RUN_ID, 1, _SECRET_URL], ["sent"])
    assert 0 <= time.time() - kwargs["sent"] < 60
    assert headers["task"] == "tasks.jobs.fetch_image"
    assert headers["id"] == f"{_RUN_ID}.000001"
    assert (headers["group"], headers["group_index"]) == (_GROUP, 1)
    assert headers["ignore_result"] is True
    assert (headers["retries"], headers["eta"], headers["expires"]) == (0, None, None)
    assert headers["argsrepr"] == "http://***@a.example/?token=***"
    assert headers["kwargsrepr"] == "{}"
    assert sent_by_us.messages[1]["properties"]["delivery_info"]["routing_key"] == IMAGE_QUEUE
    assert app.conf.task_routes[collect_shard.name] == {"queue": SHARD_QUEUE}


def test_truncates_a_too_long_url(server: redis.Redis, store: LocalStore) -> None:
    """If a URL is too long to be fetched, only enough characters are sent to show that it is too long."""
    job, planner = dispatcher(store, server, ["http://a.example/" + "b" * 1_000_000], stop)
    planner.wait(1, PATIENCE)
    with pytest.raises(StoppedError):
        run(job)
    (message,) = take_messages(server)
    assert len(message["body"][0][2]) == MAX_LENGTH + 1
    assert len(message["headers"]["argsrepr"]) <= 120


def test_checks_the_fleet_while_it_fills_the_window(store: LocalStore, server: redis.Redis) -> None:
    """The dispatcher checks the fleet after each sent shard, because a large window takes long to fill."""
    observed: list[int] = []

    def look() -> None:
        observed.append(server.llen(IMAGE_QUEUE))
        if len(observed) == 3:
            raise StoppedError

    urls = (f"http://a.example/{number}" for number in range(3 * _SHARD_SIZE))
    job, planner = dispatcher(store, server, urls, look, window=3)
    planner.wait(3, PATIENCE)
    with pytest.raises(StoppedError):
        run(job)
    assert observed == [_SHARD_SIZE, 2 * _SHARD_SIZE, 3 * _SHARD_SIZE]


def test_run_with_a_partly_read_list_is_interrupted(server: redis.Redis, store: LocalStore) -> None:
    """A run that is ended early counts as interrupted, even if all shards planned so far are done."""
    more = threading.Event()

    def slow() -> Iterator[str]:
        yield from ("http://a.example/0", "http://a.example/1")
        more.wait(PATIENCE)
        yield "http://a.example/2"

    def end() -> None:
        if planner.shards and not more.is_set() and job.has_sent:
            planner.stop()
            job.finish()
            more.set()
            wait_for(lambda: planner.closed)
            finish(server, store, 0)

    job, planner = dispatcher(store, server, slow(), end)
    with pytest.raises(RunInterruptedError):
        run(job)
    assert planner.was_stopped
    assert not store.exists(plan.name(1))


def test_early_end_does_not_wait_for_redis(
    server: redis.Redis, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a run ends early, it retries a failed Redis call only once, and does not wait for Redis."""
    job, _ = dispatcher(store, server, ["http://a.example/0"])
    monkeypatch.setattr("producer.dispatch.dispatcher.time.sleep", lambda _: None)
    failures = [redis.ConnectionError("away")]

    def step() -> int:
        if failures:
            raise failures.pop()
        return 7

    job.finish()
    assert job._with_redis(step) == 7
    failures += [redis.ConnectionError("away")] * 2
    with pytest.raises(RunInterruptedError):
        job._with_redis(step)


def test_window_bounds_the_shards_in_flight(server: redis.Redis, store: LocalStore) -> None:
    """The shards in flight never exceed the window, and the next shard replaces each finished shard."""
    in_flight: list[int] = []
    ended: list[int] = []

    def work() -> None:
        shards = sorted({int(message["headers"]["group"].rpartition(".")[2]) for message in take_messages(server)})
        in_flight.extend(shards)
        assert len(in_flight) <= 2
        if in_flight:
            ended.append(in_flight.pop(0))
            finish(server, store, ended[-1])

    job, _ = dispatcher(store, server, [f"http://a.example/{number}" for number in range(9)], work, window=2)
    reports = run(job)
    assert ended == [0, 1, 2, 3, 4]
    assert (reports[-1].planned, reports[-1].plan_complete) == (9, True)


def test_run_is_timed(server: redis.Redis, store: LocalStore) -> None:
    """The time of a run is measured from its first message to its last manifest."""
    job, _ = dispatcher(store, server, ["http://a.example/"], lambda: finish(server, store, 0))
    timing = job.run(lambda _: None)
    assert 0 < timing.first_sent < timing.last_done
    assert timing.wall_seconds == timing.last_done - timing.first_sent


def test_manifest_counts_without_its_signal(
    server: redis.Redis, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the completion signal of a shard is lost, the shard is done when the producer sees the shard's manifest."""
    monkeypatch.setattr(dispatcher_module, "_INSPECT_INTERVAL_SECONDS", 0.0)
    job, _ = dispatcher(store, server, ["http://a.example/"], lambda: finish(server, store, 0, signal=False))
    assert run(job)


def test_signal_does_not_count_without_its_manifest(
    server: redis.Redis, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A completion signal without a visible manifest is an error.

    Such a signal shows that the worker writes to another folder.
    """
    monkeypatch.setattr(dispatcher_module, "_MANIFEST_TIMEOUT_SECONDS", 0.03)
    job, _ = dispatcher(store, server, ["http://a.example/"])
    server.rpush(keys.done(_RUN_ID), json.dumps({"shard": 0}))
    with pytest.raises(CommandError, match="Manifest of shard 00000 not found") as caught:
        run(job)
    assert str(store.root) in str(caught.value)
    assert "shared folder" in caught.value.hint


def test_progress_comes_from_the_workers(server: redis.Redis, store: LocalStore) -> None:
    """The progress listener gets the sums that the workers report. They never add up to more than all images.

    A task that was delivered twice counts twice, usually as saved.
    """
    server.hset(keys.progress(_RUN_ID), mapping={"success": 5, "failed": 1, "bytes": 77})
    published: list[Progress] = []

    def work() -> None:
        if (progress := read_progress(server, _RUN_ID)) is not None:
            published.append(progress)
            for shard in (0, 1):
                finish(server, store, shard)

    job, _ = dispatcher(
        store, server, ["http://a.example/0", "http://a.example/1", "http://a.example/2"], work, window=2
    )
    reports = run(job)
    last = reports[-1]
    assert last.speed.seconds > 0.0
    # The dispatcher publishes its reports for `producer status`.
    assert published[-1] in reports
    expected = Progress(success=2, failed=1, bytes=77, planned=3, plan_complete=True)
    assert replace(last, speed=expected.speed, shards_in_flight=0) == expected


def test_run_record_exists_only_during_the_run(server: redis.Redis, store: LocalStore) -> None:
    """The run's options are in Redis with a time to live. All keys of the run are removed at the end of the run."""
    records: list[Any] = []

    def work() -> None:
        records.append((server.get(keys.run(_RUN_ID)), server.ttl(keys.run(_RUN_ID))))
        finish(server, store, 0)

    job, _ = dispatcher(store, server, ["http://a.example/"], work)
    run(job)
    record, seconds = records[-1]
    assert RunOptions.from_json(json.loads(record)) == replace(_OPTIONS, out=str(store.root))
    assert 0 < seconds <= limits.RUN_RECORD_TTL
    assert server.exists(*keys.run_keys(_RUN_ID)) == 0


def test_producer_without_its_lock_leaves_the_run_to_its_successor(
    server: redis.Redis, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After another producer has taken over the run, the first producer ends without deleting the new record."""
    monkeypatch.setattr(lease, "_RENEWAL_SECONDS", 0.02)
    store = ObjectStore(StoreUrl.parse("s3://bucket/run"))

    def check() -> None:
        object_server.buckets["bucket"]["run/.lock"] = b""
        wait_for(lambda: lease.successor(store) is not None)
        server.set(keys.run(_RUN_ID), "of the successor")
        lock.check_held(store)

    with lock.hold(store, None):
        job, _ = dispatcher(store, server, ["http://a.example/0"], check)
        with pytest.raises(CommandError, match="Another producer has taken over the run"):
            run(job)
    assert server.get(keys.run(_RUN_ID)) == "of the successor"


def test_restores_a_lost_run_record(server: redis.Redis, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer that only waits for shards restores a lost run record.

    The record is needed because workers drop the tasks of a run without a record.
    """
    monkeypatch.setattr(dispatcher_module, "_TICK_SECONDS", 0.2)
    monkeypatch.setattr(run_record, "_CHECK_INTERVAL_SECONDS", 0.3)
    observed: list[bool] = []

    def work() -> None:
        if len(observed) == 4:
            server.delete(keys.run(_RUN_ID))
        observed.append(bool(server.exists(keys.run(_RUN_ID))))
        if len(observed) == 12:
            finish(server, store, 0)

    job, planner = dispatcher(store, server, ["http://a.example/"], work)
    planner.wait(0, PATIENCE)
    run(job)
    assert not observed[4]
    assert observed[-1]


def test_collect_error_ends_the_run(server: redis.Redis, store: LocalStore) -> None:
    """An error of a collect task ends the run with the error's message.

    The run's record and its queued tasks are dropped.
    """
    job, _ = dispatcher(store, server, ["http://a.example/"])
    message = {"shard": 0, "error": "could not save 00000.parquet: No space left on device"}
    server.rpush(keys.done(_RUN_ID), json.dumps(message))
    with pytest.raises(CommandError, match=r"Shard 00000 could not be collected: could not save .*No space left"):
        run(job)
    assert server.exists(*keys.run_keys(_RUN_ID)) == 0


def test_finishes_the_plan_of_a_list_that_breaks_off(server: redis.Redis, store: LocalStore) -> None:
    """If the list can't be read to its end, the planned shards are finished before the error is raised."""

    def urls() -> Iterator[str]:
        yield from ["http://a.example/0", "http://a.example/1"]
        raise UsageError("The list can't be read", "it is gone", "Give another.")

    job, _ = dispatcher(store, server, urls(), lambda: finish(server, store, 0))
    with pytest.raises(UsageError, match="it is gone"):
        run(job)
    assert store.exists(manifest.name(0))


def test_notes_a_standstill_without_workers(
    server: redis.Redis, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there are no workers, the run reports that workers are missing, instead of waiting silently."""
    monkeypatch.setattr(progress_reader, "_IDLE_NOTICE_SECONDS", 0.0)
    job, _ = dispatcher(store, server, ["http://a.example/"])
    reports: list[Progress] = []

    def listen(progress: Progress) -> None:
        reports.append(progress)
        if progress.note:
            finish(server, store, 0)

    job.run(listen)
    assert any("waiting for 1 image; no worker responds" in progress.note for progress in reports)


def test_ends_a_run_that_can_save_nothing(server: redis.Redis, store: LocalStore) -> None:
    """A run ends after 200 images in a row could not be saved. One saved image resets this count."""
    sums = [(0, 199), (1, 200), (1, 399), (0, 10), (0, 209), (0, 210)]
    reports: list[int] = []

    def work() -> None:
        success, unsaved = sums[len(reports)]
        server.hset(keys.progress(_RUN_ID), mapping={"success": success, "failed": unsaved, "unsaved": unsaved})
        reports.append(unsaved)

    job, _ = dispatcher(store, server, ["http://a.example/"], work)
    with pytest.raises(CommandError, match="Workers can't save images") as caught:
        run(job)
    assert reports == [unsaved for _, unsaved in sums]
    assert "the last 200 images" in caught.value.why
    assert f"producer resume {store.root}" in caught.value.hint


def test_waits_out_a_temporary_redis_error(
    store: LocalStore, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis is full, its message is shown with the last progress, until Redis accepts the write."""
    job, _ = dispatcher(store, server, ["http://127.0.0.1/a"])
    reports: list[Progress] = []
    job._listener, job._last_progress = reports.append, Progress(3, 1, 77, 9, True)
    server.config_set("maxmemory", 1)

    def wait(_: float) -> None:
        server.config_set("maxmemory", 0)

    monkeypatch.setattr("producer.dispatch.dispatcher.time.sleep", wait)
    assert job._with_redis(lambda: server.set("key", "value"))
    (waiting,) = reports
    assert (waiting.success, waiting.planned) == (3, 9)
    assert "OOM command not allowed" in waiting.note
    assert "maxmemory" in waiting.note


def test_permanent_redis_error_ends_the_run(store: LocalStore, server: redis.Redis) -> None:
    """A permanent error ends the run at once. The error has Redis's message and the command to resume."""
    job, _ = dispatcher(store, server, ["http://127.0.0.1/a"])
    server.set("key", "no list")
    with pytest.raises(CommandError, match="Redis refuses a command: it answers: WRONGTYPE") as caught:
        job._with_redis(lambda: server.lpush("key", "value"))
    assert "producer resume" in caught.value.hint


def test_gives_up_on_a_temporary_redis_error(
    store: LocalStore, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the longest allowed outage, the run ends and can be resumed."""
    job, _ = dispatcher(store, server, ["http://127.0.0.1/a"])
    monkeypatch.setattr(dispatcher_module, "_REDIS_TIMEOUT_SECONDS", -1.0)
    server.config_set("maxmemory", 1)
    try:
        with pytest.raises(CommandError, match="Redis can't be used: for -1 s it has answered: OOM") as caught:
            job._with_redis(lambda: server.set("key", "value"))
    finally:
        server.config_set("maxmemory", 0)
    assert "Raise maxmemory" in caught.value.hint
    assert "producer resume" in caught.value.hint
