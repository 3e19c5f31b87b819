"""The doctor's findings about a Redis server follow from its INFO reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from producer.doctor import server_checks
from producer.doctor.finding import Level
from tests.unit.doctor.levels import levels

_GOOD = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "maxmemory_policy": "noeviction",
    "used_memory": 50 * 1024**2,
    "maxmemory": 100 * 1024**2,
}


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
    assert levels(server_checks.server_findings({**_GOOD, **changes})) == expected


def test_silent_server_is_a_warning() -> None:
    """A property that the server does not report is unknown. The finding is a warning."""
    findings = server_checks.server_findings({})
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
    assert server_checks.connections_finding(info, workers).level is level
