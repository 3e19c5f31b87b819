"""A run's shards as chords: sent as the plan grows, a window of them in flight, each watched until its manifest stands.

A chord is how results arrive, and not the proof that they did. A shard that stands still is looked into
(``producer/dispatch/chord_state.py``): what has neither an Outcome nor a message any more is sent again, under the same
ids. A shard that is lost again and again ends with what it has.

A chord is a task for each image and one for the shard. What ``chord().apply_async`` would send is sent here task by
task in batches of one producer, which is several times as fast; all ids follow from the run and the image, so that a
batch that failed half way can be sent again: Celery counts a chord's parts by their ids.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import redis
from celery import Signature
from kombu.exceptions import BatchPublishError, OperationalError

from config import limits
from producer.dispatch import chord_state
from producer.dispatch.drain import Drain
from producer.dispatch.unfit_workers import UnfitWorker, UnfitWorkers
from producer.output.run_file import resume_command
from producer.output.shard_files import load_manifest, load_requests
from producer.planning.planner import Planner
from tasks.broker import keys, liveness, requeue, transport
from tasks.broker.progress import REASON
from tasks.broker.redis_errors import RedisProblem, redis_problem
from tasks.celery import COLLECT_SHARD, FETCH_IMAGE, IMAGE_QUEUE, PROTOCOL, SHARD_QUEUE, WORKER_INFO, app
from tasks.collect import STALE_VOID_REASONS, VOID_REASONS
from tasks.download.urls import MAX_LENGTH
from tasks.errors import CommandError, RunInterruptedError, TaskLostError
from tasks.fetch import failed_outcome
from tasks.model import ImageRequest, Outcome, RunOptions, image_key, shard_name
from tasks.redaction import redacted
from tasks.storage import manifest, shard_status
from tasks.storage.store import Store

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_BATCH = 500
_SERIALIZER, _PERSISTENT = "json", 2
#: Seconds that one wait for finished shards takes; also how often the listener hears of progress.
_TICK_SECONDS = 0.25
#: Seconds between two looks for manifests whose signal was lost.
_INSPECT_INTERVAL_SECONDS = 3.0
#: Seconds within which a manifest has to be seen here once a worker says that it stands.
_MANIFEST_TIMEOUT_SECONDS = 30.0
#: Seconds for which a Redis that is away is waited for.
_REDIS_TIMEOUT_SECONDS = 120.0
#: Seconds without any image after which the workers are asked whether they are there.
_IDLE_NOTICE_SECONDS = 15.0
#: Seconds without any part of a shard after which it is looked for what it waits for; after each look in vain it is
#: twice as long until the next, up to a minute.
_SUSPECT_AFTER_SECONDS = 8.0
_MAX_SUSPECT_AFTER_SECONDS = 60.0
#: Times that a shard is sent again before it ends with what it has, and once more that is collected.
_MAX_RESENDS = 5
#: Images that could not be saved, with none saved between them, after which nothing can be.
_MAX_UNSAVED = 200
#: What tells a producer that its run is to end.
_CANCEL = {"cancel": True}
#: The longest URL in what Flower shows of a task, in characters.
_MAX_URL_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. ``planned`` grows while ``plan_complete`` is false; counts are of images."""

    success: int
    failed: int
    bytes: int
    planned: int
    plan_complete: bool
    #: Images that an earlier command of the run has seen to the end.
    done_before: int = 0
    #: The reason of most failures, and how many images failed for it; empty while none has failed.
    main_reason: str = ""
    main_reason_count: int = 0
    #: What a person should know when nothing moves.
    note: str = ""
    #: Once the run was told to end early, how many images are still being downloaded; None before that.
    finishing: int | None = None


@dataclass(slots=True)
class Timing:
    """When the first task was sent and when the last shard's manifest stood; seconds of the monotonic clock."""

    first_sent: float = 0.0
    last_done: float = 0.0
    #: Images whose Outcomes came in this time, and how many of them had to be sent again.
    images: int = 0
    repaired: int = 0

    @property
    def wall_seconds(self) -> float:
        """The time in between."""
        return self.last_done - self.first_sent


