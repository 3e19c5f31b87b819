"""The doctor's findings follow from the state that Redis, the workers and the folder report."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from config.settings import Settings, settings
from producer.cli import render
from producer.dispatch.workers import WorkerInfo, clock_ahead
from producer.doctor import diagnosis
from producer.doctor.diagnosis import Diagnosis
from producer.doctor.finding import Finding, Level
from tasks.celery import IMAGE_QUEUE, PROTOCOL, SHARD_QUEUE
from tasks.storage.folder_probe import ProbeResult

_GOOD = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "maxmemory_policy": "noeviction",
    "used_memory": 50 * 1024**2,
    "maxmemory": 100 * 1024**2,
}
_WORKER = WorkerInfo("a@here", "0.1.0", PROTOCOL, 16, (IMAGE_QUEUE, SHARD_QUEUE), ("/data",), 0.0)
_OUT = Path("/data/out")
_SEEN = ProbeResult(True, True, True, 10 * 1024**3)


def levels(findings: list[Finding]) -> dict[str, Level]:
    """Return the levels of all findings except OK, by name."""
    assert all(bool(finding.todo) == (finding.level is not Level.OK) for finding in findings)
    return {finding.name: finding.level for finding in findings if finding.level is not Level.OK}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"redis_version": "6.2.0"}, {}),
        ({"redis_version": "6.0.16"}, {"server version": Level.BAD}),
        ({"redis_version": "5.0"}, {"server version": Level.BAD}),
        ({"redis_version": "unstable"}, {"server version": Level.WARN}),
        ({"redis_version": "10.0.0", "valkey_version": "9.1.2"}, {}),
        ({"redis_mode": "cluster"}, {"server version": Level.BAD}),
        ({"aof_enabled": 0}, {"append-only file": Level.WARN}),
        ({"aof_last_write_status": "err"}, {"append-only file": Level.BAD}),
        ({"maxmemory_policy": "allkeys-lru"}, {"eviction policy": Level.BAD}),
        ({"used_memory": 81 * 1024**2}, {"memory": Level.WARN}),
        ({"used_memory": 80 * 1024**2}, {}),
        ({"used_memory": 81 * 1024**2, "maxmemory": 0}, {}),
    ],
)
def test_server(changes: Mapping[str, Any], expected: Mapping[str, Level]) -> None:
    """Each property of a Redis server is judged on its own."""
    assert levels(diagnosis.server_findings({**_GOOD, **changes})) == expected


def test_silent_server_is_a_warning() -> None:
    """A property that the server does not report is unknown, and a warning."""
    findings = diagnosis.server_findings({})
    assert set(levels(findings).values()) == {Level.WARN}
    assert all(finding.found.startswith("unknown") for finding in findings)


@pytest.mark.parametrize(
    ("info", "workers", "level"),
    [
        ({"connected_clients": 40, "maxclients": 10_000}, 10, Level.OK),
        ({"connected_clients": 90, "maxclients": 100}, 0, Level.BAD),
        ({"connected_clients": 60, "maxclients": 100}, 2, Level.OK),
        ({"connected_clients": 60, "maxclients": 100}, 5, Level.BAD),
        ({"connected_clients": 60}, 0, Level.WARN),
    ],
)
def test_connections(info: Mapping[str, int], workers: int, level: Level) -> None:
    """The server must accept the connections of a producer, and of its workers during a run."""
    assert diagnosis.connections_finding(info, workers).level is level


def test_workers_with_more_slots_than_descriptors() -> None:
    """A worker with too few open files for its slots is bad; a worker that does not report its limit is fine."""
    few, enough = replace(_WORKER, descriptors=64), replace(_WORKER, name="b@here", descriptors=256)
    assert levels(diagnosis.workers_findings([enough, _WORKER])) == {}
    findings = diagnosis.workers_findings([few, enough])
    assert levels(findings) == {"open files": Level.BAD}
    (found,) = (finding for finding in findings if finding.name == "open files")
    assert found.found.endswith("a@here (16 slots, 64 descriptors)")


def test_workers() -> None:
    """Workers of this version are listed and counted with their slots."""
    findings = diagnosis.workers_findings([_WORKER, replace(_WORKER, name="b@here")])
    assert levels(findings) == {}
    assert findings[0].found == "2 workers, 32 slots: a@here (0.1.0, 16 slots), b@here (0.1.0, 16 slots)"


def test_many_workers_are_not_all_named() -> None:
    """At most five workers are named."""
    finding = diagnosis.workers_findings([replace(_WORKER, name=f"{number}@here") for number in range(8)])[0]
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
        ([replace(_WORKER, queues=None, store_roots=None, skew=None)], {}),
    ],
)
def test_unsuitable_workers_are_reported(workers: list[WorkerInfo], expected: Mapping[str, Level]) -> None:
    """Reported are: no workers, other versions, queues without a worker, and workers that may not save anything."""
    assert levels(diagnosis.workers_findings(workers)) == expected


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
    finding = diagnosis.clocks_finding(ahead)
    assert (finding.level, finding.found) == (level, found)


@pytest.mark.parametrize(("there", "ahead"), [(100.0, 0.0), (105.0, 0.0), (110.0, 0.0), (113.0, 3.0), (96.0, -4.0)])
def test_slow_reply_is_not_clock_skew(there: float, ahead: float) -> None:
    """A clock whose time lies between question and reply may be right, however long the reply took."""
    assert clock_ahead(there, 100.0, 110.0) == ahead


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set imagefleet's variables to these, and remove all others."""

    def change(**variables: str) -> None:
        for name in Settings.model_fields:
            monkeypatch.delenv(f"IMAGEFLEET_{name.upper()}", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"IMAGEFLEET_{name}", value)
        settings.cache_clear()

    yield change
    settings.cache_clear()


