"""The producer resends a message only if the message is certainly lost, and every request gets one Outcome."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producer.dispatch.publisher import ChordPublisher
from producer.output.shard_files import load_requests
from tasks.broker import keys
from tasks.broker.poison import ABANDON_AFTER_CRASHES
from tasks.broker.transport import Channel
from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE
from tasks.errors import CancelledError, CommandError, StorageError
from tasks.fetch import failed_outcome
from tasks.model import Reason, RunOptions, Status
from tasks.storage import manifest
from tasks.storage.local_store import LocalStore
from tests.integration import simulated_fleet
from tests.integration.simulated_fleet import REFUSED, RUN_ID, Fleet, Producer, Stage

_SIZE = 3
_OPTIONS = RunOptions("/out", _SIZE, run_id=RUN_ID)
_URLS = [f"http://a.example/{index}" for index in range(2 * _SIZE)]
#: The number of steps in which an idle shard is inspected twice and the shard's lost tasks are resent.
_STEPS_TO_REPAIR = 3


@pytest.fixture(scope="module")
def stage(redis_url: str) -> Iterator[Stage]:
    """Connect the app to the tests' Redis."""
    with simulated_fleet.stage(redis_url) as found:
        yield found


@pytest.fixture
def fleet(stage: Stage) -> Iterator[Fleet]:
    """Give a simulated fleet that uses an empty Redis."""
    with simulated_fleet.fleet(stage) as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Give an empty run folder."""
    return LocalStore(tmp_path)


Begin = Callable[..., Producer]


@pytest.fixture
def begin(stage: Stage, fleet: Fleet, store: LocalStore) -> Begin:
    """Give a function that starts a run of one shard or more."""

    def start(shards: int = 1, **options: Any) -> Producer:
        return Producer(
            stage, store, _OPTIONS, simulated_fleet.planner(store, _SIZE, _URLS[: shards * _SIZE]), **options
        )

    return start


def resume(stage: Stage, store: LocalStore, shards: int = 1, revision: int = 0, **options: Any) -> Producer:
    """Resume a run that has a complete plan. This is the run's second command."""
    run = RunOptions("/out", _SIZE, run_id=RUN_ID, revision=revision, epoch=1)
    planner = simulated_fleet.earlier_plan(store, _SIZE, shards * _SIZE)
    return Producer(stage, store, run, planner, resumed=True, **options)


def finish(producer: Producer, fleet: Fleet, steps: int = 50) -> None:
    """Let a fleet without failures work until the run ends."""
    for _ in range(steps):
        fleet.work()
        producer.step()
        if producer.ended:
            return
    raise AssertionError("the run does not end")


def assert_complete(store: LocalStore, fleet: Fleet, shards: int = 1) -> None:
    """Make sure that every image is saved and has exactly one row."""
    for shard in range(shards):
        rows = simulated_fleet.rows(store, shard)
        assert [row.key for row in rows] == [f"{shard:05d}{place}" for place in range(_SIZE)]
        assert all(row.ok and row.path and store.exists(row.path) for row in rows)
    assert fleet.server.exists(*keys.run_keys(RUN_ID)) == 0


def sent(fleet: Fleet, queue: str = IMAGE_QUEUE) -> list[str]:
    """Return the ids of the queued tasks."""
    return [message["headers"]["id"] for message in fleet.waiting(queue)]


def task(index: int, suffix: str = "") -> str:
    """Return the id of an image's task."""
    shard, place = divmod(index, _SIZE)
    return f"{RUN_ID}.{shard:05d}{place}{suffix}"


def facts(message: simulated_fleet.TakenMessage) -> dict[str, Any]:
    """Return the keyword arguments of an image's task, except the time of sending."""
    return {name: value for name, value in message.body[1].items() if name != "sent"}


