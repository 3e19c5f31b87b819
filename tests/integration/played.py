"""A fleet that a test plays, message by message, and a producer that goes one step at a time: all else is real.

The messages, the chords and the bodies are in a real Redis; the tasks are those of ``tasks/jobs.py``, with a downloader
that makes a picture up. What a worker holds is recorded as its transport records it.
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

from producer import dispatch, tally
from producer.dispatch import Dispatcher, Progress, Timing
from producer.sharding import NOTHING, Planned, Planner
from tasks import broker, jobs, keys, manifest, presence
from tasks.backend import Part, Unshown
from tasks.celery import IMAGES, SHARDS, app
from tasks.download import Download, Downloader
from tasks.errors import HttpRefused
from tasks.model import ImageRequest, Outcome, RunOptions, shard_name
from tasks.presence import Worker
from tasks.storage import Store
from tests.conditions import PATIENCE, wait_for
from tests.integration import parts

RUN_ID = "20260101-000000-abcdef"
#: The end of a URL that is refused at each try, and of one that is refused at every other.
REFUSED, FICKLE = "/refused", "/fickle"
#: What a chord's keys end with, but its claim.
_KINDS = (".j", ".t", ".s", ".d")


class Killed(BaseException):
    """Ends a producer where it stands."""


@dataclass(frozen=True)
class Held:
    """A message in a worker's hands."""

    worker: str
    tag: str
    queue: str
    message: dict[str, Any]

    @property
    def task_id(self) -> str:
        """The task's id."""
        return str(self.message["headers"]["id"])

    @property
    def body(self) -> Any:
        """Its arguments: a list, a mapping, and what Celery adds."""
        return json.loads(base64.b64decode(self.message["body"]))

    @property
    def index(self) -> int:
        """The place of its image in the Source."""
        return int(self.body[0][1])


class Hits(Downloader):
    """A downloader to which each hit serves another picture; it counts them by URL."""

    def __init__(self) -> None:
        self.hits: list[str] = []

    def download(self, url: str, *_: Any) -> Download:
        """Return a picture that was not served before."""
        self.hits.append(url)
        if url.endswith(REFUSED) or (url.endswith(FICKLE) and self.hits.count(url) % 2):
            raise HttpRefused("HTTP 404", http_status=404)
        return Download(_picture(len(self.hits)), 200, None, None, None)


def _picture(number: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (2, 1), (number & 255, number >> 8 & 255, 7)).save(sink, "PNG")
    return sink.getvalue()


