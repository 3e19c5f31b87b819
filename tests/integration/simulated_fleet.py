"""A simulated fleet. On a test's command, its workers handle messages one by one. Its producer runs in steps.

Everything else is real. Messages, chords and their collect tasks are in a real Redis. The tasks are those of
``tasks/jobs.py``, with a downloader that generates images. The fleet records a worker's unacknowledged messages in
Redis, as the real transport does.
"""

from __future__ import annotations

import base64
import gc
import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
import redis
from celery.app.task import Context
from PIL import Image

from producer.dispatch import chord_state, dispatcher, recovery, run_record
from producer.dispatch.dispatcher import Dispatcher, DispatchOptions
from producer.dispatch.progress import Progress, Timing
from producer.dispatch.publisher import ChordPublisher
from producer.planning.planner import NOTHING_PLANNED, Planner, PlanProgress
from tasks import jobs, worker
from tasks.broker import client as broker_client
from tasks.broker import keys, requeue
from tasks.broker.backend import ChordPart, UnloggedResult
from tasks.broker.liveness import WorkerId
from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE, app
from tasks.download.downloader import Download, Downloader
from tasks.errors import HttpClientError
from tasks.model import ImageRequest, Outcome, RunOptions, shard_name
from tasks.storage import manifest
from tasks.storage.local_store import LocalStore
from tests.integration import processes
from tests.waiting import PATIENCE, wait_for

RUN_ID = "20260101-000000-abcdef"
#: Two URL suffixes. URLs with the first suffix are refused at each attempt, and URLs with the second suffix at every
#: second attempt.
REFUSED, FLAKY = "/refused", "/flaky"
#: The suffixes of a chord's keys, without the suffix of the claim's key.
_KINDS = (".j", ".t", ".s", ".d")


class Killed(BaseException):
    """The exception that ends a producer at once."""


@dataclass(frozen=True)
class TakenMessage:
    """A message that a worker has taken but has not yet acknowledged."""

    worker: str
    tag: str
    queue: str
    message: dict[str, Any]

    @property
    def task_id(self) -> str:
        """Return the task's id."""
        return str(self.message["headers"]["id"])

    @property
    def body(self) -> Any:
        """Return the message's arguments: a list, a mapping, and Celery's additions."""
        return json.loads(base64.b64decode(self.message["body"]))

    @property
    def index(self) -> int:
        """Return the index of the message's image in the URL list."""
        return int(self.body[0][1])


class NumberedImages(Downloader):
    """A downloader that serves a new image to each request, and records the requested URLs."""

    def __init__(self) -> None:
        self.requested: list[str] = []

    def download(self, url: str, *_: Any) -> Download:
        """Return an image that differs from all earlier images."""
        self.requested.append(url)
        if url.endswith(REFUSED) or (url.endswith(FLAKY) and self.requested.count(url) % 2):
            raise HttpClientError("HTTP 404", http_status=404)
        return Download(_image(len(self.requested)), 200, None, None, None)


def _image(number: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (2, 1), (number & 255, number >> 8 & 255, 7)).save(sink, "PNG")
    return sink.getvalue()


