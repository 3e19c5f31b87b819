"""No interleaving of deliveries, losses, copies and crashes ends with a missing or a doubled Outcome."""

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

from producer import dispatch
from tasks import keys, manifest
from tasks.celery import IMAGES, SHARDS
from tasks.model import RunOptions, shard_name
from tasks.storage import Store
from tests.integration import played
from tests.integration.broken_versions import BROKEN
from tests.integration.played import FICKLE, RUN_ID, Fleet, Killed, Producer, Stage

_SIZE, _SHARDS = 3, 2
#: The second shard is not full; one image of each is to be had at every other try.
_URLS = [f"http://a.example/{index}" for index in ("0", f"1{FICKLE}", "2", f"3{FICKLE}", "4")]
#: Rounds in which good workers bring any run to its end.
_ENOUGH = 200

_places = st.integers(0, 5)
_shards = st.integers(0, _SHARDS - 1)
_queues = st.sampled_from([IMAGES, IMAGES, SHARDS])
_workers = st.sampled_from(["a", "b"])


@dataclass(frozen=True)
class Move:
    """What the producer or a worker does where nothing goes wrong."""

    kind: str
    queue: str
    worker: str
    place: int
    times: int


#: hypothesis leaves rules out at random, and without these nothing happens: each rule begins with one of them.
_moves = st.builds(
    Move,
    st.sampled_from(["look", "look", "deliver", "work", "work", "do", "finish", "finish"]),
    _queues,
    _workers,
    _places,
    st.integers(1, 3),
)
_PROFILE = settings(
    max_examples=45, stateful_step_count=25, deadline=None, database=None, derandomize=True, print_blob=False
)


