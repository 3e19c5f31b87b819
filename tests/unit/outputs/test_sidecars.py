"""Sidecars are beside their images.

Sidecars are as complete as their images, and are removed together with the images.
"""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from config.locations import StoreUrl
from tasks.collect import collect
from tasks.model import ImageRequest, Outcome, OutputOptions, Reason, RunOptions, Sidecar, Status
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.object_store import ObjectStore
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import Store
from tests.object_server import ObjectServer
from tests.unit.conftest import success

_SIZE = 3
_BOTH = RunOptions("/out", _SIZE, output=OutputOptions(sidecars=(Sidecar.JSON, Sidecar.TXT)))
_CAPTIONS: list[str | None] = ["a cat 🐈\nin two lines", None, "c"]


def write_plan(store: Store, captions: list[str | None] | None) -> None:
    """Write the plan of a shard, with or without captions."""
    requests = [
        ImageRequest(place, f"http://a.example/{place}", {} if captions is None else {"caption": captions[place]})
        for place in range(_SIZE)
    ]
    store.create_durably(plan.name(0), plan.encode(requests, ShardRef("", 0)))


def save(store: Store, place: int, **values: object) -> Outcome:
    """Save an image as the image's task does. Return the image's Outcome."""
    outcome = success(place, 0, _SIZE, **values)
    store.create(outcome.path or "", b"png")
    return outcome


def failed(place: int) -> Outcome:
    """Return the Outcome of a failed image."""
    return Outcome(f"00000{place}", Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, finished_at=101.0)


def names(store: Store) -> list[str]:
    """Return the names of the files in the shard's folder."""
    return sorted(name.removeprefix("00000/") for name in store.list_files("00000"))


def test_metadata_and_caption(store: LocalStore) -> None:
    """Each saved image has both kinds of sidecar. A failed image has no sidecar."""
    write_plan(store, _CAPTIONS)
    collect(0, [save(store, 0), save(store, 1), failed(2)], _BOTH, store)
    saved = ["000000.json", "000000.png", "000000.txt", "000001.json", "000001.png", "000001.txt"]
    assert names(store) == saved
    assert (store.read("00000/000000.txt").decode(), store.read("00000/000001.txt")) == (_CAPTIONS[0], b"")
    facts = json.loads(store.read("00000/000000.json"))
    assert (facts["key"], facts["url"], facts["caption"]) == ("000000", "http://a.example/0", _CAPTIONS[0])
    assert stat.S_IMODE(store.path("00000/000000.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", Sidecar)
def test_one_kind(store: LocalStore, kind: Sidecar) -> None:
    """Only the requested kind of sidecar is written."""
    write_plan(store, _CAPTIONS)
    run = replace(_BOTH, output=OutputOptions(sidecars=(kind,)))
    collect(0, [save(store, 0), failed(1), failed(2)], run, store)
    assert names(store) == sorted([f"000000.{kind}", "000000.png"])


def test_list_without_captions(store: LocalStore) -> None:
    """Without captions, there are no caption files."""
    write_plan(store, None)
    collect(0, [save(store, 0), failed(1), failed(2)], _BOTH, store)
    assert names(store) == ["000000.json", "000000.png"]


def test_leftovers_are_replaced_and_removed(store: LocalStore) -> None:
    """If a collect task with other Outcomes has died, its sidecars are replaced or removed."""
    write_plan(store, _CAPTIONS)
    store.create("00000/000000.json", b"{}")
    store.create("00000/000002.json", b"{}")
    store.create("00000/000002.txt", b"")
    collect(0, [save(store, 0), save(store, 1), failed(2)], _BOTH, store)
    assert json.loads(store.read("00000/000000.json"))["key"] == "000000"
    assert not [name for name in names(store) if name.startswith("000002")]


def test_retry_adds_sidecars(store: LocalStore) -> None:
    """A later revision adds the sidecars of its new images, and keeps the existing sidecars."""
    write_plan(store, _CAPTIONS)
    collect(0, [save(store, 0), failed(1), failed(2)], _BOTH, store)
    before = store.read("00000/000000.json")
    collect(0, [save(store, 1), failed(2)], replace(_BOTH, revision=1), store, count=2)
    assert store.read("00000/000000.json") == before
    assert json.loads(store.read("00000/000001.json"))["key"] == "000001"


def test_sidecars_are_synced(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sidecars are synced together with the images, before the manifest exists."""
    write_plan(store, _CAPTIONS)
    synced: list[str] = []

    def sync(self: LocalStore, folder: str, files: list[str]) -> None:
        assert not self.exists(manifest.name(0))
        synced.extend(files)

    monkeypatch.setattr(LocalStore, "sync", sync)
    collect(0, [save(store, 0), failed(1), failed(2)], _BOTH, store)
    assert synced == ["00000/000000.png", "00000/000000.json", "00000/000000.txt"]


def test_object_store_gets_several_requests_at_a_time(
    object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an object store, sidecars are written, and leftovers are removed, with several requests at a time."""
    store = ObjectStore(StoreUrl.parse("s3://bucket/run"))
    write_plan(store, _CAPTIONS)
    outcomes = [save(store, place) for place in range(_SIZE)]
    for place in range(_SIZE):
        store.create(f"00000/leftover{place}", b"")
    together = threading.Barrier(_SIZE, timeout=10)

    def wait_for_others(call: Callable[..., Any], name: str, *args: Any) -> Any:
        if name.startswith("00000/"):
            together.wait()
        return call(name, *args)

    monkeypatch.setattr(store, "create", partial(wait_for_others, store.create))
    monkeypatch.setattr(store, "remove", partial(wait_for_others, store.remove))
    collect(0, outcomes, replace(_BOTH, output=OutputOptions(sidecars=(Sidecar.JSON,))), store)
    assert names(store) == sorted(f"00000{place}.{kind}" for place in range(_SIZE) for kind in ("json", "png"))
