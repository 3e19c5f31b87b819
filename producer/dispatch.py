"""A run's shards as chords: sent as the plan grows, a window of them in flight, each watched until its manifest stands.

A chord is a task for each image and one for the shard. What ``chord().apply_async`` would send is sent here task by
task in batches of one producer, which is several times as fast; all ids follow from the run and the image, so that a
batch that failed half way can be sent again: Celery counts a chord's parts by their ids.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import redis
from celery import Signature
from kombu.exceptions import BatchPublishError, OperationalError

from config import bounds
from producer.sharding import Planner
from tasks import keys, manifest, plan
from tasks.celery import ABOUT, COLLECT_SHARD, FETCH_IMAGE, IMAGES, PROTOCOL, app
from tasks.errors import Fault
from tasks.model import ImageRequest, RunOptions, key_of, shard_name
from tasks.storage import Store
from tasks.urls import MAX_LENGTH, masked

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_BATCH = 500
_SERIALIZER, _PERSISTENT = "json", 2
#: Seconds that one wait for finished shards takes; also how often the listener hears of progress.
_TICK = 0.25
#: Seconds between two looks for manifests whose signal was lost.
_LOOK = 3.0
#: Seconds within which a manifest has to be seen here once a worker says that it stands.
_VISIBLE = 30.0
#: Seconds for which a Redis that is away is waited for.
_AWAY = 120.0
#: Seconds without any image after which the workers are asked whether they are there.
_STILL = 15.0
#: The longest URL in what Flower shows of a task, in characters.
_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. ``planned`` grows while ``plan_complete`` is false; counts are of images."""

    success: int
    failed: int
    bytes: int
    planned: int
    plan_complete: bool
    #: What a person should know when nothing moves.
    note: str = ""


@dataclass(slots=True)
class Timing:
    """When the first task was sent and when the last shard's manifest stood; seconds of the monotonic clock."""

    first_sent: float = 0.0
    last_done: float = 0.0

    @property
    def wall_seconds(self) -> float:
        """The time in between."""
        return self.last_done - self.first_sent


@dataclass(slots=True)
class _InFlight:
    """A shard that was sent; ``signalled`` is when a worker said that its manifest stands."""

    shard: int
    sent: float = field(default_factory=time.monotonic)
    signalled: float | None = None