class Fleet:
    """Workers that only do what a test commands."""

    def __init__(self, server: redis.Redis) -> None:
        """Take a client that decodes responses."""
        self.server = server
        self.downloader = NumberedImages()
        self.taken: list[TakenMessage] = []
        self._done: dict[str, Any] = {}
        self._tags = count()
        #: Is called once: after the producer has read the queues, and before it reads the unacknowledged messages.
        self.between_scans: Callable[[], None] | None = None

    def waiting(self, queue: str = IMAGE_QUEUE) -> list[dict[str, Any]]:
        """Return the messages of a queue in the order of delivery."""
        return [json.loads(item) for item in self._queue(queue)]

    def take(self, queue: str = IMAGE_QUEUE, worker: str = "a") -> TakenMessage:
        """Let a worker take the next message of a queue."""
        name = worker_id(worker)
        raw = cast("str", self.server.rpop(queue))
        taken = TakenMessage(name, f"{worker}-{next(self._tags)}", queue, json.loads(raw))
        self.server.sadd(keys.WORKERS, name)
        self.server.hset(keys.worker_key(keys.UNACKED, name), taken.tag, json.dumps([taken.message, "", queue]))
        self.server.zadd(keys.worker_key(keys.UNACKED_INDEX, name), {taken.tag: 0})
        self.taken.append(taken)
        return taken

    def execute(self, taken: TakenMessage) -> None:
        """Run a message's real task and keep its result, without reporting the result."""
        if taken.tag not in self._done:
            args, kwargs, _ = taken.body
            task = jobs.collect_shard if taken.queue == SHARD_QUEUE else jobs.fetch_image
            task.push_request(id=taken.task_id, delivery_info=taken.message["properties"]["delivery_info"])
            try:
                done = task.run(*args, **kwargs)
            except jobs.CollectError:
                # The task has already reported the error to its producer.
                done = None
            finally:
                task.pop_request()
            self._done[taken.tag] = done.value if isinstance(done, UnloggedResult) else done

    def finish(self, taken: TakenMessage) -> None:
        """Make sure that the task of a message has run, count the task's chord part, and acknowledge the message."""
        self.execute(taken)
        if taken.queue == IMAGE_QUEUE:
            self.count(taken, self._done[taken.tag])
        self.acknowledge(taken)

    def count(self, taken: TakenMessage, result: Any, state: str = "SUCCESS") -> None:
        """Count a chord part with this result, as the ack batcher does."""
        headers = taken.message["headers"]
        known = {name: headers[name] for name in ("task", "id", "root_id", "group", "group_index")}
        request = Context(known, chord=taken.body[2]["chord"], called_directly=False)
        app.backend.count([ChordPart(request, state, result, orjson.dumps([1, taken.task_id, state, result]))])

    def acknowledge(self, taken: TakenMessage) -> None:
        """Acknowledge a message."""
        self.taken.remove(taken)
        self.server.hdel(keys.worker_key(keys.UNACKED, taken.worker), taken.tag)
        self.server.zrem(keys.worker_key(keys.UNACKED_INDEX, taken.worker), taken.tag)

    def work(self, queues: Sequence[str] = (IMAGE_QUEUE, SHARD_QUEUE)) -> int:
        """Run the tasks of all taken and queued messages without a failure; return the number of messages."""
        done = 0
        for taken in [taken for taken in self.taken if taken.queue in queues]:
            self.finish(taken)
            done += 1
        for queue in queues:
            while self.server.llen(queue):
                self.finish(self.take(queue))
                done += 1
        return done

    def crash(self, worker: str, lost: bool = False) -> None:
        """Let a worker die. The dead worker's messages are either requeued by another worker or lost."""
        name = worker_id(worker)
        self.taken = [taken for taken in self.taken if taken.worker != name]
        if lost:
            self.server.delete(keys.worker_key(keys.UNACKED, name), keys.worker_key(keys.UNACKED_INDEX, name))
        requeue.requeue_from_dead_workers(self.server, [name])

    def lose(self, queue: str, place: int | None = None) -> None:
        """Delete one message of a queue, or all messages of the queue."""
        raws = self._queue(queue)
        self._put(queue, [] if place is None else [*raws[:place], *raws[place + 1 :]])

    def duplicate(self, queue: str, place: int) -> None:
        """Put a copy of a queued message at the end of its queue."""
        raws = self._queue(queue)
        self._put(queue, [*raws, raws[place]])

    def requeue(self, taken: TakenMessage) -> None:
        """Requeue an executed but unacknowledged message."""
        self.server.rpush(taken.queue, json.dumps(taken.message))

    def reverse(self, queue: str) -> None:
        """Reverse a queue."""
        self._put(queue, self._queue(queue)[::-1])

    def in_flight(self) -> Counter[str]:
        """Return the number of queued or taken messages of each task."""
        waiting = [message for queue in (IMAGE_QUEUE, SHARD_QUEUE) for message in self.waiting(queue)]
        return Counter(message["headers"]["id"] for message in (*waiting, *(taken.message for taken in self.taken)))

    def is_counting(self, shard: int) -> bool:
        """Return whether a shard's chord counts parts.

        A chord counts parts if its size is in Redis and the shard's collect task was not sent.
        """
        return self.server.exists(chord_key(shard, ".s")) == 1 and self.server.get(chord_key(shard, ".c")) != "done"

    def parts(self, shard: int, suffix: str = "") -> list[str]:
        """Return the ids of the tasks counted in a shard's chord."""
        entries = cast("list[str]", self.server.zrange(chord_key(shard, ".j", suffix), 0, -1))
        return [json.loads(entry)[1] for entry in entries]

    def lose_part(self, shard: int, place: int) -> None:
        """Let a chord forget one of its parts."""
        entries = cast("list[str]", self.server.zrange(chord_key(shard, ".j"), 0, -1))
        task_id = json.loads(entries[place])[1]
        self.server.zrem(chord_key(shard, ".j"), entries[place])
        for item in cast("set[str]", self.server.smembers(chord_key(shard, ".d"))):
            if item.startswith(f"{task_id}:"):
                self.server.srem(chord_key(shard, ".d"), item)

    def lose_parts(self, shard: int) -> None:
        """Let a chord forget all of its parts and its size."""
        self.server.delete(*(chord_key(shard, kind) for kind in _KINDS))

    def claim(self, shard: int) -> None:
        """Let a worker claim a chord's collect task and die before it sends the task.

        Later workers find that the collect task is claimed.
        """
        self.server.set(chord_key(shard, ".c"), "of a dead worker", ex=60, nx=True)

    def claim_expires(self, shard: int) -> None:
        """Let that claim expire."""
        if self.server.get(chord_key(shard, ".c")) != "done":
            self.server.delete(chord_key(shard, ".c"))

    def _queue(self, queue: str) -> list[str]:
        return cast("list[str]", self.server.lrange(queue, 0, -1))[::-1]

    def _put(self, queue: str, raws: Sequence[str]) -> None:
        self.server.delete(queue)
        if raws:
            self.server.lpush(queue, *raws)


