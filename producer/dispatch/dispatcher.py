"""A run's shards as chords: sent as the plan grows, a window of them in flight, each watched until its manifest stands.

A chord is how results arrive, and not the proof that they did. A shard that stands still is looked into
(``producer/dispatch/chord_state.py``): what has neither an Outcome nor a message any more is sent again, under the same
ids. A shard that is lost again and again ends with what it has.

A chord is a task for each image and one for the shard. What ``chord().apply_async`` would send is sent here task by
task in batches of one producer, which is several times as fast; all ids follow from the run and the image, so that a
batch that failed half way can be sent again: Celery counts a chord's parts by their ids.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import redis
from kombu.exceptions import BatchPublishError, OperationalError

from producer.dispatch import chord_state
from producer.dispatch.drain import Drain
from producer.dispatch.progress import Progress, Timing
from producer.dispatch.publisher import ChordPublisher
from producer.dispatch.recovery import ShardInFlight, ShardRecovery
from producer.dispatch.revision_requests import RevisionRequests
from producer.dispatch.run_record import RunRecord, drop_run
from producer.dispatch.signals import CANCEL, read_signals
from producer.dispatch.unfit_workers import UnfitWorker, UnfitWorkers
from producer.dispatch.workers import describe_workers
from producer.output.run_file import resume_command
from producer.output.shard_files import load_requests
from producer.planning.planner import Planner
from tasks.broker import keys, liveness, requeue, transport
from tasks.broker.progress import REASON
from tasks.broker.redis_errors import RedisProblem, redis_problem
from tasks.celery import app
from tasks.errors import CommandError, RunInterruptedError
from tasks.model import RunOptions, shard_name
from tasks.storage.store import Store

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
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
#: Images that could not be saved, with none saved between them, after which nothing can be.
_MAX_UNSAVED = 200


@dataclass(frozen=True, slots=True)
class DispatchOptions:
    """How a command dispatches its run."""

    #: The maximum number of shards in flight.
    window: int = 1
    #: Whether an earlier command has begun the run, so that parts of it may be done, or in Redis.
    resumed: bool = False
    #: Reasons of the failures that a later revision retries.
    retried: Collection[str] = ()
    #: Whether the workers are a local fleet, which restarts them by itself.
    local: bool = False


class Dispatcher:
    """Sends one run, or goes on with it, and sees it through."""

    def __init__(
        self,
        options: RunOptions,
        store: Store,
        planner: Planner,
        server: redis.Redis,
        check: Callable[[], None],
        dispatch: DispatchOptions,
    ) -> None:
        """Take the run.

        Args:
            options: the run's options, for the workers.
            store: the run's folder.
            planner: plans the run's shards.
            server: the run's Redis: a client that decodes responses.
            check: called again and again; raises an error if the fleet has ended.
            dispatch: how this command dispatches the run.
        """
        self._run_id, self._options, self._dispatch = options.run_id, options, dispatch
        self._store, self._planner, self._server, self._check = store, planner, server, check
        self._record = RunRecord(options, server)
        self._publisher = ChordPublisher(options)
        self._requests = RevisionRequests(options, store, dispatch.retried)
        self._recovery = ShardRecovery(options.run_id, store, server, self._publisher, self._requests)
        self._timing = Timing()
        self._in_flight: dict[int, ShardInFlight] = {}
        self._inspected_at = 0.0
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

    def finish(self) -> None:
        """End when what is being downloaded is done, and drop what is queued; may be called from a signal's handler."""
        self._finishing.set()

    def _images_in_flight(self) -> int:
        """Return about how many images are in flight."""
        flying = list(self._in_flight.values())
        # The chords were counted at the last look, and the sums that workers flush are newer; but an earlier command's
        # may be among those.
        images = sum(max(shard.images - shard.counted, 0) for shard in flying)
        if not self._dispatch.resumed:
            images = min(images, max(sum(shard.images for shard in flying) - (self._ended - self._images_completed), 0))
        return images

    @property
    def unfit(self) -> list[UnfitWorker]:
        """The workers that have left work of this run to others."""
        return self._unfit.found

    def run(self, listener: Callable[[Progress], None]) -> Timing:
        """Send every shard of the plan and wait for all their manifests.

        Args:
            listener: called with the run's progress, a few times a second.

        Raises:
            CommandError: the run can't go on. What is collected stays.
            RunInterruptedError: it was told to end early.
        """
        self._listener = listener
        try:
            self._with_redis(self._connect)
            while self._in_flight or not (self._finishing.is_set() or self._all_sent()):
                if self._can_send():
                    self._send_next(self._sent)
                # Between two shards it only looks: filling a large window takes longer than a shard may go unwatched.
                self._watch(0.0 if self._can_send() else _TICK_SECONDS)
                if self._finishing.is_set() and self._in_flight and self._is_drained():
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
                drop_run(self._server, self._run_id)
        return self._timing

    def _is_drained(self) -> bool:
        """Have what is queued dropped, and tell whether what is being downloaded, and what that completes, is done."""
        if self._drain is None:
            self._record.mark_draining()
            self._with_redis(self._renew_record)
            self._drain = Drain(self._run_id, self._server, self._options.fetch.deadline)
        drain = self._drain
        self._with_redis(drain.ask)
        if not drain.idle:
            return drain.overdue
        # The last image of a shard may just have ended: its manifest is worth a moment.
        collecting = self._with_redis(
            lambda: any(
                chord_state.is_body_sent(self._server, self._publisher.group_id(flying.shard))
                for flying in self._in_flight.values()
            ),
        )
        return not collecting or drain.overdue

    def _all_sent(self) -> bool:
        return self._planner.closed and not self._planner.cut and self._sent == self._planner.shards

    def _can_send(self) -> bool:
        return (
            len(self._in_flight) < self._dispatch.window
            and self._sent < self._planner.shards
            and not self._finishing.is_set()
        )

    def _watch(self, seconds: float) -> None:
        """Look what shards have finished, and wait for one, or for the plan to grow, for at most these seconds."""
        self._check()
        self._with_redis(self._renew_record)
        if not self._in_flight:
            self._planner.wait(self._sent, seconds)
            return
        for message in self._with_redis(lambda: read_signals(self._server, self._run_id, seconds)):
            if message == CANCEL:
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
                self._complete_if_done(flying)
        if look_at_all:
            self._inspected_at = time.monotonic()
            # What a run that ends early has dropped is not lost.
            if not self._finishing.is_set():
                self._with_redis(self._resend_lost)

    def _complete_if_done(self, flying: ShardInFlight) -> None:
        """Take a shard out of the window if its manifest stands."""
        if self._requests.is_done(flying.shard):
            del self._in_flight[flying.shard]
            self._timing.images += flying.images
            self._images_completed += flying.images
            self._timing.last_done = time.monotonic()
        elif flying.signalled_at and time.monotonic() - flying.signalled_at > _MANIFEST_TIMEOUT_SECONDS:
            raise CommandError(
                f"The manifest of shard {shard_name(flying.shard)} is not to be seen",
                f"a worker says that it stands, and {self._store.root} does not hold it here",
                "Give workers and producer the same shared folder under the same path.",
            )

    def _resend_lost(self) -> None:
        """Look how far the chords are, and send again what two looks in a row miss of one that stands still."""
        # Workers hand on what a dead one held; where none is left that has lived for long, it is done here.
        self._contact.record_reply()
        if self._contact.is_long_enough:
            requeue.requeue_from_dead_workers(self._server)
        self._unfit.refresh()
        self._recovery.resend_lost(self._in_flight.values(), self._timing)

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
            self._idle_text = describe_workers(self._dispatch.local, self._images_in_flight(), self._server)
        return self._idle_text or self._unfit.note

    def _connect(self) -> None:
        """Open the connections for messages and chords before the first task is sent, and so before the clock runs."""
        self._renew_record()
        with app.producer_or_acquire() as producer:
            producer.connection.ensure_connection(max_retries=1)
            producer.channel  # noqa: B018  # it is made when it is first asked for
        app.backend.client.ping()

    def _renew_record(self) -> None:
        """Keep the run's record in Redis. If Redis has lost it, inspect all shards in flight at once."""
        if self._record.renew():
            _log.warning("Redis has lost the run; what was in flight is looked for")
            now = time.monotonic()
            for flying in self._in_flight.values():
                # However long it had stood still before, and however often it was lost: that was not the shard's fault.
                flying.suspect_now(now)

    def _send_next(self, shard: int) -> None:
        """Send the next shard, or what is left of it to do; one that is done already is passed over."""
        self._sent = shard + 1
        planned = load_requests(shard, self._store, self._run_id)
        done = self._dispatch.resumed and self._requests.is_done(shard)
        requests = [] if done else self._requests.select(shard, planned)
        self._done_before += len(planned) - len(requests)
        if not requests:
            return
        self._timing.first_sent = self._timing.first_sent or time.monotonic()
        self.has_sent = True
        flying = self._in_flight[shard] = ShardInFlight(shard, len(requests))
        if self._dispatch.resumed:
            self._with_redis(lambda: self._recovery.adopt(flying, requests))
        else:
            self._with_redis(lambda: self._publisher.publish(shard, requests, requests))

    def _with_redis(self, step: Callable[[], _T]) -> _T:
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
                self._check()
                if away and self._finishing.is_set():
                    raise RunInterruptedError(cancelled=False) from error
                self._contact.record_failure()
                away = True
                self._record.check_soon()
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


def _ignore(_: Progress) -> None:
    """Tell nobody."""


def _reasons(moved: Mapping[str, str]) -> dict[str, int]:
    """Return how many images failed for each reason, by the sums of the workers."""
    return {name.removeprefix(REASON): int(count) for name, count in moved.items() if name.startswith(REASON)}
