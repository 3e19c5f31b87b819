"""No Outcome is missing or doubled, no matter how deliveries, losses, copies and crashes interleave."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from producer.dispatch import recovery
from tasks.broker import keys
from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE
from tasks.model import RunOptions, shard_name
from tasks.storage import manifest
from tasks.storage.local_store import LocalStore
from tests.integration import simulated_fleet
from tests.integration.broken_versions import BROKEN
from tests.integration.simulated_fleet import FLAKY, RUN_ID, Fleet, Killed, Producer, Stage

_SIZE, _SHARDS = 3, 2
#: The second shard is not full. One image of each shard succeeds only at every second attempt.
_URLS = [f"http://a.example/{index}" for index in ("0", f"1{FLAKY}", "2", f"3{FLAKY}", "4")]
#: The number of rounds in which a fleet without failures finishes any run.
_MAX_ROUNDS = 200

_places = st.integers(0, 5)
_shards = st.integers(0, _SHARDS - 1)
_queues = st.sampled_from([IMAGE_QUEUE, IMAGE_QUEUE, SHARD_QUEUE])
_workers = st.sampled_from(["a", "b"])


@dataclass(frozen=True)
class Move:
    """An action of the producer or of a worker, without a failure."""

    kind: str
    queue: str
    worker: str
    place: int
    times: int


#: hypothesis omits rules at random. Each rule starts with a move of the producer or a worker, because nothing happens
#: without moves.
_moves = st.builds(
    Move,
    st.sampled_from(["step", "step", "deliver", "work", "work", "execute", "finish", "finish"]),
    _queues,
    _workers,
    _places,
    st.integers(1, 3),
)
_PROFILE = settings(
    max_examples=45, stateful_step_count=25, deadline=None, database=None, derandomize=True, print_blob=False
)


class Protocol(RuleBasedStateMachine):
    """A model of a run of two shards with every failure that can occur."""

    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self._cleanup = ExitStack()
        self.fleet = self._cleanup.enter_context(simulated_fleet.fleet(self.stage))
        folder = Path(tempfile.mkdtemp(prefix="imagefleet-test-"))
        self._cleanup.callback(shutil.rmtree, folder)
        self.store = LocalStore(folder)
        self.options = RunOptions(str(folder), _SIZE, run_id=RUN_ID)
        self.producer = Producer(
            self.stage, self.store, self.options, simulated_fleet.planner(self.store, _SIZE, _URLS)
        )
        self.manifests: dict[int, bytes] = {}
        #: The number of moves since the last time that Redis lost everything. Redis loses everything only after a
        #: minimum number of moves, so that progress is possible between two such losses.
        self.moves = 0

    @rule(moves=st.lists(_moves, min_size=1, max_size=4))
    def advance(self, moves: list[Move]) -> None:
        """For a while, no failure occurs."""
        for move in moves:
            self._make_move(move)

    @rule(move=_moves, place=_places)
    def inspect_while_a_worker_dies(self, move: Move, place: int) -> None:
        """The producer's scan misses messages that are requeued during the scan. The next inspection finds them."""
        self._make_move(move)
        dying = self._taken_image(place)
        self._step_producer()
        if dying is not None:
            worker = dying.tag.partition("-")[0]
            self.fleet.between_scans = lambda: self.fleet.crash(worker)
        with self._no_resends():
            self.producer.step()
        self.fleet.between_scans = None

    @rule(move=_moves, place=_places)
    def finish_and_die(self, move: Move, place: int) -> None:
        """A worker executes a message, and dies before acknowledging it."""
        self._make_move(move)
        if taken := self._taken_image(place):
            self.fleet.finish(taken)
            self.fleet.requeue(taken)

    @rule(move=_moves, worker=_workers, lost=st.booleans())
    def crash(self, move: Move, worker: str, lost: bool) -> None:
        """A worker dies. The dead worker's messages are either requeued or lost."""
        self._make_move(move)
        self.fleet.crash(worker, lost)

    @rule(move=_moves, how=st.sampled_from([Fleet.lose, Fleet.duplicate]), queue=_queues, place=_places)
    def lose_or_duplicate(self, move: Move, how: Callable[[Fleet, str, int], None], queue: str, place: int) -> None:
        """A message gets lost, or is duplicated, or other messages overtake it."""
        self._make_move(move)
        # A collect task is in its queue only for a moment.
        queue = SHARD_QUEUE if self.stage.server.llen(SHARD_QUEUE) else queue
        if waiting := self.stage.server.llen(queue):
            how(self.fleet, queue, place % waiting)
            self.fleet.reverse(queue)

    @rule(move=_moves, shard=_shards, place=_places)
    def lose_part(self, move: Move, shard: int, place: int) -> None:
        """A chord forgets a part."""
        self._make_move(move)
        if parts := self.fleet.parts(shard):
            self.fleet.lose_part(shard, place % len(parts))

    @rule(move=_moves, place=_places)
    def fail(self, move: Move, place: int) -> None:
        """Celery ends a task with an error."""
        self._make_move(move)
        if taken := self._taken_image(place):
            self.fleet.count(taken, {"exc_type": "Boom", "exc_message": ["x"], "exc_module": "builtins"}, "FAILURE")
            self.fleet.acknowledge(taken)

    @rule(move=_moves, shard=_shards)
    def claim(self, move: Move, shard: int) -> None:
        """A worker claims the collect task and dies before sending it, or an old claim expires."""
        self._make_move(move)
        self.fleet.claim_expires(shard)
        if self.moves > 1:
            self.moves = 0
            self.fleet.claim(shard)

    @precondition(lambda self: self.moves > 3)
    @rule(moves=st.lists(_moves, max_size=3), what=st.sampled_from(["a chord", "the record", "all"]), shard=_shards)
    def forget(self, moves: list[Move], what: str, shard: int) -> None:
        """Redis forgets a chord, the run's record, or everything. Workers may continue with the remaining messages."""
        self.moves = 0
        if what == "a chord":
            self.fleet.lose_parts(shard)
        elif what == "the record":
            self.stage.server.delete(keys.run(RUN_ID))
            # Workers immediately drop the tasks of a run without a record.
            self.fleet.work([IMAGE_QUEUE])
        else:
            self.stage.server.flushall()
        self._move_workers(moves)

    @precondition(lambda self: self.moves > 2 and not self.producer.ended)
    @rule(
        moves=st.lists(_moves, max_size=3),
        how=st.sampled_from(["killed", "stopped", "sending"]),
        messages=st.integers(0, 2),
    )
    def end(self, moves: list[Move], how: str, messages: int) -> None:
        """The producer is stopped, killed at once, or killed when it next sends messages. Workers may continue."""
        self.moves = 0
        if how == "sending":
            self.producer.kill_while_sending(messages)
        elif how == "killed":
            self.producer.kill()
        else:
            self.producer.end()
        self._move_workers(moves)

    @invariant()
    def manifests_stay(self) -> None:
        """A manifest never changes."""
        for shard in range(_SHARDS):
            if self.store.exists(manifest.name(shard)):
                body = self.store.read(manifest.name(shard))
                assert self.manifests.setdefault(shard, body) == body

    def teardown(self) -> None:
        """Let everything succeed from here, and check that the run ends with each Outcome exactly once."""
        try:
            for shard in range(_SHARDS):
                self.fleet.claim_expires(shard)
            for _ in range(_MAX_ROUNDS):
                if self.producer.ended and self.producer.error is None:
                    break
                self.fleet.work()
                self._step_producer()
            assert self.producer.ended, "the run does not end"
            assert self.producer.error is None
            # Workers execute the remaining copies sooner or later.
            self.fleet.work()
            self.manifests_stay()
            self._assert_complete()
        finally:
            self._cleanup.close()

    def _make_move(self, move: Move) -> None:
        self.moves += 1
        if move.kind == "step":
            for _ in range(move.times):
                self._step_producer()
        elif move.kind == "deliver":
            for _ in range(min(move.times, self.stage.server.llen(move.queue))):
                self.fleet.take(move.queue, move.worker)
        elif move.kind == "work":
            self.fleet.work([move.queue])
        else:
            act = self.fleet.execute if move.kind == "execute" else self.fleet.finish
            for taken in self._taken_messages(move.place, move.times):
                act(taken)

    def _move_workers(self, moves: list[Move]) -> None:
        """Let the workers continue while the producer inspects nothing."""
        for move in moves:
            if move.kind != "step":
                self._make_move(move)

    def _step_producer(self) -> None:
        """Let the producer continue. If the producer has ended, start the next command."""
        with self._no_resends():
            if self.producer.ended and self.producer.error is not None:
                self._resume()
            else:
                self.producer.step()

    def _resume(self) -> None:
        assert isinstance(self.producer.error, Killed), self.producer.error
        self.options = replace(self.options, epoch=self.options.epoch + 1)
        planner = simulated_fleet.earlier_plan(self.store, _SIZE, len(_URLS))
        self.producer = Producer(self.stage, self.store, self.options, planner, resumed=True)

    def _taken_image(self, place: int) -> simulated_fleet.TakenMessage | None:
        """Return an image task that a worker has taken, or None if there is no image task.

        If no worker has taken an image task, let a worker take the next queued task.
        """
        images = [taken for taken in self.fleet.taken if taken.queue == IMAGE_QUEUE]
        if images:
            return images[place % len(images)]
        return self.fleet.take(IMAGE_QUEUE) if self.stage.server.llen(IMAGE_QUEUE) else None

    def _taken_messages(self, place: int, times: int = 1) -> list[simulated_fleet.TakenMessage]:
        taken = self.fleet.taken
        return taken[place % len(taken) :][:times] if taken else []

    @contextmanager
    def _no_resends(self) -> Iterator[None]:
        """Let the producer act. Check that the producer resends no message in flight that a chord can still count."""
        before = self.fleet.in_flight()
        counting = {shard for shard in range(_SHARDS) if self.fleet.is_counting(shard)}
        yield
        after = self.fleet.in_flight()
        for task_id in before:
            # The id of a task is RUN.00000 followed by the image's place in the shard, or RUN.00000.collect.
            shard = int(task_id.removeprefix(f"{RUN_ID}.")[:5])
            assert after[task_id] <= before[task_id] or shard not in counting, task_id

    def _assert_complete(self) -> None:
        keys: list[str] = []
        for shard in range(_SHARDS):
            rows = simulated_fleet.rows(self.store, shard)
            keys += [row.key for row in rows]
            saved = {row.path: row.sha256 for row in rows if row.ok}
            assert sorted(self.store.list_files(shard_name(shard))) == sorted(map(str, saved))
            for path, digest in saved.items():
                assert path is not None
                assert hashlib.sha256(self.store.read(path)).hexdigest() == digest
            assert {str(row.reason) for row in rows if not row.ok} <= {"http_4xx"}
        assert keys == ["000000", "000001", "000002", "000010", "000011"]


@pytest.fixture(scope="module")
def stage(redis_url: str) -> Iterator[Stage]:
    """Connect the app to the tests' Redis, and let the producer never give up despite so many losses."""
    with simulated_fleet.stage(redis_url) as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "_MAX_RESENDS", 1000)
        yield found


def _run(stage: Stage, **changes: Any) -> None:
    Protocol.stage = stage
    run_state_machine_as_test(Protocol, settings=settings(_PROFILE, **changes))


@pytest.mark.timeout(3000)
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's
def test_every_request_has_one_outcome(stage: Stage) -> None:
    """After any failures in any order, each shard has one manifest, and each request has one row and one file.

    The long form uses other examples each time.
    """
    if os.environ.get("FAULTS") == "long":
        _run(stage, max_examples=1_000, stateful_step_count=50, derandomize=False, print_blob=True)
    else:
        _run(stage)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_finds_a_broken_version(
    stage: Stage, broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model finds the defect of each broken version.

    It needs at most ten times as many examples as the test above.
    """
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        _run(stage, max_examples=10 * _PROFILE.max_examples, phases=[Phase.generate], report_multiple_bugs=False)