class Fleet:
    """Workers whose every move is the test's."""

    def __init__(self, server: redis.Redis) -> None:
        """Take a client that decodes."""
        self.server = server
        self.downloader = Hits()
        self.held: list[Held] = []
        self._done: dict[str, Any] = {}
        self._tags = count()
        #: Happens once, when the producer has looked through the queues and not yet at what workers hold.
        self.meanwhile: Callable[[], None] | None = None

    def waiting(self, queue: str = IMAGES) -> list[dict[str, Any]]:
        """The messages that wait in a queue, the next one first."""
        return [json.loads(item) for item in self._queue(queue)]

    def take(self, queue: str = IMAGES, worker: str = "a") -> Held:
        """Let a worker take the next message of a queue."""
        name = worker_id(worker)
        raw = cast("str", self.server.rpop(queue))
        held = Held(name, f"{worker}-{next(self._tags)}", queue, json.loads(raw))
        self.server.sadd(keys.WORKERS, name)
        self.server.hset(keys.held(keys.UNACKED, name), held.tag, json.dumps([held.message, "", queue]))
        self.server.zadd(keys.held(keys.UNACKED_INDEX, name), {held.tag: 0})
        self.held.append(held)
        return held

    def do(self, held: Held) -> None:
        """Do what a message asks for, by the real task; what it returns is told to nobody yet."""
        if held.tag not in self._done:
            args, kwargs, _ = held.body
            task = jobs.collect_shard if held.queue == SHARDS else jobs.fetch_image
            task.push_request(id=held.task_id, delivery_info=held.message["properties"]["delivery_info"])
            try:
                done = task.run(*args, **kwargs)
            except jobs.CollectError:
                # Its producer was told.
                done = None
            finally:
                task.pop_request()
            self._done[held.tag] = done.value if isinstance(done, Unshown) else done

    def finish(self, held: Held) -> None:
        """Do what a message asks for, unless that is done, count its part, and acknowledge it."""
        self.do(held)
        if held.queue == IMAGES:
            self.count(held, self._done[held.tag])
        self.acknowledge(held)

    def count(self, held: Held, result: Any, state: str = "SUCCESS") -> None:
        """Count a part with this result, as the settler does."""
        headers = held.message["headers"]
        known = {name: headers[name] for name in ("task", "id", "root_id", "group", "group_index")}
        request = Context(known, chord=held.body[2]["chord"], called_directly=False)
        app.backend.count([Part(request, state, result, orjson.dumps([1, held.task_id, state, result]))])

    def acknowledge(self, held: Held) -> None:
        """Acknowledge a message."""
        self.held.remove(held)
        self.server.hdel(keys.held(keys.UNACKED, held.worker), held.tag)
        self.server.zrem(keys.held(keys.UNACKED_INDEX, held.worker), held.tag)

    def work(self, queues: Sequence[str] = (IMAGES, SHARDS)) -> int:
        """Do all that is held and that waits, as good workers do; return how many messages that were."""
        done = 0
        for held in [held for held in self.held if held.queue in queues]:
            self.finish(held)
            done += 1
        for queue in queues:
            while self.server.llen(queue):
                self.finish(self.take(queue))
                done += 1
        return done

    def crash(self, worker: str, lost: bool = False) -> None:
        """Let a worker die; what it held is handed back by another, or lost."""
        name = worker_id(worker)
        self.held = [held for held in self.held if held.worker != name]
        if lost:
            self.server.delete(keys.held(keys.UNACKED, name), keys.held(keys.UNACKED_INDEX, name))
        presence.hand_back_of_the_dead(self.server, [name])

    def lose(self, queue: str, place: int | None = None) -> None:
        """Lose one of the messages that wait, or all."""
        raws = self._queue(queue)
        self._put(queue, [] if place is None else [*raws[:place], *raws[place + 1 :]])

    def duplicate(self, queue: str, place: int) -> None:
        """Put a copy of a message that waits behind all others."""
        raws = self._queue(queue)
        self._put(queue, [*raws, raws[place]])

    def give_back(self, held: Held) -> None:
        """Let a message wait again that is not acknowledged, though it is done."""
        self.server.rpush(held.queue, json.dumps(held.message))

    def turn(self, queue: str) -> None:
        """Turn a queue round."""
        self._put(queue, self._queue(queue)[::-1])

    def under_way(self) -> Counter[str]:
        """How many messages of each task wait, or are in a worker's hands."""
        waiting = [message for queue in (IMAGES, SHARDS) for message in self.waiting(queue)]
        return Counter(message["headers"]["id"] for message in (*waiting, *(held.message for held in self.held)))

    def counts(self, shard: int) -> bool:
        """Whether a shard's chord counts parts: its size stands, and its body was not sent."""
        return self.server.exists(chord_key(shard, ".s")) == 1 and self.server.get(chord_key(shard, ".c")) != "done"

    def parts(self, shard: int, suffix: str = "") -> list[str]:
        """The tasks that are counted in a shard's chord."""
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
        """Let a worker claim a chord's body, and die before it sends it: whoever comes next finds it claimed."""
        self.server.set(chord_key(shard, ".c"), "of a worker that died", ex=60, nx=True)

    def claim_expires(self, shard: int) -> None:
        """Let that claim go."""
        if self.server.get(chord_key(shard, ".c")) != "done":
            self.server.delete(chord_key(shard, ".c"))

    def _queue(self, queue: str) -> list[str]:
        return cast("list[str]", self.server.lrange(queue, 0, -1))[::-1]

    def _put(self, queue: str, raws: Sequence[str]) -> None:
        self.server.delete(queue)
        if raws:
            self.server.lpush(queue, *raws)


def worker_id(worker: str) -> str:
    """A worker's id: of another host, so that nobody looks for its process."""
    return Worker(worker, "elsewhere", "boot.1", 1, "1").name


def chord_key(shard: int, kind: str, suffix: str = "") -> str:
    """The name of one of a chord's keys."""
    return cast("bytes", app.backend.get_key_for_group(f"{RUN_ID}.{shard_name(shard)}{suffix}", kind)).decode()


class _Mortal(Dispatcher):
    """A dispatcher that may be killed while it sends a shard."""

    #: How many of the messages that it sends next it has sent when it dies.
    last_words: int | None = None

    def _publish(
        self, shard: int, requests: Sequence[ImageRequest], sent: Sequence[ImageRequest], recover: bool = False
    ) -> None:
        super()._publish(shard, requests, sent[: self.last_words], recover)
        if self.last_words is not None:
            self.die()

    def die(self) -> None:
        """End as by SIGKILL: nothing is taken back."""
        self._server.delete = lambda *_: 0  # type: ignore[method-assign]
        raise Killed


