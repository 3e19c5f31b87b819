"""Find the lost tasks of shards in flight, and send them again."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import redis

from producer.dispatch import chord_state
from producer.dispatch.progress import Timing
from producer.dispatch.publisher import ChordPublisher
from producer.dispatch.revision_requests import RevisionRequests
from producer.output.run_file import resume_command
from tasks.broker import requeue
from tasks.collect import STALE_VOID_REASONS, VOID_REASONS
from tasks.errors import CommandError, TaskLostError
from tasks.fetch import failed_outcome
from tasks.model import ImageRequest, shard_name
from tasks.storage.store import Store

_log = logging.getLogger(__name__)
#: Seconds without any part of a shard after which it is looked for what it waits for; after each look in vain it is
#: twice as long until the next, up to a minute.
_SUSPECT_AFTER_SECONDS = 8.0
_MAX_SUSPECT_AFTER_SECONDS = 60.0
#: Times that a shard is sent again before it ends with what it has, and once more that is collected.
_MAX_RESENDS = 5


@dataclass(slots=True)
class ShardInFlight:
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

    def suspect_now(self, now: float) -> None:
        """Have it inspected at the next look, however often it was lost before."""
        self.record_change()
        self.moved_at, self.repairs = now - _SUSPECT_AFTER_SECONDS, 0


class ShardRecovery:
    """Sends again what is lost of a run's shards."""

    def __init__(
        self, run_id: str, store: Store, server: redis.Redis, publisher: ChordPublisher, requests: RevisionRequests
    ) -> None:
        """Take the run, its folder, a client that decodes, and what publishes and reads its requests."""
        self._run_id, self._store, self._server = run_id, store, server
        self._publisher, self._requests = publisher, requests
        #: What an earlier command has left in Redis; None until that was looked for.
        self._pending_before: frozenset[str] | None = None

    def adopt(self, flying: ShardInFlight, requests: Sequence[ImageRequest]) -> None:
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
        found = chord_state.read_parts(self._server, self._publisher.group_id(flying.shard), STALE_VOID_REASONS)
        if self._missing_tasks(flying.shard, requests, found, self._pending_before):
            self._resend(flying, requests, found, self._pending_before)
            flying.repairs = 0
        elif found.invalid:
            # They were made by the end of the last command; their images are under way again.
            chord_state.reset_parts(self._server, self._publisher.group_id(flying.shard), found)

    def resend_lost(self, in_flight: Collection[ShardInFlight], timing: Timing) -> None:
        """Look how far the chords are, and send again what two looks in a row miss of one that stands still."""
        now = time.monotonic()
        doubtful: list[ShardInFlight] = []
        for flying in in_flight:
            count = chord_state.count_parts(self._server, self._publisher.group_id(flying.shard))
            if count != flying.counted:
                flying.counted = count
                flying.record_change()
            elif now - flying.moved_at > flying.suspect_after:
                doubtful.append(flying)
        if not doubtful:
            return
        pending = chord_state.pending_task_ids(self._server, self._run_id, requeue.unacked_hashes(self._server))
        for flying in doubtful:
            requests = self._requests.load(flying.shard)
            found = chord_state.read_parts(self._server, self._publisher.group_id(flying.shard), VOID_REASONS)
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
        body = self._publisher.body_id(shard)
        if body in pending:
            return frozenset()
        open_parts = {self._publisher.task_id(request) for request in requests} - found.outcomes.keys()
        if not open_parts:
            return frozenset([body])
        if found.body_sent or not found.has_size:
            return frozenset(open_parts)
        return frozenset(open_parts - pending)

    def _resend(
        self,
        flying: ShardInFlight,
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
        again = [request for request in requests if self._publisher.task_id(request) not in found.outcomes]
        # A chord that is over, or whose size is gone, counts nothing that is still under way.
        gone = found.body_sent or not found.has_size
        lost = [request for request in again if gone or self._publisher.task_id(request) not in pending]
        if lost and flying.repairs > _MAX_RESENDS:
            if len(lost) < len(again):
                # What is still under way is waited for.
                flying.repairs -= 1
                return 0
            _log.warning("shard %s ends without %d images, lost %d times", shard_name(shard), len(lost), _MAX_RESENDS)
            known += [
                failed_outcome(
                    self._publisher.image_key(request), TaskLostError(f"its task was lost {_MAX_RESENDS} times")
                )
                for request in lost
            ]
            again = []
        if not again:
            self._publisher.publish_body(shard, known, len(requests))
            return 0
        chord_state.reset_parts(self._server, self._publisher.group_id(shard), found)
        self._publisher.publish(shard, requests, lost, recover=True)
        return len(lost)
