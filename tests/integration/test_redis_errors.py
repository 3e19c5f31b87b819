"""The doctor reports the error with which a real Redis replies to a write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from producer.doctor.diagnosis import diagnose
from producer.doctor.finding import Level
from tasks.broker import client as broker_client
from tests.integration import processes

_RESTORED = {"maxmemory": "0", "min-replicas-to-write": "0", "replica-serve-stale-data": "yes"}


@contextmanager
def full(admin: Any) -> Iterator[None]:
    """OOM."""
    admin.config_set("maxmemory", 1)
    yield


@contextmanager
def lonely(admin: Any) -> Iterator[None]:
    """NOREPLICAS."""
    admin.config_set("min-replicas-to-write", 1)
    yield


@contextmanager
def demoted(admin: Any) -> Iterator[None]:
    """READONLY."""
    admin.replicaof("127.0.0.1", processes.free_port())
    yield


@contextmanager
def forbidden(admin: Any) -> Iterator[None]:
    """NOPERM."""
    admin.execute_command("ACL", "SETUSER", "default", "-set")
    yield


_ERRORS = {"OOM": full, "NOREPLICAS": lonely, "READONLY": demoted, "NOPERM": forbidden}


@pytest.fixture
def admin(redis_url: str) -> Iterator[Any]:
    """Give the client of a Redis user who does not get these errors, and restore the server at the end."""
    with broker_client.client(redis_url) as client:
        untyped: Any = client
        untyped.execute_command("ACL", "SETUSER", "administrator", "on", ">word", "~*", "&*", "+@all")
    url = redis_url.replace("redis+socket://", "redis+socket://administrator:word@")
    with broker_client.client(url) as client:
        yield client
        client.replicaof("NO", "ONE")
        for name, value in _RESTORED.items():
            client.config_set(name, value)
        untyped = client
        untyped.execute_command("ACL", "SETUSER", "default", "+@all")


@pytest.mark.parametrize("code", _ERRORS)
def test_doctor_reports_redis_errors(code: str, admin: Any, redis_url: str) -> None:
    """The finding has the level "bad", Redis's message, and advice. The doctor writes nothing."""
    with _ERRORS[code](admin):
        findings = {finding.name: finding for finding in diagnose(redis_url, None).findings}
    writes = findings["writes"]
    assert writes.level is Level.BAD
    assert code in writes.found
    assert writes.todo
    assert not admin.exists("imagefleet:run:none")