class Protocol(RuleBasedStateMachine):
    """A run of two shards in a world that is against it."""

    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self._ends = ExitStack()
        self.fleet = self._ends.enter_context(played.fleet(self.stage))
        folder = Path(tempfile.mkdtemp(prefix="imagefleet-test-"))
        self._ends.callback(shutil.rmtree, folder)
        self.store = Store(folder)
        self.options = RunOptions(str(folder), _SIZE, run_id=RUN_ID)
        self.producer = Producer(self.stage, self.store, self.options, played.planner(self.store, _SIZE, _URLS))
        self.manifests: dict[int, bytes] = {}
        #: How often something has gone on since all was lost last: what loses all would be all that happens.
        self.moves = 0

    @rule(moves=st.lists(_moves, min_size=1, max_size=4))
    def go_on(self, moves: list[Move]) -> None:
        """Nothing goes wrong for a while."""
        for move in moves:
            self._go_on(move)

    @rule(move=_moves, place=_places)
    def look_while_a_worker_dies(self, move: Move, place: int) -> None:
        """What is handed back behind the producer's back is seen in neither place, and is there at the next look."""
        self._go_on(move)
        dying = self._an_image(place)
        self._look()
        if dying is not None:
            worker = dying.tag.partition("-")[0]
            self.fleet.meanwhile = lambda: self.fleet.crash(worker)
        with self._nothing_sent_twice():
            self.producer.step()
        self.fleet.meanwhile = None

    @rule(move=_moves, place=_places)
    def finish_and_die(self, move: Move, place: int) -> None:
        """A worker does what it holds, and dies before that is acknowledged."""
        self._go_on(move)
        if held := self._an_image(place):
            self.fleet.finish(held)
            self.fleet.give_back(held)

    @rule(move=_moves, worker=_workers, lost=st.booleans())
    def crash(self, move: Move, worker: str, lost: bool) -> None:
        """A worker dies, and what it held is handed back, or lost."""
        self._go_on(move)
        self.fleet.crash(worker, lost)

    @rule(move=_moves, how=st.sampled_from([Fleet.lose, Fleet.duplicate]), queue=_queues, place=_places)
    def mislay(self, move: Move, how: Callable[[Fleet, str, int], None], queue: str, place: int) -> None:
        """A message gets lost, or is doubled; others overtake it."""
        self._go_on(move)
        # Bodies are there for moments only.
        queue = SHARDS if self.stage.server.llen(SHARDS) else queue
        if waiting := self.stage.server.llen(queue):
            how(self.fleet, queue, place % waiting)
            self.fleet.turn(queue)

    @rule(move=_moves, shard=_shards, place=_places)
    def lose_part(self, move: Move, shard: int, place: int) -> None:
        """A chord forgets a part."""
        self._go_on(move)
        if parts := self.fleet.parts(shard):
            self.fleet.lose_part(shard, place % len(parts))

    @rule(move=_moves, place=_places)
    def fail(self, move: Move, place: int) -> None:
        """Celery ends a task with an error."""
        self._go_on(move)
        if held := self._an_image(place):
            self.fleet.count(held, {"exc_type": "Boom", "exc_message": ["x"], "exc_module": "builtins"}, "FAILURE")
            self.fleet.acknowledge(held)

    @rule(move=_moves, shard=_shards)
    def claim(self, move: Move, shard: int) -> None:
        """Who fires a body dies before it has done so, or the claim of one that did goes."""
        self._go_on(move)
        self.fleet.claim_expires(shard)
        if self.moves > 1:
            self.moves = 0
            self.fleet.claim(shard)

    @precondition(lambda self: self.moves > 3)
    @rule(moves=st.lists(_moves, max_size=3), what=st.sampled_from(["a chord", "the record", "all"]), shard=_shards)
    def forget(self, moves: list[Move], what: str, shard: int) -> None:
        """Redis forgets a chord, or the run's record, or all; workers may go on with what is left."""
        self.moves = 0
        if what == "a chord":
            self.fleet.lose_parts(shard)
        elif what == "the record":
            self.stage.server.delete(keys.run(RUN_ID))
            # Workers drop what they find no run for, in no time.
            self.fleet.work([IMAGES])
        else:
            self.stage.server.flushall()
        self._work_on(moves)

    @precondition(lambda self: self.moves > 2 and not self.producer.over)
    @rule(
        moves=st.lists(_moves, max_size=3),
        how=st.sampled_from(["killed", "told", "sending"]),
        messages=st.integers(0, 2),
    )
    def end(self, moves: list[Move], how: str, messages: int) -> None:
        """The producer is killed, at once or when it sends next, or told to end; workers may go on."""
        self.moves = 0
        if how == "sending":
            self.producer.kill_while_sending(messages)
        elif how == "killed":
            self.producer.kill()
        else:
            self.producer.end()
        self._work_on(moves)

    @invariant()
    def manifests_stay(self) -> None:
        """A manifest never changes."""
        for shard in range(_SHARDS):
            if self.store.exists(manifest.name(shard)):
                body = self.store.read(manifest.name(shard))
                assert self.manifests.setdefault(shard, body) == body

    def teardown(self) -> None:
        """Let all go well from here: the run ends, with every Outcome once."""
        try:
            for shard in range(_SHARDS):
                self.fleet.claim_expires(shard)
            for _ in range(_ENOUGH):
                if self.producer.over and self.producer.error is None:
                    break
                self.fleet.work()
                self._look()
            assert self.producer.over, "the run does not end"
            assert self.producer.error is None
            # Copies that are left are done by somebody, some day.
            self.fleet.work()
            self.manifests_stay()
            self._assert_whole()
        finally:
            self._ends.close()

    def _go_on(self, move: Move) -> None:
        self.moves += 1
        if move.kind == "look":
            for _ in range(move.times):
                self._look()
        elif move.kind == "deliver":
            for _ in range(min(move.times, self.stage.server.llen(move.queue))):
                self.fleet.take(move.queue, move.worker)
        elif move.kind == "work":
            self.fleet.work([move.queue])
        else:
            act = self.fleet.do if move.kind == "do" else self.fleet.finish
            for held in self._some_held(move.place, move.times):
                act(held)

    def _work_on(self, moves: list[Move]) -> None:
        """Let the workers go on while the producer does not look."""
        for move in moves:
            if move.kind != "look":
                self._go_on(move)

    def _look(self) -> None:
        """Let the producer go on, or the next command if there is none any more."""
        with self._nothing_sent_twice():
            if self.producer.over and self.producer.error is not None:
                self._resume()
            else:
                self.producer.step()

    def _resume(self) -> None:
        assert isinstance(self.producer.error, Killed), self.producer.error
        self.options = replace(self.options, command=self.options.command + 1)
        planner = played.planned(self.store, _SIZE, len(_URLS))
        self.producer = Producer(self.stage, self.store, self.options, planner, resumed=True)

    def _an_image(self, place: int) -> played.Held | None:
        """Return an image in a worker's hands; where there is none, one takes the next that waits, if there is one."""
        images = [held for held in self.fleet.held if held.queue == IMAGES]
        if images:
            return images[place % len(images)]
        return self.fleet.take(IMAGES) if self.stage.server.llen(IMAGES) else None

    def _some_held(self, place: int, times: int = 1) -> list[played.Held]:
        held = self.fleet.held
        return held[place % len(held) :][:times] if held else []

    @contextmanager
    def _nothing_sent_twice(self) -> Iterator[None]:
        """Let the producer act: of what is under way it sends nothing, as long as there is a chord to count it."""
        before = self.fleet.under_way()
        counting = {shard for shard in range(_SHARDS) if self.fleet.counts(shard)}
        yield
        after = self.fleet.under_way()
        for task_id in before:
            # RUN.00000 and the place, or RUN.00000.collect
            shard = int(task_id.removeprefix(f"{RUN_ID}.")[:5])
            assert after[task_id] <= before[task_id] or shard not in counting, task_id

    def _assert_whole(self) -> None:
        keys: list[str] = []
        for shard in range(_SHARDS):
            rows = played.rows(self.store, shard)
            keys += [row.key for row in rows]
            saved = {row.path: row.sha256 for row in rows if row.ok}
            assert sorted(self.store.names(shard_name(shard))) == sorted(map(str, saved))
            for path, digest in saved.items():
                assert path is not None
                assert hashlib.sha256(self.store.read(path)).hexdigest() == digest
            assert {str(row.reason) for row in rows if not row.ok} <= {"http_4xx"}
        assert keys == ["000000", "000001", "000002", "000010", "000011"]


@pytest.fixture(scope="module")
def stage(redis_url: str) -> Iterator[Stage]:
    """The app, connected to the tests' Redis, and a producer that never gives up, as so much gets lost here."""
    with played.stage(redis_url) as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_REPAIRS", 1000)
        yield found


def _run(stage: Stage, **changes: Any) -> None:
    Protocol.stage = stage
    run_state_machine_as_test(Protocol, settings=settings(_PROFILE, **changes))


@pytest.mark.timeout(3000)
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's
def test_every_request_has_one_outcome(stage: Stage) -> None:
    """Whatever happens in whatever order, each shard ends with one manifest, each request with one row, each file.

    The long form is another one each time.
    """
    if os.environ.get("FAULTS") == "long":
        _run(stage, max_examples=1_000, stateful_step_count=50, derandomize=False, print_blob=True)
    else:
        _run(stage)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_broken_version_is_found(
    stage: Stage, broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is broken at one place is found: most by the test above, each by ten times as many examples."""
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        _run(stage, max_examples=10 * _PROFILE.max_examples, phases=[Phase.generate], report_multiple_bugs=False)
