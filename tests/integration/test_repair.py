"""Whatever gets lost on the way is sent again, once it is missing for sure, and every request has one Outcome."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producer.dispatch import Dispatcher
from tasks import keys, manifest
from tasks.celery import IMAGES, SHARDS
from tasks.errors import Cancelled, Fault, StorageFailed
from tasks.fetch import failed
from tasks.model import Reason, RunOptions, Status
from tasks.storage import Store
from tasks.suspects import BODY_CRASHES
from tasks.transport import Channel
from tests.integration import played
from tests.integration.played import REFUSED, RUN_ID, Fleet, Producer, Stage

_SIZE = 3
_OPTIONS = RunOptions("/out", _SIZE, run_id=RUN_ID)
_URLS = [f"http://a.example/{index}" for index in range(2 * _SIZE)]
#: Steps in which a shard that stands still is looked into twice, and sent again.
_LOOKS = 3


@pytest.fixture(scope="module")
def stage(redis_url: str) -> Iterator[Stage]:
    """The app, connected to the tests' Redis."""
    with played.stage(redis_url) as found:
        yield found


@pytest.fixture
def fleet(stage: Stage) -> Iterator[Fleet]:
    """A fleet that the test plays, at an empty Redis."""
    with played.fleet(stage) as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty run's folder."""
    return Store(tmp_path)


Begin = Callable[..., Producer]


@pytest.fixture
def begin(stage: Stage, fleet: Fleet, store: Store) -> Begin:
    """Begins a run of one shard, or of more."""

    def start(shards: int = 1, **options: Any) -> Producer:
        return Producer(stage, store, _OPTIONS, played.planner(store, _SIZE, _URLS[: shards * _SIZE]), **options)

    return start


def resume(stage: Stage, store: Store, shards: int = 1, revision: int = 0, **options: Any) -> Producer:
    """Go on with a run whose plan is complete, by its second command."""
    run = RunOptions("/out", _SIZE, run_id=RUN_ID, revision=revision, command=1)
    planner = played.planned(store, _SIZE, shards * _SIZE)
    return Producer(stage, store, run, planner, resumed=True, **options)


def finish(producer: Producer, fleet: Fleet, steps: int = 50) -> None:
    """Let good workers work until the run ends."""
    for _ in range(steps):
        fleet.work()
        producer.step()
        if producer.over:
            return
    raise AssertionError("the run does not end")


def assert_whole(store: Store, fleet: Fleet, shards: int = 1) -> None:
    """Every image is there, in the one row that it has."""
    for shard in range(shards):
        rows = played.rows(store, shard)
        assert [row.key for row in rows] == [f"{shard:05d}{place}" for place in range(_SIZE)]
        assert all(row.ok and row.path and store.exists(row.path) for row in rows)
    assert fleet.server.exists(*keys.of_run(RUN_ID)) == 0


def sent(fleet: Fleet, queue: str = IMAGES) -> list[str]:
    """The ids of the tasks that wait in a queue."""
    return [message["headers"]["id"] for message in fleet.waiting(queue)]


def task(index: int, suffix: str = "") -> str:
    """The id of an image's task."""
    shard, place = divmod(index, _SIZE)
    return f"{RUN_ID}.{shard:05d}{place}{suffix}"


def test_nothing_is_repaired_where_nothing_is_lost(begin: Begin, fleet: Fleet, store: Store) -> None:
    """A run without a fault downloads each image once and repairs nothing."""
    producer = begin(2)
    finish(producer, fleet)
    assert (producer.timing.images, producer.timing.repaired) == (2 * _SIZE, 0)
    assert sorted(fleet.downloader.hits) == _URLS
    assert_whole(store, fleet, 2)


def test_lost_message(begin: Begin, fleet: Fleet, store: Store) -> None:
    """A message that is nowhere is sent again under its id, and only that one; the task is told that it may be done."""
    producer = begin()
    fleet.lose(IMAGES, 1)
    producer.step()
    assert sent(fleet) == [task(0), task(2)]
    producer.step(_LOOKS)
    assert sent(fleet) == [task(0), task(2), task(1)]
    again = fleet.waiting()[2]
    assert again["headers"]["group_index"] == 1
    held = [fleet.take() for _ in range(_SIZE)]
    assert [message.body[1] for message in held] == [{}, {}, {"recover": True}]
    finish(producer, fleet)
    assert producer.timing.repaired == 1
    assert_whole(store, fleet)