def test_run_without_losses_repairs_nothing(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """A run without a loss downloads each image once and repairs nothing."""
    producer = begin(2)
    finish(producer, fleet)
    assert (producer.timing.images, producer.timing.repaired) == (2 * _SIZE, 0)
    assert sorted(fleet.downloader.requested) == _URLS
    assert_complete(store, fleet, 2)


def test_resends_a_lost_message(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """Only a lost message is resent, under its old id. The resent task checks whether the image is already saved."""
    producer = begin()
    fleet.lose(IMAGE_QUEUE, 1)
    producer.step()
    assert sent(fleet) == [task(0), task(2)]
    producer.step(_STEPS_TO_REPAIR)
    assert sent(fleet) == [task(0), task(2), task(1)]
    again = fleet.waiting()[2]
    assert again["headers"]["group_index"] == 1
    taken = [fleet.take() for _ in range(_SIZE)]
    assert [facts(message) for message in taken] == [{}, {}, {"recover": True}]
    finish(producer, fleet)
    assert producer.timing.repaired == 1
    assert_complete(store, fleet)


def test_restores_a_lost_part(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """If a chord loses a part, the part is rebuilt from the saved image, without a download."""
    producer = begin()
    for _ in range(2):
        fleet.finish(fleet.take())
    fleet.lose_part(0, 0)
    producer.step(_STEPS_TO_REPAIR)
    assert sent(fleet) == [task(2), task(0)]
    finish(producer, fleet)
    assert len(fleet.downloader.requested) == _SIZE
    assert [row.recovered for row in simulated_fleet.rows(store, 0)] == [True, False, False]
    assert producer.timing.repaired == 1
    assert_complete(store, fleet)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's
@pytest.mark.parametrize("last", [False, True], ids=["in the middle", "at the end"])
def test_repeats_a_part_counted_as_failed(begin: Begin, fleet: Fleet, store: LocalStore, last: bool) -> None:
    """If Celery ends a task with an error, the task is repeated, even if this error made the whole chord fail."""
    producer = begin()
    bad = fleet.take()
    for _ in range(_SIZE - 1 if last else 0):
        fleet.finish(fleet.take())
    fleet.count(bad, {"exc_type": "Boom", "exc_message": ["boom"], "exc_module": "builtins"}, "FAILURE")
    fleet.acknowledge(bad)
    producer.step(_STEPS_TO_REPAIR)
    assert sent(fleet)[-1] == task(0)
    finish(producer, fleet)
    assert producer.timing.repaired == 1
    assert_complete(store, fleet)


def test_sends_the_collect_task_of_a_dead_claim(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """If a worker dies after claiming a complete chord, the producer sends the collect task but resends no image."""
    producer = begin()
    fleet.claim(0)
    fleet.work([IMAGE_QUEUE])
    assert len(fleet.parts(0)) == _SIZE
    assert sent(fleet, SHARD_QUEUE) == []
    producer.step(_STEPS_TO_REPAIR)
    assert sent(fleet, SHARD_QUEUE) == [f"{RUN_ID}.00000.collect"]
    assert sent(fleet) == []
    finish(producer, fleet)
    assert producer.timing.repaired == 0
    assert not any(row.recovered for row in simulated_fleet.rows(store, 0))
    assert_complete(store, fleet)


def test_rebuilds_a_lost_collect_task(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """If a collect task is lost, the Outcomes in it are rebuilt from the saved images, without a download."""
    producer = begin()
    fleet.work([IMAGE_QUEUE])
    assert sent(fleet, SHARD_QUEUE) == [f"{RUN_ID}.00000.collect"]
    fleet.lose(SHARD_QUEUE)
    producer.step(_STEPS_TO_REPAIR)
    assert sent(fleet) == [task(index) for index in range(_SIZE)]
    finish(producer, fleet)
    assert (len(fleet.downloader.requested), producer.timing.repaired) == (_SIZE, _SIZE)
    assert all(row.recovered for row in simulated_fleet.rows(store, 0))
    assert_complete(store, fleet)


def test_resends_after_redis_was_emptied(
    begin: Begin, fleet: Fleet, store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    """After Redis was emptied, only uncollected shards are resent, and manifests stay as they are."""
    producer = begin(2)
    for _ in range(_SIZE):
        fleet.finish(fleet.take())
    fleet.work([SHARD_QUEUE])
    producer.step()
    before = store.read(manifest.name(0))
    fleet.finish(fleet.take())
    fleet.server.flushall()
    with caplog.at_level(logging.WARNING):
        producer.step(_STEPS_TO_REPAIR + 1)
    assert "Redis has lost the run" in caplog.text
    assert sent(fleet) == [task(index) for index in range(_SIZE, 2 * _SIZE)]
    finish(producer, fleet)
    assert len(fleet.downloader.requested) == 2 * _SIZE
    assert producer.timing.repaired == _SIZE
    assert store.read(manifest.name(0)) == before
    assert_complete(store, fleet, 2)


def test_redis_emptied_while_workers_continue(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """Tasks that ran while Redis was emptied end as cancelled, and are repeated."""
    producer = begin()
    taken = [fleet.take() for _ in range(_SIZE)]
    fleet.server.flushall()
    for message in taken:
        fleet.finish(message)
    assert fleet.downloader.requested == []
    finish(producer, fleet)
    assert_complete(store, fleet)


def test_restores_a_lost_run_record(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """The next inspection restores a lost run record, because workers drop the tasks of a run without a record."""
    producer = begin()
    record = fleet.server.get(keys.run(RUN_ID))
    fleet.server.delete(keys.run(RUN_ID))
    producer.step(2)
    assert fleet.server.get(keys.run(RUN_ID)) == record
    assert sent(fleet) == [task(index) for index in range(_SIZE)]
    finish(producer, fleet)
    assert_complete(store, fleet)


def test_ignores_a_cancelled_collect_task(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """If a lost run record cancels images, their collect task writes no manifest. The images are repeated."""
    producer = begin()
    fleet.server.delete(keys.run(RUN_ID))
    fleet.work([IMAGE_QUEUE])
    producer.step(2)
    assert len(fleet.waiting(SHARD_QUEUE)) == 1
    finish(producer, fleet)
    assert len(fleet.downloader.requested) == _SIZE
    assert_complete(store, fleet)


def test_gives_up_on_an_image_lost_again_and_again(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """After five repairs, an image that is still missing fails as `lost`, and the run ends."""
    producer = begin(2)
    tries = 0
    for _ in range(100):
        if producer.ended:
            break
        for message in [fleet.take() for _ in fleet.waiting()]:
            if message.index == 1:
                tries += 1
                fleet.acknowledge(message)
            else:
                fleet.finish(message)
        fleet.work([SHARD_QUEUE])
        producer.step()
    assert producer.timing.repaired == 5
    assert tries == 6
    first, lost, third = simulated_fleet.rows(store, 0)
    assert (first.ok, third.ok, lost.reason, lost.key) == (True, True, Reason.LOST, "000001")
    assert "5 times" in (lost.error_message or "")
    assert all(row.ok for row in simulated_fleet.rows(store, 1))


def test_gives_up_on_a_collect_task_lost_again_and_again(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """If a shard's collect task is lost each time, the run ends with an error and advice."""
    producer = begin()
    for _ in range(100):
        if producer.ended:
            break
        fleet.work([IMAGE_QUEUE])
        fleet.lose(SHARD_QUEUE)
        producer.step()
    assert isinstance(producer.error, CommandError)
    assert producer.error.what == "Shard 00000 is lost again and again"
    assert "producer resume" in producer.error.hint
    assert not store.exists(manifest.name(0))


def test_resends_nothing_that_is_in_flight(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """An idle shard is not resent while its messages are queued or with workers."""
    producer = begin()
    producer.step(20)
    taken = [fleet.take(worker="a"), fleet.take(worker="b")]
    producer.step(20)
    assert (sent(fleet), fleet.waiting(SHARD_QUEUE)) == ([task(2)], [])
    for message in taken:
        fleet.finish(message)
    fleet.finish(fleet.take())
    body = fleet.take(SHARD_QUEUE)
    producer.step(20)
    assert (sent(fleet), sent(fleet, SHARD_QUEUE)) == ([], [])
    fleet.finish(body)
    finish(producer, fleet)
    assert producer.timing.repaired == 0
    assert_complete(store, fleet)


def test_requeued_messages_are_not_resent(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """The producer resends the lost messages of a dead worker, but not its requeued messages."""
    producer = begin()
    for _ in range(2):
        fleet.take()
    fleet.crash("a")
    producer.step(20)
    assert sorted(sent(fleet)) == [task(index) for index in range(_SIZE)]
    fleet.take()
    fleet.crash("a", lost=True)
    producer.step(_STEPS_TO_REPAIR)
    assert sorted(sent(fleet)) == [task(index) for index in range(_SIZE)]
    finish(producer, fleet)
    assert producer.timing.repaired == 1
    assert_complete(store, fleet)


def test_resume_skips_finished_shards(stage: Stage, begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """If a shard has a manifest, the next command does not send the shard.

    It reports the shard's images as already done. The speed leaves them out.
    """
    first = begin(2, window=1)
    fleet.work()
    assert store.exists(manifest.name(0))
    first.kill()
    second = resume(stage, store, 2)
    second.step()
    assert sent(fleet) == [task(index) for index in range(_SIZE, 2 * _SIZE)]
    finish(second, fleet)
    assert (second.reports[-1].done_before, second.reports[-1].success) == (_SIZE, _SIZE)
    assert (second.timing.images, sorted(fleet.downloader.requested)) == (_SIZE, _URLS)
    assert_complete(store, fleet, 2)


def test_resume_of_a_finished_run_sends_nothing(stage: Stage, begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """If every manifest exists, nothing is sent."""
    finish(begin(2), fleet)
    second = resume(stage, store, 2)
    second.step(2)
    assert second.ended
    assert second.timing.images == 0
    assert (sent(fleet), sent(fleet, SHARD_QUEUE)) == ([], [])


def test_resume_adopts_work_in_flight(stage: Stage, begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """After a kill, the messages that are in queues, at workers or in chords are kept.

    Messages that had not been sent are sent. The image that has ended counts as done before, and only once.
    """
    first = begin(2)
    first.step()
    fleet.server.hset(keys.progress(RUN_ID), "success", 1)
    fleet.finish(fleet.take())
    fleet.take()
    # The producer died before it sent the last message of the second shard.
    fleet.lose(IMAGE_QUEUE, 3)
    first.kill()
    left = sent(fleet)
    second = resume(stage, store, 2)
    second.step()
    assert sent(fleet) == [*left, task(2 * _SIZE - 1)]
    second.step(20)
    assert sent(fleet) == [*left, task(2 * _SIZE - 1)]
    assert (second.reports[-1].done_before, second.reports[-1].success) == (1, 1)
    assert second.reports[-1].speed.average_images_per_second == 0.0
    finish(second, fleet)
    assert sorted(fleet.downloader.requested) == _URLS
    assert_complete(store, fleet, 2)


def test_resume_waits_for_a_collect_task(stage: Stage, begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """If only a shard's collect task is in flight, nothing is sent."""
    first = begin()
    fleet.work([IMAGE_QUEUE])
    first.kill()
    second = resume(stage, store)
    assert (sent(fleet), len(sent(fleet, SHARD_QUEUE))) == ([], 1)
    finish(second, fleet)
    assert len(fleet.downloader.requested) == _SIZE
    assert_complete(store, fleet)


@pytest.mark.parametrize("error", [CancelledError("the run has ended"), StorageError("the disk is full")])
def test_resume_repeats_parts_that_ended_with_the_run(
    stage: Stage, begin: Begin, fleet: Fleet, store: LocalStore, error: CancelledError | StorageError
) -> None:
    """If an image was cancelled or could not be saved, the next command ignores its chord part and repeats its task."""
    first = begin()
    message = fleet.take()
    fleet.count(message, failed_outcome("000000", error).to_json())
    fleet.acknowledge(message)
    first.end()
    second = resume(stage, store)
    assert sent(fleet) == [task(1), task(2), task(0)]
    finish(second, fleet)
    assert_complete(store, fleet)


def unsaved(fleet: Fleet) -> None:
    """Let the first image fail as unsaved, for example because the disk is full, and count the image's chord part."""
    message = fleet.take()
    fleet.count(message, failed_outcome("000000", StorageError("the disk is full")).to_json())
    fleet.acknowledge(message)


@pytest.mark.parametrize("body", [False, True], ids=["last message", "collect task"])
def test_resume_retries_unsaved_images(stage: Stage, begin: Begin, fleet: Fleet, store: LocalStore, body: bool) -> None:
    """If the previous command could not save an image, the image is retried, whatever state its shard has reached.

    The image's chord part may have been counted and forgotten, or it may be in a queued collect task. The queued
    collect task belongs to the earlier command. A collect task that the earlier command's last message triggers later
    also belongs to the earlier command.
    """
    first = begin()
    unsaved(fleet)
    if body:
        fleet.work([IMAGE_QUEUE])
        assert len(sent(fleet, SHARD_QUEUE)) == 1
    first.end()
    second = resume(stage, store)
    finish(second, fleet)
    assert sorted(set(fleet.downloader.requested)) == _URLS[:_SIZE]
    assert len(fleet.downloader.requested) == _SIZE
    assert_complete(store, fleet)


@pytest.mark.parametrize("lost", [False, True], ids=["Outcome in Redis", "only the file"])
def test_resume_counts_its_own_images(stage: Stage, begin: Begin, fleet: Fleet, store: LocalStore, lost: bool) -> None:
    """The speed of a resumed run does not count images that the earlier command has finished."""
    first = begin()
    fleet.finish(fleet.take())
    first.kill()
    if lost:
        fleet.server.flushdb()
    second = resume(stage, store)
    finish(second, fleet)
    assert [row.recovered for row in simulated_fleet.rows(store, 0)] == [lost, False, False]
    assert second.timing.images == _SIZE - 1
    assert_complete(store, fleet)


def test_late_failure_to_save_in_an_adopted_shard(stage: Stage, begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """If the first command's late collect task has an unsaved image, the task is ignored. The second attempt counts."""
    first = begin()
    taken = fleet.take()
    first.kill()
    second = resume(stage, store)
    fleet.count(taken, failed_outcome("000000", StorageError("the disk is full")).to_json())
    fleet.acknowledge(taken)
    fleet.work([IMAGE_QUEUE])
    assert fleet.waiting(SHARD_QUEUE)
    fleet.work([SHARD_QUEUE])
    assert not store.exists(manifest.name(0))
    second.step(_STEPS_TO_REPAIR)
    assert {message["headers"]["id"] for message in fleet.waiting()} == {task(index) for index in range(_SIZE)}
    unsaved(fleet)
    finish(second, fleet)
    assert [row.reason for row in simulated_fleet.rows(store, 0)] == [Reason.STORAGE, None, None]


def test_failure_to_save_is_final_within_a_command(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """Within one command, an image that could not be saved counts like any failed image, and is not resent."""
    producer = begin()
    unsaved(fleet)
    slow = fleet.take()
    fleet.finish(fleet.take())
    producer.step(20)
    assert sent(fleet) == []
    fleet.finish(slow)
    finish(producer, fleet)
    assert producer.timing.repaired == 0
    assert [row.reason for row in simulated_fleet.rows(store, 0)] == [Reason.STORAGE, None, None]


def test_saved_images_of_a_dead_worker_are_not_downloaded_again(begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """After a worker's death, another worker uses the saved images on the disk and downloads the missing images."""
    producer = begin()
    saved = fleet.take()
    fleet.take()
    fleet.execute(saved)
    fleet.crash("a")
    finish(producer, fleet)
    assert sorted(fleet.downloader.requested) == _URLS[:_SIZE]
    assert [row.recovered for row in simulated_fleet.rows(store, 0)] == [True, False, False]
    assert_complete(store, fleet)


def test_collect_task_that_kills_its_workers_ends_the_run(
    begin: Begin, fleet: Fleet, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a collect task kills one worker after another, the run ends with an error."""
    producer = begin()
    fleet.work([IMAGE_QUEUE])
    monkeypatch.setattr(Channel, "worker_id", simulated_fleet.worker_id("a"))
    for death in range(1 + ABANDON_AFTER_CRASHES):
        assert not producer.ended
        body = fleet.take(SHARD_QUEUE)
        if death:
            # Crashes of a task are tracked from its second delivery on.
            fleet.server.sadd(keys.running(body.worker), body.task_id)
        fleet.crash("a")
        producer.step(_STEPS_TO_REPAIR)
    fleet.work()
    producer.step()
    assert isinstance(producer.error, CommandError)
    assert producer.error.what == "Shard 00000 could not be collected"
    assert f"{ABANDON_AFTER_CRASHES} workers died" in producer.error.why
    assert not store.exists(manifest.name(0))


def test_resume_after_workers_dropped_the_queue(stage: Stage, begin: Begin, fleet: Fleet, store: LocalStore) -> None:
    """The next command completes a cancelled run, even after workers dropped its messages."""
    first = begin(2)
    fleet.finish(fleet.take())
    first.end()
    fleet.work()
    assert not store.exists(manifest.name(0))
    second = resume(stage, store, 2)
    finish(second, fleet)
    assert sorted(fleet.downloader.requested) == _URLS
    assert_complete(store, fleet, 2)


@pytest.fixture
def refused(stage: Stage, fleet: Fleet, store: LocalStore) -> dict[int, bytes]:
    """Finish a run of two shards in which each shard's second image is refused, and return the manifests by shard."""
    urls = [url + REFUSED if index % _SIZE == 1 else url for index, url in enumerate(_URLS)]
    producer = Producer(stage, store, _OPTIONS, simulated_fleet.planner(store, _SIZE, urls))
    finish(producer, fleet)
    fleet.downloader.requested.clear()
    return {shard: store.read(manifest.name(shard)) for shard in (0, 1)}


def test_revision_resends_only_failed_images(
    stage: Stage, fleet: Fleet, store: LocalStore, refused: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later revision resends only failed images, under new ids. The new Outcomes replace the failed Outcomes."""
    producer = resume(stage, store, 2, revision=1, retried=["http_4xx"])
    producer.step()
    assert sent(fleet) == [task(1, ".1"), task(_SIZE + 1, ".1")]
    message = fleet.take()
    assert facts(message) == {"revision": 1, "recover": True}
    body = {"run_id": RUN_ID, "shard": 0, "revision": 1, "count": 1, "epoch": 1}
    assert message.body[2]["chord"]["kwargs"] == body
    assert message.body[2]["chord"]["options"]["task_id"] == f"{RUN_ID}.00000.1.collect"
    monkeypatch.setattr(simulated_fleet, "REFUSED", "/matches nothing")
    finish(producer, fleet)
    assert len(fleet.downloader.requested) == 2
    for shard in (0, 1):
        rows = simulated_fleet.rows(store, shard)
        assert [row.status for row in rows] == [Status.SUCCESS] * _SIZE
        assert all(row.path and store.exists(row.path) for row in rows)
    # The first report counts the images of all shards.
    for report in (producer.reports[0], producer.reports[-1]):
        assert (report.done_before, report.success, report.failed) == (2 * _SIZE - 2, 2 * _SIZE - 2, 0)
    assert (producer.timing.images, producer.timing.repaired) == (2, 0)


def test_revision_without_matching_reasons_changes_nothing(
    stage: Stage, fleet: Fleet, store: LocalStore, refused: dict[int, bytes]
) -> None:
    """If no image failed for a reason that is retried, nothing is sent and no manifest changes."""
    producer = resume(stage, store, 2, revision=1, retried=["timeout"])
    producer.step(2)
    assert producer.ended
    assert producer.timing.images == 0
    assert {shard: store.read(manifest.name(shard)) for shard in (0, 1)} == refused


def test_revision_is_repaired_and_resumed(
    stage: Stage, fleet: Fleet, store: LocalStore, refused: dict[int, bytes]
) -> None:
    """Lost messages of a later revision are resent, and a killed later revision can be resumed."""
    first = resume(stage, store, 2, revision=1, retried=["http_4xx"])
    first.step()
    fleet.lose(IMAGE_QUEUE, 0)
    first.step(_STEPS_TO_REPAIR)
    assert sent(fleet) == [task(_SIZE + 1, ".1"), task(1, ".1")]
    assert fleet.waiting()[1]["headers"]["group_index"] == 0
    fleet.finish(fleet.take())
    fleet.work([SHARD_QUEUE])
    first.kill()
    second = resume(stage, store, 2, revision=1, retried=["http_4xx"])
    second.step()
    assert sent(fleet) == [task(1, ".1")]
    finish(second, fleet)
    for shard in (0, 1):
        assert [row.attempts for row in simulated_fleet.rows(store, shard)] == [0, 0, 0]
        assert [row.ok for row in simulated_fleet.rows(store, shard)] == [True, False, True]
        assert store.read(manifest.name(shard)) != refused[shard]


def test_late_copies_of_an_earlier_revision_change_nothing(
    stage: Stage, fleet: Fleet, store: LocalStore, refused: dict[int, bytes]
) -> None:
    """Late tasks and late collect tasks of the first revision change nothing that a later revision has written."""
    finish(resume(stage, store, 2, revision=1, retried=["http_4xx"]), fleet)
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    hits = len(fleet.downloader.requested)
    fleet.server.set(
        keys.run(RUN_ID), json.dumps(RunOptions(str(store.root), _SIZE, run_id=RUN_ID, revision=1).to_json())
    )
    requests = load_requests(0, store, RUN_ID)
    ChordPublisher(RunOptions(str(store.root), _SIZE, run_id=RUN_ID)).publish(0, requests, requests)
    fleet.work()
    assert len(fleet.downloader.requested) == hits
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == before
