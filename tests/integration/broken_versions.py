"""Versions of the protocol that are broken at one place each, to see that its model finds them.

To add one: here, as a function that patches, and in `BROKEN`, by what it does wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from producer import tally
from producer.dispatch import Dispatcher, Timing
from tasks import collect, jobs, manifest
from tasks.errors import StorageFailed
from tasks.model import ImageRequest
from tasks.storage import Store

Patch = pytest.MonkeyPatch


class _Everything(frozenset[str]):
    """What any set is a part of."""

    def __ge__(self, _: Any) -> bool:
        return True


def _sends_what_is_under_way(patch: Patch) -> None:
    patch.setattr(tally, "held", lambda *_: frozenset())


def _trusts_one_look(patch: Patch) -> None:
    look = Dispatcher._look_into

    def trusting(self: Dispatcher, timing: Timing) -> None:
        for flying in self._flying.values():
            flying.missing = _Everything()
        look(self, timing)

    patch.setattr(Dispatcher, "_look_into", trusting)


def _keeps_failed_parts(patch: Patch) -> None:
    patch.setattr(tally, "forget", lambda *_: None)


def _refuses_a_second_body(patch: Patch) -> None:
    once = collect.collect

    def refusing(shard: int, outcomes: Sequence[Any], run: Any, store: Store, count: int | None = None) -> None:
        if store.exists(manifest.name(shard)):
            raise StorageFailed("its manifest stands")
        once(shard, outcomes, run, store, count)

    patch.setattr(jobs, "collect", refusing)


def _adopts_nothing(patch: Patch) -> None:
    def sending(self: Dispatcher, flying: Any, requests: Sequence[ImageRequest]) -> None:
        self._publish(flying.shard, requests, requests)

    patch.setattr(Dispatcher, "_adopt", sending)


def _collects_what_was_cancelled(patch: Patch) -> None:
    patch.setattr(jobs, "PASSING", frozenset())
    patch.setattr(jobs, "ENDING", frozenset())


def _overwrites_images(patch: Patch) -> None:
    def overwriting(self: Store, name: str, body: bytes) -> bool:
        path = Path(self.path(name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
        return True

    patch.setattr(Store, "create", overwriting)


def _waits_for_a_claimed_body(patch: Patch) -> None:
    patch.setattr(Dispatcher, "_publish_body", lambda *_: None)


def _writes_its_record_once(patch: Patch) -> None:
    write = Dispatcher._renew_record

    def once(self: Dispatcher) -> None:
        if not self._renewed:
            write(self)

    patch.setattr(Dispatcher, "_renew_record", once)


def _leaves_strays(patch: Patch) -> None:
    patch.setattr(collect, "remove_strays", lambda *_: None)


BROKEN: dict[str, Callable[[Patch], None]] = {
    "sends again what is under way": _sends_what_is_under_way,
    "sends again what one look misses": _trusts_one_look,
    "leaves parts counted that have failed": _keeps_failed_parts,
    "bears no second body": _refuses_a_second_body,
    "sends all when it is resumed": _adopts_nothing,
    "collects what was cancelled": _collects_what_was_cancelled,
    "lets the last writer win": _overwrites_images,
    "waits for a body that is claimed": _waits_for_a_claimed_body,
    "writes the run's record once": _writes_its_record_once,
    "leaves files that no Outcome names": _leaves_strays,
}