def worker_id(worker: str) -> str:
    """Return a worker id that names another host, so that no one checks the worker's process."""
    return WorkerId(worker, "elsewhere", "boot.1", 1, "1").name


def chord_key(shard: int, kind: str, suffix: str = "") -> str:
    """Return the name of a key that belongs to a shard's chord."""
    return cast("bytes", app.backend.get_key_for_group(f"{RUN_ID}.{shard_name(shard)}{suffix}", kind)).decode()


class _KillablePublisher(ChordPublisher):
    """A publisher for a dispatcher. A test can kill the dispatcher."""

    #: The number of further messages to send before the dispatcher dies.
    dies_after: int | None = None

    def __init__(self, options: RunOptions, die: Callable[[], None]) -> None:
        super().__init__(options)
        self._die = die

    def publish(
        self, shard: int, requests: Sequence[ImageRequest], sent: Sequence[ImageRequest], recover: bool = False
    ) -> None:
        super().publish(shard, requests, sent[: self.dies_after], recover)
        if self.dies_after is not None:
            self._die()


class _KillableDispatcher(Dispatcher):
    """A dispatcher that a test can kill while it sends a shard."""

    def __init__(self, options: RunOptions, *args: Any) -> None:
        super().__init__(options, *args)
        self.publisher = self._publisher = self._recovery._publisher = _KillablePublisher(options, self.die)

    def die(self) -> None:
        """End the producer without a clean-up, as SIGKILL does."""
        self._server.delete = lambda *_: 0  # type: ignore[method-assign]
        raise Killed


class Producer:
    """The dispatcher of a run. It runs step by step in the stage's thread."""

    def __init__(
        self,
        stage: Stage,
        store: LocalStore,
        options: RunOptions,
        planner: Planner,
        window: int = 2,
        resumed: bool = False,
        retried: Sequence[str] = (),
    ) -> None:
        """Start the producer, and run it until it ends or checks the fleet for the first time."""
        wait_for(lambda: planner.closed)
        self._go, self._came = threading.Semaphore(0), threading.Semaphore(0)
        self._killed = self._ending = False
        self._client = broker_client.client(stage.url)
        self.reports: list[Progress] = []
        self.ended = False
        options = replace(options, out=str(store.root))
        dispatch = DispatchOptions(window, resumed=resumed, retried=retried)
        self._job = _KillableDispatcher(options, store, planner, self._client, self._check, dispatch)
        self._future: Future[Timing] = stage.pool.submit(self._job.run, self.reports.append)
        self._future.add_done_callback(lambda _: self._end())
        stage.producers.append(self)
        self._wait()

    def step(self, times: int = 1) -> None:
        """Continue until the producer has checked the fleet this many times, or until it ends."""
        for _ in range(times):
            if not self.ended:
                self._go.release()
                self._wait()

    def kill(self) -> None:
        """End the producer as SIGKILL does, without cleaning up."""
        self._killed = True
        self.end()

    def kill_while_sending(self, messages: int) -> None:
        """Let the producer die, as if by SIGKILL, after it has sent this many further messages."""
        self._job.publisher.dies_after = messages

    def end(self) -> None:
        """End the producer by an error after which the producer removes the run's record."""
        self._ending = True
        self.step()

    @property
    def error(self) -> BaseException | None:
        """Return the producer's exception, or None if it ended without an exception."""
        return self._future.exception(PATIENCE)

    @property
    def timing(self) -> Timing:
        """Return the producer's result, or raise its exception."""
        return self._future.result(PATIENCE)

    def _check(self) -> None:
        self._came.release()
        self._go.acquire()
        if self._killed:
            self._job.die()
        if self._ending:
            raise Killed

    def _end(self) -> None:
        self.ended = True
        self._client.close()
        self._came.release()

    def _wait(self) -> None:
        assert self._came.acquire(timeout=2 * PATIENCE), "the dispatcher does not reach its next step"