@dataclass(slots=True)
class _InFlight:
    """A shard that was sent; ``signalled_at`` is when a worker said that its manifest stands."""

    shard: int
    images: int
    signalled_at: float | None = None
    #: How many parts were counted at the last look, and since when it is that many.
    counted: int = 0
    moved_at: float = field(default_factory=time.monotonic)
    #: When it is looked into if nothing moves, and how long after that again.
    suspect_after: float = field(default_factory=lambda: _SUSPECT_AFTER_SECONDS)
    #: What was missing at the last look into it.
    missing: frozenset[str] = frozenset()
    repairs: int = 0

    def record_change(self) -> None:
        """Note that something has happened to it."""
        self.moved_at, self.suspect_after, self.missing = time.monotonic(), _SUSPECT_AFTER_SECONDS, frozenset()


class Dispatcher:
    """Sends one run, or goes on with it, and sees it through."""

    def __init__(
        self,
        options: RunOptions,
        store: Store,
        planner: Planner,
        server: redis.Redis,
        resumed: bool = False,
        retried: Collection[str] = (),
        local: bool = False,
    ) -> None:
        """Take the run.

        Args:
            options: what workers have to know of it.
            store: its folder.
            planner: gives its shards.
            server: its Redis; a client that decodes.
            resumed: whether another command has begun it: some of it may be done, or in Redis.
            retried: the reasons of failures that a later pass tries again.
            local: whether its workers are a local fleet, which starts them again by itself.
        """
        self._run_id, self._options = options.run_id, options
        self._store, self._planner, self._server = store, planner, server
        self._resumed, self._retried, self._local = resumed, frozenset(retried), local
        self._in_flight: dict[int, _InFlight] = {}
        self._inspected_at = 0.0
        #: When the run's record was written last, and when Redis was last seen to have it.
        self._renewed_at = self._record_seen_at = 0.0
        self._ended, self._moved_at, self._idle_text = 0, time.monotonic(), ""
        self._unfit = UnfitWorkers(server, self._run_id)
        #: How many images could not be saved when one was saved last, and how many were saved then.
        self._saved = self._unsaved = 0
        #: Images of the shards whose manifests were seen to stand, of those that were sent.
        self._images_completed = 0
        #: Shards seen to so far: the number of the next one.
        self._sent = 0
        self._done_before = 0
        #: Whether anything may have been sent.
        self.has_sent = False
        self._contact = liveness.ContinuousContact()
        self._finishing = threading.Event()
        #: Who is told of progress, and what was told last.
        self._listener: Callable[[Progress], None] = _ignore
        self._last_progress: Progress | None = None
        self._drain: Drain | None = None
        #: What an earlier command has left in Redis; None until that was looked for.
        self._pending_before: frozenset[str] | None = None

    def finish(self) -> None:
        """End when what is being downloaded is done, and drop what is queued; may be called from a signal's handler."""
        self._finishing.set()

    def _images_in_flight(self) -> int:
        """Return about how many images are in flight."""
        flying = list(self._in_flight.values())
        # The chords were counted at the last look, and the sums that workers flush are newer; but an earlier command's
        # may be among those.
        images = sum(max(shard.images - shard.counted, 0) for shard in flying)
        if not self._resumed:
            images = min(images, max(sum(shard.images for shard in flying) - (self._ended - self._images_completed), 0))
        return images

    @property
    def unfit(self) -> list[UnfitWorker]:
        """The workers that have left work of this run to others."""
        return self._unfit.found

    def run(self, window: int, check: Callable[[], None], listener: Callable[[Progress], None]) -> Timing:
        """Send every shard of the plan and wait for all their manifests.

        Args:
            window: how many shards may be in flight.
            check: called again and again; it raises when the fleet is no more.
            listener: told how far the run is, a few times a second.

        Raises:
            CommandError: the run can't go on. What is collected stays.
            RunInterruptedError: it was told to end early.
        """
        timing = Timing()
        self._listener = listener
        try:
            self._with_redis(self._connect, check)
            while self._in_flight or not (self._finishing.is_set() or self._all_sent()):
                if self._can_send(window):
                    self._send_next(self._sent, timing, check)
                # Between two shards it only looks: filling a large window takes longer than a shard may go unwatched.
                self._watch(timing, check, 0.0 if self._can_send(window) else _TICK_SECONDS)
                if self._finishing.is_set() and self._in_flight and self._is_drained(check):
                    break
                self._report_progress(self._progress())
            if self._in_flight or not self._all_sent():
                raise RunInterruptedError(cancelled=False)
            if self._planner.error is not None:
                raise self._planner.error
        finally:
            with suppress(redis.RedisError):
                self._unfit.refresh(last=True)
            # Without its record, what is still queued of a run that ended early is dropped, unfetched.
            with suppress(redis.RedisError):
                self._server.delete(*keys.run_keys(self._run_id))
        return timing

    def _is_drained(self, check: Callable[[], None]) -> bool:
        """Have what is queued dropped, and tell whether what is being downloaded, and what that completes, is done."""
        if self._drain is None:
            self._options = replace(self._options, draining=True)
            self._renewed_at = 0.0
            self._with_redis(self._renew_record, check)
            self._drain = Drain(self._run_id, self._server, self._options.fetch.deadline)
        drain = self._drain
        self._with_redis(drain.ask, check)
        if not drain.idle:
            return drain.overdue
        # The last image of a shard may just have ended: its manifest is worth a moment.
        collecting = self._with_redis(
            lambda: any(
                chord_state.is_body_sent(self._server, self._group_id(flying.shard))
                for flying in self._in_flight.values()
            ),
            check,
        )
        return not collecting or drain.overdue

    def _all_sent(self) -> bool:
        return self._planner.closed and not self._planner.cut and self._sent == self._planner.shards

    def _can_send(self, window: int) -> bool:
        return len(self._in_flight) < window and self._sent < self._planner.shards and not self._finishing.is_set()

    def _watch(self, timing: Timing, check: Callable[[], None], seconds: float) -> None:
        """Look what shards have finished, and wait for one, or for the plan to grow, for at most these seconds."""
        check()
        self._with_redis(self._renew_record, check)
        if not self._in_flight:
            self._planner.wait(self._sent, seconds)
            return
        for message in self._with_redis(lambda: self._read_signals(seconds), check):
            if message == _CANCEL:
                raise RunInterruptedError(cancelled=True)
            shard = message["shard"]
            if "error" in message:
                raise CommandError(
                    f"Shard {shard_name(shard)} could not be collected",
                    message["error"],
                    f"Make space, or mend what is said there; then go on by `{resume_command(self._store)}`.",
                )
            if shard in self._in_flight:
                self._in_flight[shard].signalled_at = time.monotonic()
        look_at_all = time.monotonic() - self._inspected_at > _INSPECT_INTERVAL_SECONDS
        for flying in list(self._in_flight.values()):
            if flying.signalled_at or look_at_all:
                self._complete_if_done(flying, timing)
        if look_at_all:
            self._inspected_at = time.monotonic()
            # What a run that ends early has dropped is not lost.
            if not self._finishing.is_set():
                self._with_redis(lambda: self._resend_lost(timing), check)

    def _complete_if_done(self, flying: _InFlight, timing: Timing) -> None:
        """Take a shard out of the window if its manifest stands."""
        if self._is_done(flying.shard):
            del self._in_flight[flying.shard]
            timing.images += flying.images
            self._images_completed += flying.images
            timing.last_done = time.monotonic()
        elif flying.signalled_at and time.monotonic() - flying.signalled_at > _MANIFEST_TIMEOUT_SECONDS:
            raise CommandError(
                f"The manifest of shard {shard_name(flying.shard)} is not to be seen",
                f"a worker says that it stands, and {self._store.root} does not hold it here",
                "Give workers and producer the same shared folder under the same path.",
            )

    def _is_done(self, shard: int) -> bool:
        """Tell whether a shard has the manifest of this pass."""
        return shard_status.is_done(shard, self._options.revision, self._store)

    def _resend_lost(self, timing: Timing) -> None:
        """Look how far the chords are, and send again what two looks in a row miss of one that stands still."""
        # Workers hand on what a dead one held; where none is left that has lived for long, it is done here.
        self._contact.record_reply()
        if self._contact.is_long_enough:
            requeue.requeue_from_dead_workers(self._server)
        self._unfit.refresh()
        now = time.monotonic()
        doubtful: list[_InFlight] = []
        for flying in self._in_flight.values():
            count = chord_state.count_parts(self._server, self._group_id(flying.shard))
            if count != flying.counted:
                flying.counted = count
                flying.record_change()
            elif now - flying.moved_at > flying.suspect_after:
                doubtful.append(flying)
        if not doubtful:
            return
        pending = chord_state.pending_task_ids(self._server, self._run_id, requeue.unacked_hashes(self._server))
        for flying in doubtful:
            requests = self._shard_requests(flying.shard)
            found = chord_state.read_parts(self._server, self._group_id(flying.shard), VOID_REASONS)
            missing = self._missing_tasks(flying.shard, requests, found, pending)
            if missing and missing <= flying.missing:
                _log.warning(
                    "%d tasks of shard %s are lost, and are sent again", len(missing), shard_name(flying.shard)
                )
                timing.repaired += self._resend(flying, requests, found, pending)
            elif missing:
                flying.missing = missing
            else:
                flying.missing = frozenset()
                flying.suspect_after = min(
                    now - flying.moved_at + flying.suspect_after, now - flying.moved_at + _MAX_SUSPECT_AFTER_SECONDS
                )

    def _missing_tasks(
        self, shard: int, requests: Sequence[ImageRequest], found: chord_state.ChordState, pending: frozenset[str]
    ) -> frozenset[str]:
        """Return the ids of a shard's tasks that have neither a message nor a part; the body's, once all have parts.

        A part that is no Outcome is missing.
        """
        body = self._body_id(shard)
        if body in pending:
            return frozenset()
        open_parts = {self._task_id(shard, request) for request in requests} - found.outcomes.keys()
        if not open_parts:
            return frozenset([body])
        if found.body_sent or not found.has_size:
            return frozenset(open_parts)
        return frozenset(open_parts - pending)

    def _resend(
        self,
        flying: _InFlight,
        requests: Sequence[ImageRequest],
        found: chord_state.ChordState,
        pending: frozenset[str],
    ) -> int:
        """Send again what is missing of a shard; return of how many images."""
        shard = flying.shard
        flying.repairs += 1
        flying.record_change()
        if flying.repairs > _MAX_RESENDS + 1:
            raise CommandError(
                f"Shard {shard_name(shard)} is lost again and again",
                f"it was sent {flying.repairs} times, and neither an image nor the end of it came back",
                "Look at the workers' logs: one may take tasks that it can't do. "
                f"Then go on by `{resume_command(self._store)}`.",
            )
        known = list(found.outcomes.values())
        again = [request for request in requests if self._task_id(shard, request) not in found.outcomes]
        # A chord that is over, or whose size is gone, counts nothing that is still under way.
        gone = found.body_sent or not found.has_size
        lost = [request for request in again if gone or self._task_id(shard, request) not in pending]
        if lost and flying.repairs > _MAX_RESENDS:
            if len(lost) < len(again):
                # What is still under way is waited for.
                flying.repairs -= 1
                return 0
            _log.warning("shard %s ends without %d images, lost %d times", shard_name(shard), len(lost), _MAX_RESENDS)
            known += [
                failed_outcome(self._key(shard, request), TaskLostError(f"its task was lost {_MAX_RESENDS} times"))
                for request in lost
            ]
            again = []
        if not again:
            self._publish_body(shard, known, len(requests))
            return 0
        chord_state.reset_parts(self._server, self._group_id(shard), found)
        self._publish(shard, requests, lost, recover=True)
        return len(lost)

    def _read_signals(self, seconds: float) -> list[dict[str, Any]]:
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

    def _report_progress(self, progress: Progress) -> None:
        self._last_progress = progress
        self._listener(progress)

    def _progress(self) -> Progress:
        try:
            moved = cast("dict[str, str]", self._server.hgetall(keys.progress(self._run_id)))
        except redis.RedisError as error:
            # The next step that needs Redis waits for it.
            if self._last_progress is not None:
                return replace(self._last_progress, note=redis_problem(error).note)
            moved = {}
        planned = self._planner.rows
        success, failed = int(moved.get("success", 0)), int(moved.get("failed", 0))
        size = int(moved.get("bytes", 0))
        self._check_saving(success, int(moved.get("unsaved", 0)))
        here = max(planned - self._done_before, 0)
        reason, count = max(_reasons(moved).items(), key=lambda item: item[1], default=("", 0))
        return Progress(
            min(success, here),
            min(failed, here),
            size,
            planned,
            self._planner.closed,
            self._done_before,
            reason,
            count,
            self._idle_note(success + failed),
            None if self._drain is None else self._drain.images,
        )

    def _check_saving(self, success: int, unsaved: int) -> None:
        """Make sure that something can be saved.

        Raises:
            CommandError: nothing was saved while many images could not be.
        """
        # After a Redis that was emptied, both begin anew.
        if success != self._saved or unsaved < self._unsaved:
            self._saved, self._unsaved = success, unsaved
        elif unsaved - self._unsaved >= _MAX_UNSAVED:
            troubles = "; ".join(self._unfit.storage_troubles)
            raise CommandError(
                "Nothing can be saved any more",
                f"the last {unsaved - self._unsaved} images could not be written below {self._store.root}; "
                f"{troubles or 'a full disk does that, or a folder that the workers may not write to'}",
                f"Make space there, or permit it, then go on by `{resume_command(self._store)}`.",
            )

    def _idle_note(self, ended: int) -> str:
        """Return what to tell when nothing has moved for a while: whether workers are there at all."""
        now = time.monotonic()
        if ended != self._ended or not self._in_flight:
            self._ended, self._moved_at, self._idle_text = ended, now, ""
        elif now - self._moved_at > _IDLE_NOTICE_SECONDS:
            self._moved_at = now
            self._idle_text = _describe_workers(self._local, self._images_in_flight(), self._server)
        return self._idle_text or self._unfit.note

    def _connect(self) -> None:
        """Open the connections for messages and chords before the first task is sent, and so before the clock runs."""
        self._renew_record()
        with app.producer_or_acquire() as producer:
            producer.connection.ensure_connection(max_retries=1)
            producer.channel  # noqa: B018  # it is made when it is first asked for
        app.backend.client.ping()

    def _renew_record(self) -> None:
        """Put the run's options where workers read them: at the start, each hour, and when they are gone from there."""
        now = time.monotonic()
        known = self._renewed_at and now - self._renewed_at < 3600
        # Not by the time of the last look: that is always just over.
        if known and now - self._record_seen_at <= _INSPECT_INTERVAL_SECONDS:
            return
        record = json.dumps(self._options.to_json())
        key, lifetime = keys.run(self._run_id), limits.RUN_RECORD_TTL
        # A write, though reading would do: a Redis that is full, can't save or is a replica refuses that, and nothing
        # else would tell the producer why no image ends.
        if known and self._server.set(key, record, ex=lifetime, xx=True):
            self._record_seen_at = now
            return
        self._server.set(key, record, ex=lifetime)
        if known:
            _log.warning("Redis has lost the run; what was in flight is looked for")
            for flying in self._in_flight.values():
                # However long it had stood still before, and however often it was lost: that was not the shard's fault.
                flying.record_change()
                flying.moved_at, flying.repairs = now - _SUSPECT_AFTER_SECONDS, 0
        self._renewed_at = self._record_seen_at = now

    def _send_next(self, shard: int, timing: Timing, check: Callable[[], None]) -> None:
        """Send the next shard, or what is left of it to do; one that is done already is passed over."""
        self._sent = shard + 1
        planned = load_requests(shard, self._store, self._run_id)
        done = self._resumed and self._is_done(shard)
        requests = [] if done else self._select_requests(shard, planned)
        self._done_before += len(planned) - len(requests)
        if not requests:
            return
        timing.first_sent = timing.first_sent or time.monotonic()
        self.has_sent = True
        flying = self._in_flight[shard] = _InFlight(shard, len(requests))
        if self._resumed:
            self._with_redis(lambda: self._adopt_shard(flying, requests), check)
        else:
            self._with_redis(lambda: self._publish(shard, requests, requests), check)

    def _adopt_shard(self, flying: _InFlight, requests: Sequence[ImageRequest]) -> None:
        """Send what is missing of a shard that an earlier command may have sent, and leave the rest under way.

        What is sent here has to look whether its image stands. That is so in the first command of a later pass as well:
        the next one, which goes on with it, sends in the same way, and knows no more of what is saved. It costs nothing
        where nothing stands, and an image that failed has no file: who collected its shard has removed what no Outcome
        named. A late copy may have saved it since, just as it came, and that is what the pass is to bring about.
        """
        if self._pending_before is None:
            self._pending_before = chord_state.pending_task_ids(
                self._server, self._run_id, requeue.unacked_hashes(self._server)
            )
        found = chord_state.read_parts(self._server, self._group_id(flying.shard), STALE_VOID_REASONS)
        if self._missing_tasks(flying.shard, requests, found, self._pending_before):
            self._resend(flying, requests, found, self._pending_before)
            flying.repairs = 0
        elif found.invalid:
            # They were made by the end of the last command; their images are under way again.
            chord_state.reset_parts(self._server, self._group_id(flying.shard), found)

    def _shard_requests(self, shard: int) -> list[ImageRequest]:
        return self._select_requests(shard, load_requests(shard, self._store, self._run_id))

    def _select_requests(self, shard: int, requests: list[ImageRequest]) -> list[ImageRequest]:
        """Return what is to be done of a shard in this pass."""
        if not self._options.revision or not self._store.exists(manifest.name(shard)):
            return requests
        columns = ["key", "reason"]
        rows = load_manifest(shard, self._store, self._run_id, columns).to_pylist()
        again = {row["key"] for row in rows if row["reason"] in self._retried}
        return [request for request in requests if self._key(shard, request) in again]

    @property
    def _revision_suffix(self) -> str:
        """Tells the ids of a later pass from those of the first."""
        return f".{self._options.revision}" if self._options.revision else ""

    def _group_id(self, shard: int) -> str:
        return f"{self._run_id}.{shard_name(shard)}{self._revision_suffix}"

    def _body_id(self, shard: int) -> str:
        return f"{self._group_id(shard)}.collect"

    def _key(self, shard: int, request: ImageRequest) -> str:
        return image_key(request.index, self._options.shard_size)

    def _task_id(self, shard: int, request: ImageRequest) -> str:
        return f"{self._run_id}.{self._key(shard, request)}{self._revision_suffix}"

    def _body_kwargs(self, size: int) -> dict[str, Any]:
        """Return what a shard's body is told of a later pass, and of a later command; nothing in the first ones."""
        later_pass = {"revision": self._options.revision, "count": size} if self._options.revision else {}
        next_epoch = {"epoch": self._options.epoch} if self._options.epoch else {}
        return {**later_pass, **next_epoch}

    def _publish_body(self, shard: int, outcomes: Sequence[Outcome], size: int) -> None:
        """Send the body of a chord whose parts are all known, and which did not do that itself."""
        app.send_task(
            COLLECT_SHARD,
            args=([outcome.to_json() for outcome in outcomes],),
            kwargs={"run_id": self._run_id, "shard": shard, **self._body_kwargs(size)},
            task_id=self._body_id(shard),
            queue=SHARD_QUEUE,
            ignore_result=True,
            argsrepr="()",
            retry=False,
        )

    def _publish(
        self, shard: int, requests: Sequence[ImageRequest], sent: Sequence[ImageRequest], recover: bool = False
    ) -> None:
        """Send tasks of a shard whose chord has a part for each of its requests: all of them, or some."""
        group, size = self._group_id(shard), len(requests)
        body = dict(
            Signature(
                COLLECT_SHARD,
                kwargs={"run_id": self._run_id, "shard": shard, **self._body_kwargs(size)},
                options={"task_id": self._body_id(shard)},
                app=app,
            )
        )
        kwargs: dict[str, Any] = {"revision": self._options.revision} if self._options.revision else {}
        if recover:
            kwargs["recover"] = True
        app.backend.set_chord_size(group, size)
        # Chords are counted by the place of each part.
        wanted = {request.index for request in sent}
        reply_to = app.thread_oid
        with app.producer_or_acquire() as producer, producer.batch(_BATCH):
            for place, request in enumerate(requests):
                if request.index not in wanted:
                    continue
                # A URL that is too long is refused by the worker all the same: one character over the limit tells.
                url = request.url[: MAX_LENGTH + 1]
                previous = {} if request.previous is None else {"previous": request.previous.to_json()}
                # What `send_task` does, without asking anew for each image what holds for all: the route, the options.
                headers, properties, content, _ = app.amqp.as_task_v2(
                    self._task_id(shard, request),
                    FETCH_IMAGE,
                    args=(self._run_id, request.index, url),
                    kwargs={**kwargs, **previous},
                    group_id=group,
                    group_index=place,
                    chord=body,
                    reply_to=reply_to,
                    ignore_result=True,
                    argsrepr=redacted(url)[:_MAX_URL_SHOWN],
                    kwargsrepr="{}",
                )
                producer.publish(
                    content,
                    exchange="",
                    routing_key=IMAGE_QUEUE,
                    serializer=_SERIALIZER,
                    headers=headers,
                    delivery_mode=_PERSISTENT,
                    **properties,
                )

    def _with_redis(self, step: Callable[[], _T], check: Callable[[], None]) -> _T:
        """Do a step that needs Redis, and wait for a Redis that is away; steps may be done twice.

        Raises:
            CommandError: it is away for too long, or its error lasts until a person has changed something.
        """
        ends = time.monotonic() + _REDIS_TIMEOUT_SECONDS
        away, logged = False, ""
        while True:
            try:
                if away:
                    # It may come back empty, and without the record workers drop what they are sent.
                    self._renew_record()
                return step()
            except (redis.RedisError, OperationalError, BatchPublishError) as error:
                check()
                if away and self._finishing.is_set():
                    raise RunInterruptedError(cancelled=False) from error
                self._contact.record_failure()
                away, self._record_seen_at = True, 0.0
                problem = redis_problem(error)
                if not problem.temporary or time.monotonic() > ends:
                    raise self._redis_error(problem) from error
                if problem.note != logged:
                    logged = problem.note
                    _log.warning(logged)
                if self._last_progress is not None:
                    self._report_progress(replace(self._last_progress, note=f"{problem.note}. {problem.hint}"))
                if problem.answered:
                    # A server that became a replica keeps its connections; new ones lead to the new master.
                    transport.disconnect_pools()
                    app.backend.client.connection_pool.disconnect()
                time.sleep(1)

    def _redis_error(self, problem: RedisProblem) -> CommandError:
        """Return what ends a run at a Redis that can't be used."""
        hint = f"{problem.hint} Then go on by `{resume_command(self._store)}`."
        if not problem.answered:
            return CommandError(
                "Redis is away", f"it has not answered for {_REDIS_TIMEOUT_SECONDS:.0f} s ({problem.text})", hint
            )
        if problem.temporary:
            return CommandError(
                "Redis can't be used", f"for {_REDIS_TIMEOUT_SECONDS:.0f} s it has answered: {problem.text}", hint
            )
        return CommandError("Redis refuses a command", f"it answers: {problem.text}", hint)


