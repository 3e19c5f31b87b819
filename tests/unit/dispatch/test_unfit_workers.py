"""A producer reports a worker as unfit if the worker itself has reported this."""

from __future__ import annotations

import json
from collections.abc import Iterator

import fakeredis
import pytest

from producer.dispatch.unfit_workers import UnfitWorkers
from tasks.broker import keys

_BAD, _GOOD = "bad@here|here|boot.1|7|ab", "good@here|here|boot.1|8|cd"


@pytest.fixture
def server() -> Iterator[fakeredis.FakeRedis]:
    """Return a Redis with two workers."""
    with fakeredis.FakeRedis(decode_responses=True) as found:
        found.sadd(keys.WORKERS, _BAD, _GOOD)
        yield found


def report_unfit(server: fakeredis.FakeRedis, worker: str, kind: str, certain: bool) -> None:
    """Make a worker report itself unfit."""
    server.hset(keys.unfit("run"), worker, json.dumps({"kind": kind, "why": "broken", "certain": certain}))


def test_reports_a_certainly_unfit_worker_at_once(
    server: fakeredis.FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker is reported once. The worker stays in the report after it recovers, because it slowed the run."""
    workers = UnfitWorkers(server, "run")
    workers.refresh()
    assert (workers.found, workers.note) == ([], "")
    report_unfit(server, _BAD, "storage", certain=True)
    workers.refresh()
    workers.refresh()
    assert caplog.messages == ["a worker takes no tasks of this run at present: bad@here (broken)"]
    assert workers.note == "workers that take no tasks of this run at present: bad@here (broken)"
    assert workers.storage_troubles == ["broken"]
    server.delete(keys.unfit("run"))
    workers.refresh()
    assert [worker.name for worker in workers.found] == ["bad@here"]
    assert workers.storage_troubles == []


def test_waits_before_reporting_an_uncertain_worker(server: fakeredis.FakeRedis) -> None:
    """A problem that the hosts may have caused is reported only after two inspections in a row."""
    workers = UnfitWorkers(server, "run")
    report_unfit(server, _BAD, "network", certain=False)
    workers.refresh()
    server.delete(keys.unfit("run"))
    workers.refresh()
    report_unfit(server, _BAD, "network", certain=False)
    workers.refresh()
    assert workers.found == []
    workers.refresh()
    assert [str(worker) for worker in workers.found] == ["bad@here (broken)"]


def test_unfit_fleet_reports_no_worker(server: fakeredis.FakeRedis) -> None:
    """If all workers have the problem, no worker is reported. The reasons of the failed images explain the problem."""
    workers = UnfitWorkers(server, "run")
    for worker in (_BAD, _GOOD):
        report_unfit(server, worker, "storage", certain=True)
    workers.refresh()
    assert (workers.found, workers.storage_troubles) == ([], ["broken"])
