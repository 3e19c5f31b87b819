"""Send a run's shards as chords while the plan grows, and watch each shard until its manifest exists.

The number of shards in flight is limited; the limit is called the window. A chord delivers results, but does not prove
that all of them arrive. So the dispatcher inspects idle shards. It resends tasks that have neither an Outcome nor a
message (``producer/dispatch/recovery.py``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import redis
from kombu.exceptions import BatchPublishError, OperationalError

from producer.dispatch import chord_state
from producer.dispatch.drain import Drain
from producer.dispatch.earlier_images import EarlierImages
from producer.dispatch.host_report import HostReport
from producer.dispatch.parked_shards import ParkedShards
from producer.dispatch.progress import Progress, Timing
from producer.dispatch.progress_reader import DispatchState, ProgressReader
from producer.dispatch.published_progress import ProgressPublisher
from producer.dispatch.publisher import ChordPublisher
from producer.dispatch.recovery import ShardInFlight, ShardRecovery
from producer.dispatch.revision_requests import RevisionRequests
from producer.dispatch.run_record import RunRecord, drop_run
from producer.dispatch.saving_check import SavingCheck
from producer.dispatch.signals import CANCEL, read_signals
from producer.dispatch.unfit_workers import UnfitWorker, UnfitWorkers
from producer.output import lock
from producer.output.run_file import FAILURES_NAME, resume_command
from producer.planning.planner import Planner
from tasks.broker import keys, liveness, requeue, transport
from tasks.broker.redis_errors import RedisProblem, redis_problem
from tasks.celery import app
from tasks.errors import CommandError, RunInterruptedError
from tasks.model import RunOptions, shard_name
from tasks.storage.store import Store
from tasks.throttle.redis_registry import RedisRegistry

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
#: Seconds for one wait for finished shards. The listener gets a report after each wait.
_TICK_SECONDS = 0.25
#: Seconds between two inspections of all shards in flight. An inspection finds two things: lost tasks, and existing
#: manifests whose signal was lost.
_INSPECT_INTERVAL_SECONDS = 3.0
#: A manifest must be visible here within this many seconds after a worker has reported it as written.
_MANIFEST_TIMEOUT_SECONDS = 30.0
#: The longest wait for an unreachable Redis, in seconds.
_REDIS_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class DispatchOptions:
    """How a command dispatches its run."""

    #: The maximum number of shards in flight.
    window: int = 1
    #: The maximum number of further shards in flight, all of whose remaining images wait for busy hosts.
    max_parked: int = 64
    #: Whether an earlier command started the run. In such a run, some images may already be done, and some tasks may be
    #: in Redis.
    resumed: bool = False
    #: The failure reasons to retry in a later revision.
    retried: Collection[str] = ()
    #: Whether the workers are a local fleet, which restarts dead workers itself.
    local: bool = False


class Dispatcher:
    """Sends one run, new or resumed, and waits until it is complete."""

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
            server: the run's Redis: a client with `decode_responses`.
            check: called repeatedly; raises an error if the fleet has ended.
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
        self._unfit = UnfitWorkers(server, self._run_id)
        #: The number of images in completed shards. Only images sent by this command count.
        self._images_completed = 0
        self._parked = ParkedShards(server, options.run_id, self._publisher, dispatch.max_parked)
        saving_check = SavingCheck(store, self._unfit)
        self._progress_reader = ProgressReader(
            server, options.run_id, self._unfit, saving_check, self._parked, dispatch.local
        )
        self._progress_publisher = ProgressPublisher(server, options.run_id)
        #: The number of shards sent or skipped so far. The next shard has this number.
        self._sent = 0
        self._earlier = EarlierImages(self._requests, store)
        #: Whether a task may have been sent.
        self.has_sent = False
        self._contact = liveness.ContinuousContact()
        self._finishing = threading.Event()
        #: The listener, and the last progress reported to it.
        self._listener: Callable[[Progress], None] = _ignore
        self._last_progress: Progress | None = None
        self._drain: Drain | None = None

    def finish(self) -> None:
        """End after the current downloads, and drop the queued tasks. Safe to call from a signal handler."""
        self._finishing.set()

    @property
    def unfit(self) -> list[UnfitWorker]:
        """The workers that left tasks of this run to other workers."""
        return self._unfit.found

    def troubled_hosts(self) -> list[HostReport]:
        """Return the hosts that rested, were slow or kept images waiting; empty while Redis is unreachable."""
        try:
            return self._parked.hosts.troubled_hosts()
        except redis.RedisError:
            return []

    def run(self, listener: Callable[[Progress], None]) -> Timing:
        """Send every shard of the plan and wait for all their manifests.

        Args:
            listener: called with the run's progress, a few times a second.

        Raises:
            CommandError: the run can't continue. Collected shards stay.
            RunInterruptedError: the run was told to end early.
        """
        self._listener = listener
        try:
            self._with_redis(self._connect)
            while self._in_flight or not (self._finishing.is_set() or self._all_sent()):
                if self._can_send():
                    self._send_next(self._sent)
                # Don't wait between two sends. Otherwise, a large window would take long to fill. Meanwhile, nothing
                # would watch the shards that were sent first.
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
            # After an early end, the run has no record in Redis. So workers drop its queued tasks without fetching. If
            # another producer has taken over the run, the record belongs to that producer.
            if not lock.is_lost(self._store):
                with suppress(redis.RedisError):
                    drop_run(self._server, self._run_id)
        return self._timing

    def _is_drained(self) -> bool:
        """Make workers drop queued tasks; return whether all current downloads have ended.

        If these downloads complete some shards, the collect tasks of these shards must have ended as well.
        """
        if self._drain is None:
            self._record.mark_draining()
            self._with_redis(self._renew_record)
            self._drain = Drain(self._run_id, self._server, self._options.fetch.deadline)
        drain = self._drain
        self._with_redis(drain.ask)
        if not drain.idle:
            return drain.overdue
        # The last image of a shard may just have ended, so wait for the shard's manifest.
        collecting = self._with_redis(
            lambda: any(
                chord_state.is_body_sent(self._server, self._publisher.group_id(in_flight.shard))
                for in_flight in self._in_flight.values()
            ),
        )
        return not collecting or drain.overdue

    def _all_sent(self) -> bool:
        return self._planner.closed and not self._planner.was_stopped and self._sent == self._planner.shards

    def _can_send(self) -> bool:
        return (
            len(self._in_flight) - self._parked.places(self._in_flight) < self._dispatch.window
            and self._sent < self._planner.shards
            and not self._finishing.is_set()
        )

    def _watch(self, seconds: float) -> None:
        """Handle finished shards. Wait at most this many seconds for a shard to finish, or for the plan to grow."""
        self._check()
        self._with_redis(self._renew_record)
        if (progress := self._last_progress) is not None:
            self._with_redis(lambda: self._progress_publisher.publish(progress))
        if not self._in_flight:
            self._planner.wait(self._sent, seconds)
            return
        for signal in self._with_redis(lambda: read_signals(self._server, self._run_id, seconds)):
            self._handle_signal(signal)
        self._with_redis(lambda: self._parked.refresh(self._in_flight.values()))
        inspect_all = time.monotonic() - self._inspected_at > _INSPECT_INTERVAL_SECONDS
        for in_flight in list(self._in_flight.values()):
            if in_flight.signalled_at or inspect_all:
                self._complete_if_done(in_flight)
        if inspect_all:
            self._inspected_at = time.monotonic()
            # If the run is ending early, workers drop its tasks on purpose. So do not look for lost tasks then.
            if not self._finishing.is_set():
                self._with_redis(self._resend_lost)

    def _handle_signal(self, signal: Mapping[str, Any]) -> None:
        """Record that a worker has reported a manifest as written.

        Raises:
            CommandError: the signal reports an error of a collect task.
            RunInterruptedError: the signal cancels the run.
        """
        if signal == CANCEL:
            raise RunInterruptedError(cancelled=True)
        shard = signal["shard"]
        if "error" in signal:
            raise CommandError(
                f"Shard {shard_name(shard)} could not be collected",
                signal["error"],
                f"Fix this error, or free disk space, then run `{resume_command(self._store)}`.",
            )
        if shard in self._in_flight:
            self._in_flight[shard].signalled_at = time.monotonic()

    def _complete_if_done(self, in_flight: ShardInFlight) -> None:
        """Remove a shard from the window if its manifest exists.

        Raises:
            CommandError: a worker has reported the manifest as written, but the manifest is not visible on this
                machine. Or the manifest of a resumed run is damaged.
        """
        if self._requests.is_done(in_flight.shard):
            del self._in_flight[in_flight.shard]
            if self._dispatch.resumed:
                self._recovery.count_own(in_flight, self._timing)
            else:
                self._timing.images += in_flight.images
            self._images_completed += in_flight.images
            self._timing.last_done = time.monotonic()
        elif in_flight.signalled_at and time.monotonic() - in_flight.signalled_at > _MANIFEST_TIMEOUT_SECONDS:
            raise CommandError(
                f"Manifest of shard {shard_name(in_flight.shard)} not found",
                f"a worker reported it as written, but it is not in {self._store.location} on this machine",
                "Give workers and producer the same shared folder under the same path.",
            )

    def _resend_lost(self) -> None:
        """Inspect the shards in flight, and send their lost tasks again."""
        # A live worker requeues a dead worker's tasks, but only after it has been in contact with Redis for long
        # enough. The producer requeues these tasks too, in case no worker has been in contact for that long.
        self._contact.record_reply()
        if self._contact.is_long_enough:
            requeue.requeue_from_dead_workers(self._server)
        self._unfit.refresh()
        self._recovery.resend_lost(self._in_flight.values(), self._timing)

    def _report_progress(self, progress: Progress) -> None:
        self._last_progress = progress
        self._listener(progress)

    def _progress(self) -> Progress:
        state = DispatchState(
            planned=self._planner.rows,
            plan_complete=self._planner.closed,
            earlier=self._earlier,
            in_flight=list(self._in_flight.values()),
            completed=None if self._dispatch.resumed else self._images_completed,
            finishing=None if self._drain is None else self._drain.images,
            first_sent=self._timing.first_sent,
            repaired=self._timing.repaired,
        )
        return self._progress_reader.read(state)

    def _connect(self) -> None:
        """Open the connections for messages and chords before the first task.

        So no measured time includes connecting.
        """
        self._renew_record()
        if self._dispatch.resumed:
            # A killed producer has left its sums and its progress. The images in these sums count as done before.
            self._server.delete(keys.progress(self._run_id), keys.status(self._run_id))
            self._earlier.count_all(self._planner.shards)
        RedisRegistry(self._server).prepare()
        self._parked.hosts.start()
        with app.producer_or_acquire() as producer:
            producer.connection.ensure_connection(max_retries=1)
            producer.channel  # noqa: B018  # the first access opens it
        app.backend.client.ping()

    def _renew_record(self) -> None:
        """Keep the run's record in Redis. If Redis has lost it, inspect every shard in flight without delay."""
        if self._record.renew():
            _log.warning("Redis has lost the run; checking all shards in flight for lost tasks")
            now = time.monotonic()
            for in_flight in self._in_flight.values():
                # A shard's earlier idle time and lost tasks no longer count, because the failure of Redis caused both.
                in_flight.suspect_now(now)

    def _send_next(self, shard: int) -> None:
        """Send the next shard, or only its remaining images; skip a shard that is done."""
        self._sent = shard + 1
        if self._dispatch.resumed and self._requests.is_done(shard):
            self._earlier.count_shard(shard)
            return
        requests = self._requests.load(shard)
        if not requests:
            return
        self._timing.first_sent = self._timing.first_sent or time.monotonic()
        if not self.has_sent:
            # Manifests change from now on, so this list of failures gets wrong. The end of the run writes it again.
            self._store.remove(FAILURES_NAME)
        self.has_sent = True
        in_flight = self._in_flight[shard] = ShardInFlight(shard, len(requests))
        if self._dispatch.resumed:
            self._earlier.add(self._with_redis(lambda: self._recovery.adopt(in_flight, requests)))
        else:
            self._with_redis(lambda: self._publisher.publish(shard, requests, requests))

    def _with_redis(self, operation: Callable[[], _T]) -> _T:
        """Run an operation on Redis; while Redis is unreachable, retry the operation. The operation must be idempotent.

        Raises:
            CommandError: Redis was unreachable for too long, or its error is permanent.
            RunInterruptedError: the run was told to end early, and Redis failed twice.
        """
        ends = time.monotonic() + _REDIS_TIMEOUT_SECONDS
        has_failed, logged = False, ""
        while True:
            try:
                if has_failed:
                    # Redis may come back empty. Workers drop the tasks of a run without a record, so write the record
                    # first.
                    self._renew_record()
                return operation()
            except (redis.RedisError, OperationalError, BatchPublishError) as error:
                self._check()
                if has_failed and self._finishing.is_set():
                    raise RunInterruptedError(cancelled=False) from error
                self._contact.record_failure()
                has_failed = True
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
                    # If the server has become a replica, the old connections stay open but are useless. New connections
                    # lead to the new master.
                    transport.disconnect_pools()
                    app.backend.client.connection_pool.disconnect()
                time.sleep(1)

    def _redis_error(self, problem: RedisProblem) -> CommandError:
        """Return the error that ends a run because of a problem with Redis."""
        hint = f"{problem.hint} Then run `{resume_command(self._store)}`."
        seconds = f"{_REDIS_TIMEOUT_SECONDS:.0f} s"
        if not problem.answered:
            return CommandError("Redis is unreachable", f"no answer for {seconds} ({problem.text})", hint)
        if problem.temporary:
            return CommandError("Redis can't be used", f"for {seconds} it has answered: {problem.text}", hint)
        return CommandError("Redis refuses a command", f"it answers: {problem.text}", hint)


def _ignore(_: Progress) -> None:
    """Ignore a progress report."""