@dataclass(frozen=True)
class Stage:
    """A Redis, and the thread in which the producers run."""

    url: str
    server: redis.Redis
    pool: ThreadPoolExecutor
    #: The producers started on this stage.
    producers: list[Producer] = field(default_factory=list)


@contextmanager
def stage(url: str) -> Iterator[Stage]:
    """Connect the app to a Redis, and let dispatchers inspect shards without delay."""
    with (
        processes.app_with_broker(url),
        broker_client.client(url) as server,
        ThreadPoolExecutor(1) as pool,
        pytest.MonkeyPatch.context() as patch,
    ):
        for module, names in (
            (dispatcher, ("_TICK_SECONDS", "_INSPECT_INTERVAL_SECONDS")),
            (recovery, ("_SUSPECT_AFTER_SECONDS", "_MAX_SUSPECT_AFTER_SECONDS")),
            (run_record, ("_CHECK_INTERVAL_SECONDS",)),
        ):
            for name in names:
                patch.setattr(module, name, 0.0)
        yield Stage(url, server, pool)
        gc.collect()  # garbage-collected results unsubscribe, and need the server for this
        _disconnect()
        pool.submit(_disconnect).result()


def _disconnect() -> None:
    app.backend.result_consumer.stop()
    app.backend.client.close()


@contextmanager
def fleet(stage: Stage) -> Iterator[Fleet]:
    """Empty Redis, and yield a fleet at this Redis."""
    stage.server.flushall()
    played = Fleet(stage.server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "redis_client", lambda: stage.server)
        # The worker's cache is off, because it would make results depend on time.
        patch.setattr(worker, "run_cache", lambda: worker.RunCache(stage.server))
        patch.setattr(worker, "store", lambda out: LocalStore(Path(out)))
        patch.setattr(worker, "downloader", lambda: played.downloader)
        patch.setattr(worker, "progress", lambda: SimpleNamespace(add=lambda run_id, outcome: None))
        patch.setattr(chord_state, "_queue_messages", partial(_queued, played, chord_state._queue_messages))
        try:
            yield played
        finally:
            while stage.producers:
                stage.producers.pop().end()


def _queued(played: Fleet, read: Callable[..., Iterator[Any]], server: redis.Redis, queue: str) -> Iterator[Any]:
    yield from read(server, queue)
    if queue == SHARD_QUEUE and played.between_scans is not None:
        between_scans, played.between_scans = played.between_scans, None
        between_scans()


def planner(store: LocalStore, shard_size: int, urls: Sequence[str]) -> Planner:
    """Plan a run."""
    found = Planner(
        (ImageRequest(index, url) for index, url in enumerate(urls)), store, shard_size, lambda *_: None, RUN_ID
    )
    found.start()
    return found


def earlier_plan(store: LocalStore, shard_size: int, rows: int) -> Planner:
    """Return the finished plan of an earlier command."""
    planned = PlanProgress(rows, -(-rows // shard_size)) if rows else NOTHING_PLANNED
    found = Planner(iter(()), store, shard_size, lambda *_: None, RUN_ID, planned)
    found.start()
    return found


def rows(store: LocalStore, shard: int) -> list[Outcome]:
    """Return the Outcomes of a shard's manifest."""
    return list(manifest.outcomes(manifest.decode(store.read(manifest.name(shard)))))