def test_lost_part(begin: Begin, fleet: Fleet, store: Store) -> None:
    """A part that its chord has forgotten is made again from what is saved, without a download."""
    producer = begin()
    for _ in range(2):
        fleet.finish(fleet.take())
    fleet.lose_part(0, 0)
    producer.step(_LOOKS)
    assert sent(fleet) == [task(2), task(0)]
    finish(producer, fleet)
    assert len(fleet.downloader.hits) == _SIZE
    assert [row.recovered for row in played.rows(store, 0)] == [True, False, False]
    assert producer.timing.repaired == 1
    assert_whole(store, fleet)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's
@pytest.mark.parametrize("last", [False, True], ids=["in the middle", "at last"])
def test_part_that_is_counted_as_failed(begin: Begin, fleet: Fleet, store: Store, last: bool) -> None:
    """A task that Celery ended with an error is done again, also where its part has failed the whole chord."""
    producer = begin()
    bad = fleet.take()
    for _ in range(_SIZE - 1 if last else 0):
        fleet.finish(fleet.take())
    fleet.count(bad, {"exc_type": "Boom", "exc_message": ["boom"], "exc_module": "builtins"}, "FAILURE")
    fleet.acknowledge(bad)
    producer.step(_LOOKS)
    assert sent(fleet)[-1] == task(0)
    finish(producer, fleet)
    assert producer.timing.repaired == 1
    assert_whole(store, fleet)


def test_claim_that_died(begin: Begin, fleet: Fleet, store: Store) -> None:
    """A chord that is complete, and whose body nobody sends, has its body sent by the producer; no image is again."""
    producer = begin()
    fleet.claim(0)
    fleet.work([IMAGES])
    assert len(fleet.parts(0)) == _SIZE
    assert sent(fleet, SHARDS) == []
    producer.step(_LOOKS)
    assert sent(fleet, SHARDS) == [f"{RUN_ID}.00000.collect"]
    assert sent(fleet) == []
    finish(producer, fleet)
    assert producer.timing.repaired == 0
    assert not any(row.recovered for row in played.rows(store, 0))
    assert_whole(store, fleet)


def test_lost_body(begin: Begin, fleet: Fleet, store: Store) -> None:
    """With a chord's body its Outcomes are gone: its images are described anew from what is saved, none downloaded."""
    producer = begin()
    fleet.work([IMAGES])
    assert sent(fleet, SHARDS) == [f"{RUN_ID}.00000.collect"]
    fleet.lose(SHARDS)
    producer.step(_LOOKS)
    assert sent(fleet) == [task(index) for index in range(_SIZE)]
    finish(producer, fleet)
    assert (len(fleet.downloader.hits), producer.timing.repaired) == (_SIZE, _SIZE)
    assert all(row.recovered for row in played.rows(store, 0))
    assert_whole(store, fleet)


