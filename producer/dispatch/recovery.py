"""Find the lost tasks of shards in flight, and send them again under the same ids.

A task is lost if it has neither an Outcome nor a message (``producer/dispatch/chord_state.py``). A shard that loses
tasks again and again ends with the Outcomes it has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import redis

from producer.dispatch import chord_state
from producer.dispatch.progress import Timing
from producer.dispatch.publisher import ChordPublisher
from producer.dispatch.revision_requests import RevisionRequests
from producer.output.run_file import resume_command
from producer.output.shard_files import load_manifest
from producer.output.summary import COLUMNS, summarise
from tasks.broker import requeue
from tasks.collect import STALE_VOID_REASONS, VOID_REASONS
from tasks.errors import CommandError, TaskLostError
from tasks.fetch import failed_outcome
from tasks.model import ImageRequest, Outcome, shard_name
from tasks.storage.store import Store

_log = logging.getLogger(__name__)
#: Inspect a shard after this many seconds without a completed task. Each inspection that finds no change doubles the
#: interval, up to the maximum.
_SUSPECT_AFTER_SECONDS = 8.0
_MAX_SUSPECT_AFTER_SECONDS = 60.0
#: How often a shard's tasks are resent before the shard ends with the Outcomes it has. If the shard's collect task is
#: lost after that, the collect task is resent once more.
_MAX_RESENDS = 5


@dataclass(slots=True)
class ShardInFlight:
    """A sent shard without a manifest.

    ``signalled_at`` is the time at which a worker reported the manifest as written. Times are seconds of the monotonic
    clock.
    """

    shard: int
    images: int
    signalled_at: float | None = None
    #: The number of counted parts at the last inspection, and the time at which the shard last changed.
    counted: int = 0
    changed_at: float = field(default_factory=time.monotonic)
    #: The shard is inspected after this many seconds without a change.
    suspect_after: float = field(default_factory=lambda: _SUSPECT_AFTER_SECONDS)
    #: The ids of the tasks missing at the last inspection.
    missing: frozenset[str] = frozenset()
    #: How often the shard's tasks were resent.
    resends: int = 0
    #: In a resumed run: the keys of the images that had no Outcome in Redis when the command began.
    open_keys: frozenset[str] = frozenset()

    def record_change(self) -> None:
        """Record that the shard has just changed."""
        self.changed_at, self.suspect_after, self.missing = time.monotonic(), _SUSPECT_AFTER_SECONDS, frozenset()

    def suspect_now(self, now: float) -> None:
        """Let the next inspection include the shard, and reset its number of resends."""
        self.record_change()
        self.changed_at, self.resends = now - _SUSPECT_AFTER_SECONDS, 0


class ShardRecovery:
    """Resends the lost tasks of a run's shards."""

    def __init__(
        self, run_id: str, store: Store, server: redis.Redis, publisher: ChordPublisher, requests: RevisionRequests
    ) -> None:
        """Take a run and its folder, a client with `decode_responses`, and the run's publisher and requests."""
        self._run_id, self._store, self._server = run_id, store, server
        self._publisher, self._requests = publisher, requests
        #: The ids of the tasks that an earlier command left in Redis; None until they are read.
        self._pending_before: frozenset[str] | None = None

    def adopt(self, in_flight: ShardInFlight, requests: Sequence[ImageRequest]) -> list[Outcome]:
        """For a shard of a resumed run, send the missing tasks, but not the tasks in flight.

        Return the Outcomes of the images that earlier commands have finished.

        Tasks sent here first check whether their image's file exists. Tasks check this even in the first command of a
        later revision. The first command does not know which images are saved, and neither does a command that resumes
        the revision. The check costs nothing if no file exists. A failed image usually has no file, because its collect
        task removed every file without an Outcome. But a late duplicate of an earlier task may have saved the image
        since then. The revision is meant to get that image, so the file is a valid result.
        """
        if self._pending_before is None:
            self._pending_before = chord_state.pending_task_ids(
                self._server, self._run_id, requeue.unacked_hashes(self._server)
            )
        chord = chord_state.read_parts(self._server, self._publisher.group_id(in_flight.shard), STALE_VOID_REASONS)
        found = [(request, chord.outcomes.get(self._publisher.task_id(request))) for request in requests]
        in_flight.open_keys = frozenset(
            self._publisher.image_key(request) for request, outcome in found if outcome is None
        )
        if self._missing_tasks(in_flight.shard, requests, chord, self._pending_before):
            self._resend(in_flight, requests, chord, self._pending_before)
            in_flight.resends = 0
        elif chord.invalid:
            # At the end of the last command, the chord counted invalid parts too. The images of these parts are in
            # flight again.
            chord_state.reset_parts(self._server, self._publisher.group_id(in_flight.shard), chord)
        return [outcome for _, outcome in found if outcome is not None]

    def count_own(self, in_flight: ShardInFlight, timing: Timing) -> None:
        """Count the images of a collected shard that this command of a resumed run finished.

        An earlier command has finished an image if its Outcome was in Redis, or if its task found the saved file.

        Raises:
            CommandError: the manifest is damaged.
        """
        table = load_manifest(in_flight.shard, self._store, self._run_id, ["key", "recovered", *COLUMNS])
        rows = zip(table["key"].to_pylist(), table["recovered"].to_pylist(), strict=True)
        is_own = [key in in_flight.open_keys and not recovered for key, recovered in rows]
        own = summarise([table.filter(pa.array(is_own, pa.bool_()))])
        timing.images += own.total
        timing.bytes += own.bytes

    def resend_lost(self, shards: Collection[ShardInFlight], timing: Timing) -> None:
        """Count the chords' parts. In an idle shard, resend the tasks that two inspections in a row find missing."""
        now = time.monotonic()
        suspects: list[ShardInFlight] = []
        for in_flight in shards:
            count = chord_state.count_parts(self._server, self._publisher.group_id(in_flight.shard))
            if count != in_flight.counted:
                in_flight.counted = count
                in_flight.record_change()
            elif now - in_flight.changed_at > in_flight.suspect_after:
                suspects.append(in_flight)
        if not suspects:
            return
        pending = chord_state.pending_task_ids(self._server, self._run_id, requeue.unacked_hashes(self._server))
        for in_flight in suspects:
            requests = self._requests.load(in_flight.shard)
            chord = chord_state.read_parts(self._server, self._publisher.group_id(in_flight.shard), VOID_REASONS)
            missing = self._missing_tasks(in_flight.shard, requests, chord, pending)
            if missing and missing <= in_flight.missing:
                _log.warning("resending %d lost tasks of shard %s", len(missing), shard_name(in_flight.shard))
                timing.repaired += self._resend(in_flight, requests, chord, pending)
            elif missing:
                in_flight.missing = missing
            else:
                in_flight.missing = frozenset()
                in_flight.suspect_after = min(
                    now - in_flight.changed_at + in_flight.suspect_after,
                    now - in_flight.changed_at + _MAX_SUSPECT_AFTER_SECONDS,
                )

    def _missing_tasks(
        self, shard: int, requests: Sequence[ImageRequest], chord: chord_state.ChordState, pending: frozenset[str]
    ) -> frozenset[str]:
        """Return the ids of a shard's tasks that have neither a message nor a counted chord part.

        If the chord has a part for each image, the collect task may be missing. A part without an Outcome counts as
        missing.
        """
        body = self._publisher.body_id(shard)
        if body in pending:
            return frozenset()
        open_parts = {self._publisher.task_id(request) for request in requests} - chord.outcomes.keys()
        if not open_parts:
            return frozenset([body])
        if chord.body_sent or not chord.has_size:
            return frozenset(open_parts)
        return frozenset(open_parts - pending)

    def _resend(
        self,
        in_flight: ShardInFlight,
        requests: Sequence[ImageRequest],
        chord: chord_state.ChordState,
        pending: frozenset[str],
    ) -> int:
        """Resend the missing tasks of a shard; return the number of resent images.

        Raises:
            CommandError: the shard was resent too often, and its collect task does not complete either.
        """
        shard = in_flight.shard
        in_flight.resends += 1
        in_flight.record_change()
        if in_flight.resends > _MAX_RESENDS + 1:
            raise CommandError(
                f"Shard {shard_name(shard)} is lost again and again",
                f"its tasks were sent {in_flight.resends} times, but none of them completed",
                "Check the workers' logs: a worker may take tasks it can't run. "
                f"Then run `{resume_command(self._store)}`.",
            )
        outcomes = list(chord.outcomes.values())
        missing = [request for request in requests if self._publisher.task_id(request) not in chord.outcomes]
        # A chord counts no more parts after its body was sent. A chord without a size counts no parts either. So the
        # chord's tasks in flight are lost too.
        dead_chord = chord.body_sent or not chord.has_size
        lost = [request for request in missing if dead_chord or self._publisher.task_id(request) not in pending]
        if lost and in_flight.resends > _MAX_RESENDS:
            if len(lost) < len(missing):
                # Wait for the tasks still in flight.
                in_flight.resends -= 1
                return 0
            _log.warning(
                "shard %s is completed without %d images, because their tasks were lost %d times",
                shard_name(shard),
                len(lost),
                _MAX_RESENDS,
            )
            outcomes += [
                failed_outcome(
                    self._publisher.image_key(request), TaskLostError(f"its task was lost {_MAX_RESENDS} times")
                )
                for request in lost
            ]
            missing = []
        if not missing:
            self._publisher.publish_body(shard, outcomes, len(requests))
            return 0
        chord_state.reset_parts(self._server, self._publisher.group_id(shard), chord)
        self._publisher.publish(shard, requests, lost, recover=True)
        return len(lost)
