"""Broken versions of the protocol. Each version has one defect, which the model test must find.

To add a broken version, add a function here that patches the code, and its description to `BROKEN`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from producer.dispatch import chord_state
from producer.dispatch.dispatcher import Dispatcher
from producer.dispatch.publisher import ChordPublisher
from producer.dispatch.recovery import ShardRecovery
from producer.dispatch.run_record import RunRecord
from tasks import collect, jobs
from tasks.errors import StorageError
from tasks.model import ImageRequest
from tasks.storage import manifest
from tasks.storage.local_store import LocalStore

Patch = pytest.MonkeyPatch


class _Everything(frozenset[str]):
    """A set that compares as a superset of any set."""

    def __ge__(self, _: Any) -> bool:
        return True


def _resends_tasks_in_flight(patch: Patch) -> None:
    patch.setattr(chord_state, "pending_task_ids", lambda *_: frozenset())


def _trusts_one_inspection(patch: Patch) -> None:
    look = Dispatcher._resend_lost

    def trusting(self: Dispatcher) -> None:
        for flying in self._in_flight.values():
            flying.missing = _Everything()
        look(self)

    patch.setattr(Dispatcher, "_resend_lost", trusting)


def _keeps_failed_parts(patch: Patch) -> None:
    patch.setattr(chord_state, "reset_parts", lambda *_: None)


def _refuses_a_second_collect_task(patch: Patch) -> None:
    once = collect.collect

    def refusing(shard: int, outcomes: Sequence[Any], run: Any, store: LocalStore, count: int | None = None) -> None:
        if store.exists(manifest.name(shard)):
            raise StorageError("its manifest exists")
        once(shard, outcomes, run, store, count)

    patch.setattr(jobs, "collect", refusing)


def _adopts_nothing(patch: Patch) -> None:
    def sending(self: ShardRecovery, in_flight: Any, requests: Sequence[ImageRequest]) -> None:
        self._publisher.publish(in_flight.shard, requests, requests)

    patch.setattr(ShardRecovery, "adopt", sending)


def _collects_cancelled_images(patch: Patch) -> None:
    patch.setattr(jobs, "VOID_REASONS", frozenset())
    patch.setattr(jobs, "STALE_VOID_REASONS", frozenset())


def _overwrites_images(patch: Patch) -> None:
    def overwriting(self: LocalStore, name: str, body: bytes) -> bool:
        path = Path(self.path(name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
        return True

    patch.setattr(LocalStore, "create", overwriting)


def _waits_for_a_claimed_collect_task(patch: Patch) -> None:
    patch.setattr(ChordPublisher, "publish_body", lambda *_: None)


def _writes_the_record_once(patch: Patch) -> None:
    write = RunRecord.renew

    def once(self: RunRecord) -> bool:
        return not self._renewed_at and write(self)

    patch.setattr(RunRecord, "renew", once)


def _leaves_strays(patch: Patch) -> None:
    patch.setattr(collect, "remove_unlisted", lambda *_: None)


BROKEN: dict[str, Callable[[Patch], None]] = {
    "resends tasks in flight": _resends_tasks_in_flight,
    "resends tasks missing in one inspection": _trusts_one_inspection,
    "keeps failed parts counted": _keeps_failed_parts,
    "refuses a second collect task": _refuses_a_second_collect_task,
    "resends everything on resume": _adopts_nothing,
    "collects cancelled images": _collects_cancelled_images,
    "lets the last writer win": _overwrites_images,
    "waits for a claimed collect task": _waits_for_a_claimed_collect_task,
    "writes the run's record once": _writes_the_record_once,
    "keeps files without an Outcome": _leaves_strays,
}