class Producer:
    """A run's dispatcher that goes one step at a time, in the stage's thread."""

    def __init__(
        self,
        stage: Stage,
        store: Store,
        options: RunOptions,
        planner: Planner,
        window: int = 2,
        resumed: bool = False,
        retried: Sequence[str] = (),
    ) -> None:
        """Begin, and come to the first point at which it looks after the fleet, or to the end."""
        wait_for(lambda: planner.closed)
        self._go, self._came = threading.Semaphore(0), threading.Semaphore(0)
        self._killed = self._ending = False
        self._client = broker.client(stage.url)
        self.told: list[Progress] = []
        self.over = False
        options = replace(options, out=str(store.root))
        self._job = _Mortal(options, store, planner, self._client, resumed, retried)
        self._ended: Future[Timing] = stage.pool.submit(self._job.run, window, self._check, self.told.append)
        self._ended.add_done_callback(lambda _: self._end())
        stage.producers.append(self)
        self._wait()

    def step(self, times: int = 1) -> None:
        """Let it go on to the next look after the fleet, so many times, or to its end."""
        for _ in range(times):
            if not self.over:
                self._go.release()
                self._wait()

    def kill(self) -> None:
        """End it as SIGKILL does: it takes nothing back."""
        self._killed = True
        self.end()

    def kill_while_sending(self, messages: int) -> None:
        """Let SIGKILL end it when it sends next, after so many messages."""
        self._job.last_words = messages

    def end(self) -> None:
        """End it as an error does: its record is taken back."""
        self._ending = True
        self.step()

    @property
    def error(self) -> BaseException | None:
        """What it has ended with."""
        return self._ended.exception(PATIENCE)

    @property
    def timing(self) -> Timing:
        """What it has returned; what it has raised is raised here."""
        return self._ended.result(PATIENCE)

    def _check(self) -> None:
        self._came.release()
        self._go.acquire()
        if self._killed:
            self._job.die()
        if self._ending:
            raise Killed

    def _end(self) -> None:
        self.over = True
        self._client.close()
        self._came.release()

    def _wait(self) -> None:
        assert self._came.acquire(timeout=2 * PATIENCE), "the dispatcher does not come to its next step"


@dataclass(frozen=True)
class Stage:
    """Where it is played: a Redis, and the thread of the producers."""

    url: str
    server: redis.Redis
    pool: ThreadPoolExecutor
    #: Those that were begun there.
    producers: list[Producer] = field(default_factory=list)


@contextmanager
def stage(url: str) -> Iterator[Stage]:
    """Connect the app to a Redis, and let dispatchers look and doubt at once."""
    with (
        parts.app_with_broker(url),
        broker.client(url) as server,
        ThreadPoolExecutor(1) as pool,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("_TICK", "_LOOK", "_DOUBT", "_MOST_DOUBT"):
            patch.setattr(dispatch, name, 0.0)
        yield Stage(url, server, pool)
        gc.collect()  # results end their subscriptions when they are collected, and need the server for it
        _disconnect()
        pool.submit(_disconnect).result()


def _disconnect() -> None:
    app.backend.result_consumer.stop()
    app.backend.client.close()


@contextmanager
def fleet(stage: Stage) -> Iterator[Fleet]:
    """An empty Redis, and a fleet there."""
    stage.server.flushall()
    played = Fleet(stage.server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_server", lambda: stage.server)
        # What a worker takes from memory depends on the time.
        patch.setattr(jobs, "_runs", lambda: jobs.Runs(stage.server))
        patch.setattr(jobs, "_store", lambda out: Store(Path(out)))
        patch.setattr(jobs, "_downloader", lambda: played.downloader)
        patch.setattr(jobs, "_progress", lambda: SimpleNamespace(add=lambda run_id, outcome: None))
        patch.setattr(tally, "_queued", partial(_queued, played, tally._queued))
        try:
            yield played
        finally:
            while stage.producers:
                stage.producers.pop().end()


def _queued(played: Fleet, read: Callable[..., Iterator[Any]], server: redis.Redis, queue: str) -> Iterator[Any]:
    yield from read(server, queue)
    if queue == SHARDS and played.meanwhile is not None:
        meanwhile, played.meanwhile = played.meanwhile, None
        meanwhile()


def planner(store: Store, shard_size: int, urls: Sequence[str]) -> Planner:
    """Plan a run."""
    found = Planner(
        (ImageRequest(index, url) for index, url in enumerate(urls)), store, shard_size, lambda *_: None, RUN_ID
    )
    found.start()
    return found


def planned(store: Store, shard_size: int, rows: int) -> Planner:
    """The plan of a run that was planned by an earlier command."""
    planned = Planned(rows, -(-rows // shard_size)) if rows else NOTHING
    found = Planner(iter(()), store, shard_size, lambda *_: None, RUN_ID, planned)
    found.start()
    return found


def rows(store: Store, shard: int) -> list[Outcome]:
    """The Outcomes of a shard's manifest."""
    return list(manifest.outcomes(manifest.decode(store.read(manifest.name(shard)))))
