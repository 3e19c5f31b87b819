"""No interleaving of deliveries, losses, copies and crashes ends with a missing or a doubled Outcome."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from producer import dispatch
from tasks import manifest
from tasks.celery import IMAGES, SHARDS
from tasks.model import RunOptions, shard_name
from tasks.storage import Store
from tests.integration import played
from tests.integration.played import REFUSED, RUN_ID, Killed, Producer, Stage

_SIZE, _SHARDS = 3, 2
#: The second shard is not full, and one image of the first is never to be had.
_URLS = ["http://a.example/0", f"http://a.example/1{REFUSED}", *(f"http://a.example/{index}" for index in (2, 3, 4))]
#: Rounds in which good workers bring any run to its end.
_ENOUGH = 200

_places = st.integers(0, 5)
_shards = st.integers(0, _SHARDS - 1)
_queues = st.sampled_from([IMAGES, IMAGES, SHARDS])
_workers = st.sampled_from(["a", "b"])


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

    @rule(times=st.integers(1, 3))
    def look(self, times: int) -> None:
        """The producer goes on."""
        self.moves += 1
        self.producer.step(times)

    @rule(queue=_queues, worker=_workers, times=st.integers(1, 3))
    def deliver(self, queue: str, worker: str, times: int) -> None:
        """A worker takes what waits."""
        self.moves += 1
        for _ in range(times):
            if self.stage.server.llen(queue):
                self.fleet.take(queue, worker)

    @rule(queues=st.sampled_from([[IMAGES], [SHARDS], [IMAGES, SHARDS]]))
    def work(self, queues: list[str]) -> None:
        """All workers do all that there is."""
        self.moves += 1
        self.fleet.work(queues)

    @precondition(lambda self: self.fleet.held)
    @rule(place=_places)
    def do(self, place: int) -> None:
        """A worker does what it holds, and has told nobody yet."""
        self.moves += 1
        self.fleet.do(self.fleet.held[place % len(self.fleet.held)])

    @precondition(lambda self: self.fleet.held)
    @rule(place=_places)
    def finish(self, place: int) -> None:
        """A worker does what it holds, and acknowledges it."""
        self.moves += 1
        self.fleet.finish(self.fleet.held[place % len(self.fleet.held)])

    @precondition(lambda self: self.fleet.held)
    @rule(place=_places)
    def finish_and_die(self, place: int) -> None:
        """A worker does what it holds, and dies before that is acknowledged."""
        held = self.fleet.held[place % len(self.fleet.held)]
        self.fleet.finish(held)
        self.fleet.give_back(held)

    @precondition(lambda self: self.fleet.held)
    @rule(worker=_workers, lost=st.booleans())
    def crash(self, worker: str, lost: bool) -> None:
        """A worker dies, and what it held is handed back, or lost."""
        self.fleet.crash(worker, lost)

    @precondition(lambda self: self.stage.server.llen(IMAGES) or self.stage.server.llen(SHARDS))
    @rule(queue=_queues, place=_places)
    def lose(self, queue: str, place: int) -> None:
        """A message gets lost."""
        if waiting := self.stage.server.llen(queue):
            self.fleet.lose(queue, place % waiting)

    @precondition(lambda self: self.stage.server.llen(IMAGES) or self.stage.server.llen(SHARDS))
    @rule(queue=_queues, place=_places)
    def duplicate(self, queue: str, place: int) -> None:
        """A message is doubled."""
        if waiting := self.stage.server.llen(queue):
            self.fleet.duplicate(queue, place % waiting)

    @precondition(lambda self: self.stage.server.llen(IMAGES) or self.stage.server.llen(SHARDS))
    @rule(queue=_queues)
    def turn(self, queue: str) -> None:
        """Messages overtake each other."""
        self.fleet.turn(queue)

    @precondition(lambda self: self._counted())
    @rule(shard=_shards, place=_places)
    def lose_part(self, shard: int, place: int) -> None:
        """A chord forgets a part."""
        if parts := self.fleet.parts(shard):
            self.fleet.lose_part(shard, place % len(parts))

    @precondition(lambda self: self.moves > 3)
    @rule(shard=_shards)
    def lose_parts(self, shard: int) -> None:
        """A chord forgets all."""
        self.moves = 0
        self.fleet.lose_parts(shard)

    @precondition(lambda self: any(held.queue == IMAGES for held in self.fleet.held))
    @rule(place=_places)
    def fail(self, place: int) -> None:
        """Celery ends a task with an error."""
        images = [held for held in self.fleet.held if held.queue == IMAGES]
        held = images[place % len(images)]
        self.fleet.count(held, {"exc_type": "Boom", "exc_message": ["x"], "exc_module": "builtins"}, "FAILURE")
        self.fleet.acknowledge(held)

    @precondition(lambda self: self.moves > 3)
    @rule(shard=_shards)
    def claim(self, shard: int) -> None:
        """Who fires a body dies before it has done so."""
        self.moves = 0
        self.fleet.claim(shard)

    @precondition(lambda self: self.stage.server.exists(*(played.chord_key(shard, ".c") for shard in range(_SHARDS))))
    @rule(shard=_shards)
    def claim_expires(self, shard: int) -> None:
        """A claim goes."""
        self.fleet.claim_expires(shard)

    @precondition(lambda self: self.moves > 3)
    @rule()
    def empty(self) -> None:
        """Redis comes back with nothing."""
        self.moves = 0
        self.stage.server.flushall()

    @precondition(lambda self: self.moves > 2 and not self.producer.over)
    @rule(messages=st.integers(0, 2))
    def kill_while_sending(self, messages: int) -> None:
        """The producer is killed when it sends next."""
        self.moves = 0
        self.producer.kill_while_sending(messages)

    @precondition(lambda self: self.moves > 2 and not self.producer.over)
    @rule(killed=st.booleans())
    def end(self, killed: bool) -> None:
        """The producer is killed, or told to end."""
        self.moves = 0
        if killed:
            self.producer.kill()
        else:
            self.producer.end()

    @precondition(lambda self: self.producer.over)
    @rule()
    def resume(self) -> None:
        """The next command goes on."""
        assert self.producer.error is None or isinstance(self.producer.error, Killed)
        planner = played.planned(self.store, _SIZE, len(_URLS))
        self.producer = Producer(self.stage, self.store, self.options, planner, resumed=True)

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
                if self.producer.over:
                    if self.producer.error is None:
                        break
                    self.resume()
                self.fleet.work()
                self.producer.step()
            assert self.producer.over, "the run does not end"
            assert self.producer.error is None
            # Copies that are left are done by somebody, some day.
            self.fleet.work()
            self.manifests_stay()
            self._assert_whole()
        finally:
            self._ends.close()

    def _counted(self) -> bool:
        return any(self.fleet.parts(shard) for shard in range(_SHARDS))

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


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's
def test_every_request_has_one_outcome(stage: Stage) -> None:
    """Whatever happens in whatever order, each shard ends with one manifest, each request with one row, each file."""
    Protocol.stage = stage
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=30, stateful_step_count=40, deadline=None, database=None, derandomize=True, print_blob=False
        ),
    )
