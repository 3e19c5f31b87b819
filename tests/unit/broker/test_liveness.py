"""A worker treats another worker as dead only if the death is proven. A worker id identifies one process."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from config import limits
from tasks.broker.liveness import ContinuousContact, WorkerId

_ME = WorkerId("a|b@here", "here", "boot.1", os.getpid(), "1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a clock controlled by the test."""
    now = [100.0]
    monkeypatch.setattr("tasks.broker.liveness.time.monotonic", lambda: now[0])
    return now


def beats(contact: ContinuousContact, clock: list[float], seconds: float) -> None:
    """Let the worker contact Redis after each of these intervals in seconds."""
    for _ in range(int(seconds // limits.HEARTBEAT_INTERVAL)):
        clock[0] += limits.HEARTBEAT_INTERVAL
        contact.record_reply()


def test_contact_must_outlast_a_heartbeat(clock: list[float]) -> None:
    """A missing heartbeat counts only if contact with Redis has lasted longer than a heartbeat's lifetime."""
    contact = ContinuousContact()
    assert not contact.is_long_enough
    contact.record_reply()
    beats(contact, clock, limits.HEARTBEAT_TIMEOUT - limits.HEARTBEAT_INTERVAL)
    assert not contact.is_long_enough
    beats(contact, clock, limits.HEARTBEAT_INTERVAL)
    assert contact.is_long_enough


def test_contact_restarts_after_redis_was_unreachable(clock: list[float]) -> None:
    """After Redis was unreachable, all heartbeats may have expired."""
    contact = ContinuousContact()
    beats(contact, clock, 60)
    contact.record_failure()
    beats(contact, clock, limits.HEARTBEAT_INTERVAL)
    assert not contact.is_long_enough


def test_contact_restarts_after_a_gap(clock: list[float]) -> None:
    """A paused process has also missed the heartbeats of other workers."""
    contact = ContinuousContact()
    beats(contact, clock, 60)
    clock[0] += 60
    contact.record_reply()
    assert not contact.is_long_enough


def test_parses_worker_ids() -> None:
    """A worker id is parsed, whatever name the operator chose. An id in another format gives None."""
    assert WorkerId.parse(_ME.name) == _ME
    assert WorkerId.parse("celery@here") is None
    assert WorkerId.parse("a|b|c|no number|d") is None


def test_worker_is_never_its_own_predecessor() -> None:
    """A process id can prove that a process has ended only if the process ran on the same host and boot."""
    assert not _ME.has_seen_exit(_ME)
    assert _ME.has_seen_exit(replace(_ME, random="2"))
    assert not _ME.has_seen_exit(replace(_ME, random="2", host="there"))
    assert not _ME.has_seen_exit(replace(_ME, random="2", namespace="boot.2"))
    assert not _ME.has_seen_exit(replace(_ME, random="2", pid=os.getppid()))


def test_restarted_worker_has_a_new_id() -> None:
    """A process restarted with the same name, host and process id has another id."""
    assert WorkerId.current("a@here") != WorkerId.current("a@here")