class Dispatcher:
    """Sends one run and sees it through."""

    def __init__(self, run_id: str, options: RunOptions, store: Store, planner: Planner, server: redis.Redis) -> None:
        self._run_id, self._options = run_id, options
        self._store, self._planner, self._server = store, planner, server
        self._flying: dict[int, _InFlight] = {}
        self._looked = 0.0
        self._renewed = 0.0
        self._ended, self._moved, self._told = 0, time.monotonic(), ""
        #: Shards sent so far: the number of the next one.
        self._sent = 0

    def run(self, window: int, check: Callable[[], None], listener: Callable[[Progress], None]) -> Timing:
        """Send every shard of the plan and wait for all their manifests.

        Args:
            window: how many shards may be in flight.
            check: called again and again; it raises when the fleet is no more.
            listener: told how far the run is, a few times a second.

        Raises:
            Fault: the run can't go on. What is collected stays.
        """
        timing = Timing()
        try:
            self._guarded(self._connect, check)
            while not (self._planner.closed and not self._flying and self._sent == self._planner.shards):
                if self._can_send(window):
                    timing.first_sent = timing.first_sent or time.monotonic()
                    self._send(self._sent, check)
                # Between two shards it only looks: filling a large window takes longer than a shard may go unwatched.
                self._watch(timing, check, 0.0 if self._can_send(window) else _TICK)
                listener(self._progress())
            if self._planner.error is not None:
                raise self._planner.error
        finally:
            # Without its record, what is still queued of a run that ended early is dropped, unfetched.
            with suppress(redis.RedisError):
                self._server.delete(*keys.of_run(self._run_id))
        return timing

    def _can_send(self, window: int) -> bool:
        return len(self._flying) < window and self._sent < self._planner.shards

    def _watch(self, timing: Timing, check: Callable[[], None], seconds: float) -> None:
        """Look what shards have finished, and wait for one, or for the plan to grow, for at most these seconds."""
        check()
        self._guarded(self._renew_record, check)
        if not self._flying:
            self._planner.wait(self._sent, seconds)
            return
        for message in self._guarded(lambda: self._signals(seconds), check):
            shard = message["shard"]
            if "error" in message:
                raise Fault(
                    f"Shard {shard_name(shard)} could not be collected",
                    message["error"],
                    "Mend what is said there, and run again with another --out. Manifests that stand are whole.",
                )
            if shard in self._flying:
                self._flying[shard].signalled = time.monotonic()
        look_at_all = time.monotonic() - self._looked > _LOOK
        if look_at_all:
            self._looked = time.monotonic()
        for flying in list(self._flying.values()):
            if flying.signalled or look_at_all:
                self._land(flying, timing)

    def _land(self, flying: _InFlight, timing: Timing) -> None:
        """Take a shard out of the window if its manifest stands."""
        if self._store.exists(manifest.name(flying.shard)):
            del self._flying[flying.shard]
            timing.last_done = time.monotonic()
        elif flying.signalled and time.monotonic() - flying.signalled > _VISIBLE:
            raise Fault(
                f"The manifest of shard {shard_name(flying.shard)} is not to be seen",
                f"a worker says that it stands, and {self._store.root} does not hold it here",
                "Give workers and producer the same shared folder under the same path.",
            )

    def _signals(self, seconds: float) -> list[dict[str, Any]]:
        """Return what workers have told, and wait for the first to tell for at most these seconds."""
        key = keys.done(self._run_id)
        told: list[str] = []
        if seconds:
            first = cast("list[str] | None", self._server.blpop([key], timeout=seconds))
            if first is None:
                return []
            told.append(first[1])
        told += cast("list[str] | None", self._server.lpop(key, 1000)) or []
        return [json.loads(item) for item in told]

    def _progress(self) -> Progress:
        try:
            moved = cast("dict[str, str]", self._server.hgetall(keys.moved(self._run_id)))
        except redis.RedisError:
            moved = {}
        planned = self._planner.rows
        success, failed = int(moved.get("success", 0)), int(moved.get("failed", 0))
        size = int(moved.get("bytes", 0))
        note = self._note(success + failed)
        return Progress(min(success, planned), min(failed, planned), size, planned, self._planner.closed, note)

    def _note(self, ended: int) -> str:
        """Return what to tell when nothing has moved for a while: whether workers are there at all."""
        now = time.monotonic()
        if ended != self._ended or not self._flying:
            self._ended, self._moved, self._told = ended, now, ""
        elif now - self._moved > _STILL:
            self._moved = now
            self._told = _asked()
        return self._told

    def _connect(self) -> None:
        """Open the connections for messages and chords before the first task is sent, and so before the clock runs."""
        self._renew_record()
        with app.producer_or_acquire() as producer:
            producer.connection.ensure_connection(max_retries=1)
            producer.channel  # noqa: B018  # it is made when it is first asked for
        app.backend.client.ping()

    def _renew_record(self) -> None:
        """Put the run's options where workers read them, at the start and each hour."""
        if self._renewed and time.monotonic() - self._renewed < 3600:
            return
        record = json.dumps(self._options.to_json())
        self._server.set(keys.run(self._run_id), record, ex=bounds.RECORD_LIFETIME)
        self._renewed = time.monotonic()

    def _send(self, shard: int, check: Callable[[], None]) -> None:
        requests = plan.requests(plan.decode(self._store.read(plan.name(shard))))
        self._flying[shard] = _InFlight(shard)
        self._sent = shard + 1
        self._guarded(lambda: self._publish(shard, requests), check)

    def _publish(self, shard: int, requests: list[ImageRequest]) -> None:
        group = f"{self._run_id}.{shard_name(shard)}"
        body = dict(
            Signature(
                COLLECT_SHARD,
                kwargs={"run_id": self._run_id, "shard": shard},
                options={"task_id": f"{group}.collect"},
                app=app,
            )
        )
        app.backend.set_chord_size(group, len(requests))
        reply_to = app.thread_oid
        with app.producer_or_acquire() as producer, producer.batch(_BATCH):
            for place, request in enumerate(requests):
                offset = request.index - shard * self._options.shard_size
                # A URL that is too long is refused by the worker all the same: one character over the limit tells.
                url = request.url[: MAX_LENGTH + 1]
                task_id = f"{self._run_id}.{key_of(shard, offset, self._options.shard_size)}"
                # What `send_task` does, without asking anew for each image what holds for all: the route, the options.
                headers, properties, content, _ = app.amqp.as_task_v2(
                    task_id,
                    FETCH_IMAGE,
                    args=(self._run_id, request.index, url),
                    group_id=group,
                    group_index=place,
                    chord=body,
                    reply_to=reply_to,
                    ignore_result=True,
                    argsrepr=masked(url)[:_SHOWN],
                    kwargsrepr="{}",
                )
                producer.publish(
                    content,
                    exchange="",
                    routing_key=IMAGES,
                    serializer=_SERIALIZER,
                    headers=headers,
                    delivery_mode=_PERSISTENT,
                    **properties,
                )

    def _guarded(self, step: Callable[[], _T], check: Callable[[], None]) -> _T:
        """Do a step that needs Redis, and wait for a Redis that is away; steps may be done twice.

        Raises:
            Fault: it is away for too long.
        """
        ends = time.monotonic() + _AWAY
        while True:
            try:
                return step()
            except (redis.ConnectionError, redis.TimeoutError, OperationalError, BatchPublishError) as error:
                check()
                if time.monotonic() > ends:
                    raise Fault(
                        "Redis is away",
                        f"it has not answered for {_AWAY:.0f} s ({error})",
                        "Start it again, then run again with another --out. Manifests that stand are whole.",
                    ) from error
                _log.warning("waiting for Redis: %s", error)
                time.sleep(1)


def _asked() -> str:
    """Return what the workers say when nothing moves."""
    try:
        slots = online_workers()
    except (redis.RedisError, OperationalError) as error:
        # The connection that lay idle since the last question may have gone with a Redis that is back.
        return f"the workers can't be asked: {error}"
    if not slots:
        return "no worker answers: start one with `celery -A tasks worker`, or `docker compose up -d`"
    some = f"{len(slots)} workers answer" if len(slots) > 1 else "1 worker answers"
    return f"{some}; tasks of one that died are handed on within {bounds.HANDED_BACK} s"


def online_workers() -> list[int]:
    """Return the slots of each worker that answers within a second and takes what this version sends."""
    answers = app.control.broadcast(ABOUT, reply=True, timeout=1.0) or []
    workers = {name: about for answer in answers for name, about in answer.items()}
    others = {name: about for name, about in workers.items() if about.get("protocol") != PROTOCOL}
    if others:
        named = ", ".join(f"{name} ({about.get('version', 'unknown')})" for name, about in sorted(others.items()))
        _log.warning("workers of another version take nothing of this run: %s", named)
    return [about["slots"] for name, about in workers.items() if name not in others]