def test_settings(environment: Callable[..., None]) -> None:
    """Usable network settings are named; without any, there is no finding."""
    environment(STORE_ROOTS="/data")
    assert diagnosis._network_setting_findings(local=True) == []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        environment(PROXY=f"http://me:word@127.0.0.1:{proxy.getsockname()[1]}", DENY_NETWORKS="10.0.0.0/8")
        (finding,) = diagnosis._network_setting_findings(local=True)
    assert (finding.level, finding.found) == (Level.OK, "can be used: IMAGEFLEET_DENY_NETWORKS, IMAGEFLEET_PROXY")


def test_unusable_settings_are_named(environment: Callable[..., None]) -> None:
    """Every unusable variable is named, without a proxy's secrets.

    If the workers run elsewhere, it is only a warning.
    """
    environment(PROXY="http://me:word@127.0.0.1:3", ALLOW_NETWORKS="foo/bar", CA_BUNDLE="/nope")
    for local, level in ((True, Level.BAD), (False, Level.WARN)):
        (finding,) = diagnosis._network_setting_findings(local)
        assert finding.level is level
        assert "IMAGEFLEET_ALLOW_NETWORKS: 'foo/bar' does not" in finding.found
        assert "IMAGEFLEET_CA_BUNDLE: /nope can't be used: No such file" in finding.found
        assert "IMAGEFLEET_PROXY: the proxy can't be reached: 127.0.0.1 port 3: Connection refused" in finding.found
        assert "word" not in finding.found
    environment(PROXY="me:word@127.0.0.1:3")
    (finding,) = diagnosis._network_setting_findings(local=True)
    assert finding.found.startswith("IMAGEFLEET_PROXY: it has to be http://host:port, with user:password@ before")


def test_folder_at_workers() -> None:
    """Workers with access to the producer's folder are named together."""
    findings = diagnosis.worker_folder_findings(_OUT, {"a@here": _SEEN, "b@there": _SEEN})
    assert [finding.level for finding in findings] == [Level.OK]
    assert findings[0].found == "/data/out is the same folder, and writable: a@here, b@there"


@pytest.mark.parametrize(
    ("seen", "level", "advice"),
    [
        (ProbeResult(error="this worker may not"), Level.WARN, "IMAGEFLEET_STORE_ROOTS"),
        (ProbeResult(True, error="the producer's file does not exist"), Level.WARN, "same shared folder"),
        (ProbeResult(True, True, False, None, "no file can be created there"), Level.WARN, "worker's user"),
        (None, Level.WARN, "one version"),
        (replace(_SEEN, free=1024**2), Level.BAD, "Make space"),
        (replace(_SEEN, free=1024**3 - 1), Level.WARN, "Make space"),
    ],
)
def test_unusable_folder_is_reported(seen: ProbeResult | None, level: Level, advice: str) -> None:
    """A problem with the folder at a worker is reported with the worker's name and a remedy."""
    findings = diagnosis.worker_folder_findings(_OUT, {"a@here": seen, "b@here": _SEEN})
    (wrong,) = [finding for finding in findings if finding.level is not Level.OK]
    assert wrong.level is level
    assert advice in wrong.todo
    assert "a@here" in wrong.name + wrong.found


def test_same_problem_is_one_finding() -> None:
    """Workers with the same problem are named in one finding."""
    findings = diagnosis.worker_folder_findings(
        _OUT, {f"{number}@here": ProbeResult(error="no") for number in range(3)}
    )
    assert [finding.found for finding in findings] == ["0@here, 1@here, 2@here: no"]


@pytest.mark.parametrize(
    ("worst", "healthy", "end"),
    [(Level.OK, True, "No problems"), (Level.WARN, True, "Runs will work"), (Level.BAD, False, "Runs will fail")],
)
def test_diagnosis_is_shown(worst: Level, healthy: bool, end: str) -> None:
    """The table ends with the overall verdict, and text in brackets is shown unchanged."""
    findings = [Finding("broker", Level.OK, "it answers"), Finding("workers", worst, "[red]found[/red]", "do this")]
    diagnosis = Diagnosis("redis://***@here", _OUT, findings)
    assert diagnosis.healthy is healthy
    assert diagnosis.to_json()["findings"][1] == {
        "name": "workers",
        "level": worst.value,
        "found": "[red]found[/red]",
        "todo": "do this",
    }
    console = Console(width=160)
    with console.capture() as capture:
        console.print(render.render_diagnosis(diagnosis))
    shown = capture.get()
    assert "[red]found[/red]" in shown
    assert shown.strip().splitlines()[-1].startswith(end)