def test_redis_emptied_in_the_middle(
    begin: Begin, fleet: Fleet, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A Redis that comes back with nothing is told all that is not collected; what is collected stays."""
    producer = begin(2)
    for _ in range(_SIZE):
        fleet.finish(fleet.take())
    fleet.work([SHARDS])
    producer.step()
    before = store.read(manifest.name(0))
    fleet.finish(fleet.take())
    fleet.server.flushall()
    with caplog.at_level(logging.WARNING):
        producer.step(_LOOKS + 1)
    assert "Redis has lost the run" in caplog.text
    assert sent(fleet) == [task(index) for index in range(_SIZE, 2 * _SIZE)]
    finish(producer, fleet)
    assert len(fleet.downloader.hits) == 2 * _SIZE
    assert producer.timing.repaired == _SIZE
    assert store.read(manifest.name(0)) == before
    assert_whole(store, fleet, 2)


def test_redis_emptied_while_workers_go_on(begin: Begin, fleet: Fleet, store: Store) -> None:
    """What workers held when Redis was emptied ends as cancelled, and is done again."""
    producer = begin()
    held = [fleet.take() for _ in range(_SIZE)]
    fleet.server.flushall()
    for message in held:
        fleet.finish(message)
    assert fleet.downloader.hits == []
    finish(producer, fleet)
    assert_whole(store, fleet)


def test_record_that_is_gone_is_written_again(begin: Begin, fleet: Fleet, store: Store) -> None:
    """Without a run's record the tasks would be dropped: it is put back at the next look."""
    producer = begin()
    record = fleet.server.get(keys.run(RUN_ID))
    fleet.server.delete(keys.run(RUN_ID))
    producer.step(2)
    assert fleet.server.get(keys.run(RUN_ID)) == record
    assert sent(fleet) == [task(index) for index in range(_SIZE)]
    finish(producer, fleet)
    assert_whole(store, fleet)


def test_body_that_was_cancelled(begin: Begin, fleet: Fleet, store: Store) -> None:
    """A body with images that were cancelled while the record was gone makes no manifest: they are done again."""
    producer = begin()
    fleet.server.delete(keys.run(RUN_ID))
    fleet.work([IMAGES])
    producer.step(2)
    assert len(fleet.waiting(SHARDS)) == 1
    finish(producer, fleet)
    assert len(fleet.downloader.hits) == _SIZE
    assert_whole(store, fleet)


def test_image_that_is_lost_again_and_again(begin: Begin, fleet: Fleet, store: Store) -> None:
    """After five repairs the shard ends with what it has: `lost` is what never came, and the run ends."""
    producer = begin(2)
    tries = 0
    for _ in range(100):
        if producer.over:
            break
        for message in [fleet.take() for _ in fleet.waiting()]:
            if message.index == 1:
                tries += 1
                fleet.acknowledge(message)
            else:
                fleet.finish(message)
        fleet.work([SHARDS])
        producer.step()
    assert producer.timing.repaired == 5
    assert tries == 6
    first, lost, third = played.rows(store, 0)
    assert (first.ok, third.ok, lost.reason, lost.key) == (True, True, Reason.LOST, "000001")
    assert "5 times" in (lost.error_message or "")
    assert all(row.ok for row in played.rows(store, 1))


def test_body_that_is_lost_again_and_again(begin: Begin, fleet: Fleet, store: Store) -> None:
    """Where not even the end of a shard comes back, the run ends with a Fault that says what to do."""
    producer = begin()
    for _ in range(100):
        if producer.over:
            break
        fleet.work([IMAGES])
        fleet.lose(SHARDS)
        producer.step()
    assert isinstance(producer.error, Fault)
    assert producer.error.what == "Shard 00000 is lost again and again"
    assert "producer resume" in producer.error.todo
    assert not store.exists(manifest.name(0))


def test_nothing_is_sent_again_while_it_waits(begin: Begin, fleet: Fleet, store: Store) -> None:
    """A shard that stands still has nothing sent again while its messages are in a queue or in some worker's hands."""
    producer = begin()
    producer.step(20)
    held = [fleet.take(worker="a"), fleet.take(worker="b")]
    producer.step(20)
    assert (sent(fleet), fleet.waiting(SHARDS)) == ([task(2)], [])
    for message in held:
        fleet.finish(message)
    fleet.finish(fleet.take())
    body = fleet.take(SHARDS)
    producer.step(20)
    assert (sent(fleet), sent(fleet, SHARDS)) == ([], [])
    fleet.finish(body)
    finish(producer, fleet)
    assert producer.timing.repaired == 0
    assert_whole(store, fleet)


def test_what_a_dead_worker_held_is_not_sent_twice(begin: Begin, fleet: Fleet, store: Store) -> None:
    """What is handed back waits again; only what got lost on the way is sent anew."""
    producer = begin()
    for _ in range(2):
        fleet.take()
    fleet.crash("a")
    producer.step(20)
    assert sorted(sent(fleet)) == [task(index) for index in range(_SIZE)]
    fleet.take()
    fleet.crash("a", lost=True)
    producer.step(_LOOKS)
    assert sorted(sent(fleet)) == [task(index) for index in range(_SIZE)]
    finish(producer, fleet)
    assert producer.timing.repaired == 1
    assert_whole(store, fleet)


def test_resume_passes_over_what_is_done(stage: Stage, begin: Begin, fleet: Fleet, store: Store) -> None:
    """A shard with a manifest is not sent by the next command, and counts as done before."""
    first = begin(2, window=1)
    fleet.work()
    assert store.exists(manifest.name(0))
    first.kill()
    second = resume(stage, store, 2)
    second.step()
    assert sent(fleet) == [task(index) for index in range(_SIZE, 2 * _SIZE)]
    finish(second, fleet)
    assert second.told[-1].done_before == _SIZE
    assert (second.timing.images, sorted(fleet.downloader.hits)) == (_SIZE, _URLS)
    assert_whole(store, fleet, 2)


def test_resume_of_what_is_all_done(stage: Stage, begin: Begin, fleet: Fleet, store: Store) -> None:
    """Where every manifest stands, nothing is sent at all."""
    finish(begin(2), fleet)
    second = resume(stage, store, 2)
    second.step(2)
    assert second.over
    assert second.timing.images == 0
    assert (sent(fleet), sent(fleet, SHARDS)) == ([], [])


def test_resume_adopts_what_is_under_way(stage: Stage, begin: Begin, fleet: Fleet, store: Store) -> None:
    """What a killed producer has left in queues, hands and chords is waited for, and what it never sent is sent."""
    first = begin(2)
    first.step()
    fleet.finish(fleet.take())
    fleet.take()
    # The last message of the second shard had not been sent when it died.
    fleet.lose(IMAGES, 3)
    first.kill()
    left = sent(fleet)
    second = resume(stage, store, 2)
    second.step()
    assert sent(fleet) == [*left, task(2 * _SIZE - 1)]
    second.step(20)
    assert sent(fleet) == [*left, task(2 * _SIZE - 1)]
    finish(second, fleet)
    assert sorted(fleet.downloader.hits) == _URLS
    assert_whole(store, fleet, 2)


def test_resume_waits_for_a_body(stage: Stage, begin: Begin, fleet: Fleet, store: Store) -> None:
    """Where only the end of a shard is under way, nothing is sent."""
    first = begin()
    fleet.work([IMAGES])
    first.kill()
    second = resume(stage, store)
    assert (sent(fleet), len(sent(fleet, SHARDS))) == ([], 1)
    finish(second, fleet)
    assert len(fleet.downloader.hits) == _SIZE
    assert_whole(store, fleet)


@pytest.mark.parametrize("error", [Cancelled("the run has ended"), StorageFailed("the disk is full")])
def test_resume_does_what_ended_with_the_run_again(
    stage: Stage, begin: Begin, fleet: Fleet, store: Store, error: Cancelled | StorageFailed
) -> None:
    """A part that was cancelled, or could not be saved, counts for nothing in the next command."""
    first = begin()
    message = fleet.take()
    fleet.count(message, failed("000000", error).to_json())
    fleet.acknowledge(message)
    first.end()
    second = resume(stage, store)
    assert sent(fleet) == [task(1), task(2), task(0)]
    finish(second, fleet)
    assert_whole(store, fleet)


def unsaved(fleet: Fleet) -> None:
    """Let the first image end unsaved, as by a disk that is full, and be counted."""
    message = fleet.take()
    fleet.count(message, failed("000000", StorageFailed("the disk is full")).to_json())
    fleet.acknowledge(message)


@pytest.mark.parametrize("body", [False, True], ids=["last message", "body"])
def test_resume_tries_again_what_could_not_be_saved(
    stage: Stage, begin: Begin, fleet: Fleet, store: Store, body: bool
) -> None:
    """An image that the command before could not save decides nothing, wherever the end of its shard was by then.

    Its part may be counted in time and be forgotten, or be in a body that waits; that is of the earlier command, as is
    one that the last of its messages fires later.
    """
    first = begin()
    unsaved(fleet)
    if body:
        fleet.work([IMAGES])
        assert len(sent(fleet, SHARDS)) == 1
    first.end()
    second = resume(stage, store)
    finish(second, fleet)
    assert sorted(set(fleet.downloader.hits)) == _URLS[:_SIZE]
    assert len(fleet.downloader.hits) == _SIZE
    assert_whole(store, fleet)


def test_late_failure_to_save_in_an_adopted_shard(stage: Stage, begin: Begin, fleet: Fleet, store: Store) -> None:
    """A body of the first command whose image could not be saved later is passed over, and the second try counts."""
    first = begin()
    held = fleet.take()
    first.kill()
    second = resume(stage, store)
    fleet.count(held, failed("000000", StorageFailed("the disk is full")).to_json())
    fleet.acknowledge(held)
    fleet.work([IMAGES])
    assert fleet.waiting(SHARDS)
    fleet.work([SHARDS])
    assert not store.exists(manifest.name(0))
    second.step(_LOOKS)
    assert {message["headers"]["id"] for message in fleet.waiting()} == {task(index) for index in range(_SIZE)}
    unsaved(fleet)
    finish(second, fleet)
    assert [row.reason for row in played.rows(store, 0)] == [Reason.STORAGE, None, None]


def test_failure_to_save_is_final_while_a_command_is_at_the_run(begin: Begin, fleet: Fleet, store: Store) -> None:
    """Without another command, an image that could not be saved has failed as any other: it is not sent again."""
    producer = begin()
    unsaved(fleet)
    slow = fleet.take()
    fleet.finish(fleet.take())
    producer.step(20)
    assert sent(fleet) == []
    fleet.finish(slow)
    finish(producer, fleet)
    assert producer.timing.repaired == 0
    assert [row.reason for row in played.rows(store, 0)] == [Reason.STORAGE, None, None]


def test_image_of_a_dead_worker_is_not_downloaded_again(begin: Begin, fleet: Fleet, store: Store) -> None:
    """What a worker had saved when it died is taken from the disk by the next one; what it had not is downloaded."""
    producer = begin()
    saved = fleet.take()
    fleet.take()
    fleet.do(saved)
    fleet.crash("a")
    finish(producer, fleet)
    assert sorted(fleet.downloader.hits) == _URLS[:_SIZE]
    assert [row.recovered for row in played.rows(store, 0)] == [True, False, False]
    assert_whole(store, fleet)


def test_body_that_kills_its_workers(begin: Begin, fleet: Fleet, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of which one worker after the other dies ends its run, with an error that says so."""
    producer = begin()
    fleet.work([IMAGES])
    monkeypatch.setattr(Channel, "holder", played.worker_id("a"))
    for death in range(1 + BODY_CRASHES):
        assert not producer.over
        body = fleet.take(SHARDS)
        if death:
            # It is watched from its second delivery on.
            fleet.server.sadd(keys.begun(body.worker), body.task_id)
        fleet.crash("a")
        producer.step(_LOOKS)
    fleet.work()
    producer.step()
    assert isinstance(producer.error, Fault)
    assert producer.error.what == "Shard 00000 could not be collected"
    assert f"{BODY_CRASHES} workers died" in producer.error.why
    assert not store.exists(manifest.name(0))


def test_resume_after_the_queue_was_drained(stage: Stage, begin: Begin, fleet: Fleet, store: Store) -> None:
    """A run that was cancelled, whose messages the workers have dropped since, is done by the next command."""
    first = begin(2)
    fleet.finish(fleet.take())
    first.end()
    fleet.work()
    assert not store.exists(manifest.name(0))
    second = resume(stage, store, 2)
    finish(second, fleet)
    assert sorted(fleet.downloader.hits) == _URLS
    assert_whole(store, fleet, 2)


@pytest.fixture
def refused(stage: Stage, fleet: Fleet, store: Store) -> dict[int, bytes]:
    """A finished run of two shards, each of whose second images was refused; the manifests by shard."""
    urls = [url + REFUSED if index % _SIZE == 1 else url for index, url in enumerate(_URLS)]
    producer = Producer(stage, store, _OPTIONS, played.planner(store, _SIZE, urls))
    finish(producer, fleet)
    fleet.downloader.hits.clear()
    return {shard: store.read(manifest.name(shard)) for shard in (0, 1)}


def test_later_pass_sends_what_failed(
    stage: Stage, fleet: Fleet, store: Store, refused: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later pass sends the failed images alone, under ids of its own, and its Outcomes take the place of theirs."""
    producer = resume(stage, store, 2, revision=1, retried=["http_4xx"])
    producer.step()
    assert sent(fleet) == [task(1, ".1"), task(_SIZE + 1, ".1")]
    message = fleet.take()
    assert message.body[1] == {"revision": 1, "recover": True}
    body = {"run_id": RUN_ID, "shard": 0, "revision": 1, "count": 1, "command": 1}
    assert message.body[2]["chord"]["kwargs"] == body
    assert message.body[2]["chord"]["options"]["task_id"] == f"{RUN_ID}.00000.1.collect"
    monkeypatch.setattr(played, "REFUSED", "/nothing is")
    finish(producer, fleet)
    assert len(fleet.downloader.hits) == 2
    for shard in (0, 1):
        rows = played.rows(store, shard)
        assert [row.status for row in rows] == [Status.SUCCESS] * _SIZE
        assert all(row.path and store.exists(row.path) for row in rows)
    assert producer.told[-1].done_before == 2 * _SIZE - 2
    assert (producer.timing.images, producer.timing.repaired) == (2, 0)


def test_later_pass_of_other_reasons(stage: Stage, fleet: Fleet, store: Store, refused: dict[int, bytes]) -> None:
    """Where no image failed for the reasons that are tried again, nothing is sent and no manifest changes."""
    producer = resume(stage, store, 2, revision=1, retried=["timeout"])
    producer.step(2)
    assert producer.over
    assert producer.timing.images == 0
    assert {shard: store.read(manifest.name(shard)) for shard in (0, 1)} == refused


def test_later_pass_is_repaired_and_resumed(
    stage: Stage, fleet: Fleet, store: Store, refused: dict[int, bytes]
) -> None:
    """What is lost of a later pass is sent again, and a later pass that was killed is gone on with."""
    first = resume(stage, store, 2, revision=1, retried=["http_4xx"])
    first.step()
    fleet.lose(IMAGES, 0)
    first.step(_LOOKS)
    assert sent(fleet) == [task(_SIZE + 1, ".1"), task(1, ".1")]
    assert fleet.waiting()[1]["headers"]["group_index"] == 0
    fleet.finish(fleet.take())
    fleet.work([SHARDS])
    first.kill()
    second = resume(stage, store, 2, revision=1, retried=["http_4xx"])
    second.step()
    assert sent(fleet) == [task(1, ".1")]
    finish(second, fleet)
    for shard in (0, 1):
        assert [row.attempts for row in played.rows(store, shard)] == [0, 0, 0]
        assert [row.ok for row in played.rows(store, shard)] == [True, False, True]
        assert store.read(manifest.name(shard)) != refused[shard]


def test_late_copy_of_an_earlier_pass(stage: Stage, fleet: Fleet, store: Store, refused: dict[int, bytes]) -> None:
    """Neither a task nor a body of the first pass that comes late changes what a later one has made."""
    finish(resume(stage, store, 2, revision=1, retried=["http_4xx"]), fleet)
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    hits = len(fleet.downloader.hits)
    fleet.server.set(
        keys.run(RUN_ID), json.dumps(RunOptions(str(store.root), _SIZE, run_id=RUN_ID, revision=1).to_json())
    )
    dispatcher = Dispatcher(
        RunOptions(str(store.root), _SIZE, run_id=RUN_ID),
        store,
        played.planned(store, _SIZE, 2 * _SIZE),
        fleet.server,
    )
    requests = dispatcher._requests(0)
    dispatcher._publish(0, requests, requests)
    fleet.work()
    assert len(fleet.downloader.hits) == hits
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == before
