"""Which workers a producer names as unfit, by what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator

import fakeredis
import pytest

from producer.unfit_workers import UnfitWorkers
from tasks import keys

_BAD, _GOOD = "bad@here|here|boot.1|7|ab", "good@here|here|boot.1|8|cd"


@pytest.fixture
def server() -> Iterator[fakeredis.FakeRedis]:
    """Give a Redis with two workers."""
    with fakeredis.FakeRedis(decode_responses=True) as found:
        found.sadd(keys.WORKERS, _BAD, _GOOD)
        yield found


def say(server: fakeredis.FakeRedis, worker: str, kind: str, certain: bool) -> None:
    """Have a worker call itself unfit."""
    server.hset(keys.unfit("run"), worker, json.dumps({"kind": kind, "why": "broken", "certain": certain}))


def test_worker_whose_own_fault_it_is_is_named_at_once(
    server: fakeredis.FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named once, and stays named when it is fit again: the run was slower for it."""
    workers = UnfitWorkers(server, "run")
    workers.look()
    assert (workers.found, workers.note) == ([], "")
    say(server, _BAD, "storage", certain=True)
    workers.look()
    workers.look()
    assert caplog.messages == ["a worker leaves this run to the others: bad@here (broken)"]
    assert workers.note == "workers that leave this run to the others: bad@here (broken)"
    assert workers.storage_troubles == ["broken"]
    server.delete(keys.unfit("run"))
    workers.look()
    assert [worker.name for worker in workers.found] == ["bad@here"]
    assert workers.storage_troubles == []


def test_worker_with_a_few_dead_hosts_is_not_named(server: fakeredis.FakeRedis) -> None:
    """What may be the hosts' fault has to last for two looks."""
    workers = UnfitWorkers(server, "run")
    say(server, _BAD, "network", certain=False)
    workers.look()
    server.delete(keys.unfit("run"))
    workers.look()
    say(server, _BAD, "network", certain=False)
    workers.look()
    assert workers.found == []
    workers.look()
    assert [str(worker) for worker in workers.found] == ["bad@here (broken)"]


def test_fleet_that_is_unfit_as_a_whole_names_nobody(server: fakeredis.FakeRedis) -> None:
    """Where no worker can do better, the failures of the images tell."""
    workers = UnfitWorkers(server, "run")
    for worker in (_BAD, _GOOD):
        say(server, worker, "storage", certain=True)
    workers.look()
    assert (workers.found, workers.storage_troubles) == ([], ["broken"])
