"""The workers' replies give the doctor's findings about workers, their clocks and their access to the folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from producer.dispatch.workers import WorkerInfo, clock_ahead
from producer.doctor import worker_checks
from producer.doctor.finding import Level
from tasks.celery import IMAGE_QUEUE, PROTOCOL, SHARD_QUEUE
from tasks.storage.folder_probe import ProbeResult
from tests.unit.doctor.levels import levels

_WORKER = WorkerInfo("a@here", "0.1.0", PROTOCOL, 16, (IMAGE_QUEUE, SHARD_QUEUE), ("/data",), 0.0)
_OUT = "/data/out"
_SEEN = ProbeResult(True, True, True, 10 * 1024**3)


def test_workers_with_more_slots_than_descriptors() -> None:
    """A worker is bad if its limit of open files is too low for its slots. A worker that reports no limit is fine."""
    few, enough = replace(_WORKER, descriptors=64), replace(_WORKER, name="b@here", descriptors=256)
    assert levels(worker_checks.workers_findings([enough, _WORKER])) == {}
    findings = worker_checks.workers_findings([few, enough])
    assert levels(findings) == {"open files": Level.BAD}
    (found,) = (finding for finding in findings if finding.name == "open files")
    assert found.found.endswith("a@here (16 slots, 64 descriptors)")


def test_workers() -> None:
    """Workers of this version are listed and counted with their slots."""
    findings = worker_checks.workers_findings([_WORKER, replace(_WORKER, name="b@here")])
    assert levels(findings) == {}
    assert findings[0].found == "2 workers, 32 slots: a@here (0.1.0, 16 slots), b@here (0.1.0, 16 slots)"


def test_many_workers_are_not_all_named() -> None:
    """At most five workers are named."""
    finding = worker_checks.workers_findings([replace(_WORKER, name=f"{number}@here") for number in range(8)])[0]
    assert finding.found.endswith("4@here (0.1.0, 16 slots) and 3 more")


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ([], {"workers": Level.BAD}),
        ([replace(_WORKER, protocol=1)], {"workers": Level.BAD, "versions": Level.WARN}),
        ([_WORKER, replace(_WORKER, name="b@here", protocol=None)], {"versions": Level.WARN}),
        ([replace(_WORKER, queues=(IMAGE_QUEUE,))], {"queues": Level.BAD}),
        ([replace(_WORKER, queues=(IMAGE_QUEUE,)), replace(_WORKER, name="b@here", queues=(SHARD_QUEUE,))], {}),
        ([_WORKER, replace(_WORKER, name="b@here", store_roots=())], {"store roots": Level.BAD}),
        ([replace(_WORKER, missing_store_roots=("/datta",))], {"store roots": Level.WARN}),
        ([replace(_WORKER, queues=None, store_roots=None, skew=None)], {}),
    ],
)
def test_unsuitable_workers_are_reported(workers: list[WorkerInfo], expected: Mapping[str, Level]) -> None:
    """The doctor reports missing workers, other versions, queues without a worker, and workers that can't save."""
    assert levels(worker_checks.workers_findings(workers)) == expected


@pytest.mark.parametrize(
    ("ahead", "level", "found"),
    [
        ({"Redis": 0.0, "a@here": -1.9}, Level.OK, "3 clocks within 2 s of each other"),
        ({"Redis": 2.1}, Level.WARN, "Redis is 2.1 s ahead of this machine"),
        ({"Redis": -30.0}, Level.WARN, "this machine is 30.0 s ahead of Redis"),
        ({"a@here": 1.5, "b@here": -1.5}, Level.WARN, "a@here is 3.0 s ahead of b@here"),
        ({}, Level.WARN, "unknown: no other clock could be read"),
    ],
)
def test_clocks(ahead: Mapping[str, float], level: Level, found: str) -> None:
    """No two clocks may differ by more than two seconds."""
    finding = worker_checks.clocks_finding(ahead)
    assert (finding.level, finding.found) == (level, found)


@pytest.mark.parametrize(("there", "ahead"), [(100.0, 0.0), (105.0, 0.0), (110.0, 0.0), (113.0, 3.0), (96.0, -4.0)])
def test_slow_reply_is_not_clock_skew(there: float, ahead: float) -> None:
    """A worker's clock may be right if its time lies between question and reply. The reply may take any time."""
    assert clock_ahead(there, 100.0, 110.0) == ahead


def test_folder_at_workers() -> None:
    """Workers with access to the producer's folder are named together."""
    findings = worker_checks.worker_folder_findings(_OUT, {"a@here": _SEEN, "b@there": _SEEN})
    assert [finding.level for finding in findings] == [Level.OK]
    assert findings[0].found == "/data/out is the same folder, and can be written: a@here, b@there"


@pytest.mark.parametrize(
    ("seen", "level", "advice"),
    [
        (ProbeResult(error="this worker may not"), Level.WARN, "IMAGEFLEET_STORE_ROOTS"),
        (ProbeResult(True, error="the producer's file does not exist"), Level.WARN, "same shared folder"),
        (ProbeResult(True, True, False, None, "no file can be created there"), Level.WARN, "worker's user"),
        (None, Level.WARN, "same version"),
        (replace(_SEEN, free=1024**2), Level.BAD, "Make space"),
        (replace(_SEEN, free=1024**3 - 1), Level.WARN, "Make space"),
    ],
)
def test_unusable_folder_is_reported(seen: ProbeResult | None, level: Level, advice: str) -> None:
    """If a worker has a problem with the folder, the finding gives the worker's name and a remedy."""
    findings = worker_checks.worker_folder_findings(_OUT, {"a@here": seen, "b@here": _SEEN})
    (wrong,) = [finding for finding in findings if finding.level is not Level.OK]
    assert wrong.level is level
    assert advice in wrong.todo
    assert "a@here" in wrong.name + wrong.found


def test_same_problem_is_one_finding() -> None:
    """Workers with the same problem are named in one finding."""
    findings = worker_checks.worker_folder_findings(
        _OUT, {f"{number}@here": ProbeResult(error="no") for number in range(3)}
    )
    assert [finding.found for finding in findings] == ["0@here, 1@here, 2@here: no"]