def request_cancel(server: redis.Redis, run_id: str) -> None:
    """Tell a run's producer to end it."""
    server.rpush(keys.done(run_id), json.dumps(_CANCEL))
    server.expire(keys.done(run_id), limits.RUN_RECORD_TTL)


def drop_run(server: redis.Redis, run_id: str) -> None:
    """Have what is queued of a run acknowledged unfetched; to be called when its producer is no more."""
    server.delete(*keys.run_keys(run_id))


def _ignore(_: Progress) -> None:
    """Tell nobody."""


def _reasons(moved: Mapping[str, str]) -> dict[str, int]:
    """Return how many images failed for each reason, by the sums of the workers."""
    return {name.removeprefix(REASON): int(count) for name, count in moved.items() if name.startswith(REASON)}


def _describe_workers(local: bool, images: int, server: redis.Redis) -> str:
    """Return what the workers say when nothing moves, and what a person can do, unless a local fleet does it."""
    waiting = "waiting for 1 image" if images == 1 else f"waiting for {images:,} images"
    try:
        slots = online_workers()
        dead = sum(not lives for lives in liveness.worker_liveness(server).values())
    except (redis.RedisError, OperationalError) as error:
        # The connection that lay idle since the last question may have gone with a Redis that is back.
        return f"{waiting}; the workers can't be asked: {redis_problem(error).note}"
    if not slots and local:
        return f"{waiting}; no worker responds: the local fleet is starting them again"
    if not slots:
        return f"{waiting}; no worker responds: start one with `celery -A tasks worker`, or `docker compose up -d`"
    some = f"{waiting}; {len(slots)} workers respond" if len(slots) > 1 else f"{waiting}; 1 worker responds"
    if not dead:
        return some
    died = f"{dead} workers have died, and their tasks are" if dead > 1 else "1 worker has died, and its tasks are"
    return f"{some}; {died} handed to others within {limits.REDELIVERY_SECONDS} s"


def online_workers() -> list[int]:
    """Return the slots of each worker that answers within a second and takes what this version sends."""
    answers = app.control.broadcast(WORKER_INFO, reply=True, timeout=1.0) or []
    workers = {name: about for answer in answers for name, about in answer.items()}
    others = {name: about for name, about in workers.items() if about.get("protocol") != PROTOCOL}
    if others:
        named = ", ".join(f"{name} ({about.get('version', 'unknown')})" for name, about in sorted(others.items()))
        _log.warning("workers of another version take nothing of this run: %s", named)
    return [about["slots"] for name, about in workers.items() if name not in others]
