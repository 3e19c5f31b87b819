"""Whom a worker may take for dead, and how its id tells who and where it is."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from config import bounds
from tasks.presence import Contact, Worker

_ME = Worker("a|b@here", "here", "boot.1", os.getpid(), "1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give a clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr("tasks.presence.time.monotonic", lambda: now[0])
    return now


def beats(contact: Contact, clock: list[float], seconds: float) -> None:
    """Hear Redis in each beat of so many seconds."""
    for _ in range(int(seconds // bounds.WORKER_BEAT)):
        clock[0] += bounds.WORKER_BEAT
        contact.heard()


def test_contact_has_to_last(clock: list[float]) -> None:
    """A sign of life that is missing means something once one could have expired while Redis was heard."""
    contact = Contact()
    assert not contact.long_enough
    contact.heard()
    beats(contact, clock, bounds.WORKER_LIFETIME - bounds.WORKER_BEAT)
    assert not contact.long_enough
    beats(contact, clock, bounds.WORKER_BEAT)
    assert contact.long_enough


def test_contact_that_was_lost_is_a_new_one(clock: list[float]) -> None:
    """After Redis was away, all signs of life may have expired."""
    contact = Contact()
    beats(contact, clock, 60)
    contact.lost()
    beats(contact, clock, bounds.WORKER_BEAT)
    assert not contact.long_enough


def test_contact_with_a_gap_is_a_new_one(clock: list[float]) -> None:
    """A process that was stopped for a while has missed the others' signs of life too."""
    contact = Contact()
    beats(contact, clock, 60)
    clock[0] += 60
    contact.heard()
    assert not contact.long_enough


def test_id_tells_the_worker() -> None:
    """An id is read back whatever is in the name that the operator chose; one that is none of ours is not."""
    assert Worker.of(_ME.name) == _ME
    assert Worker.of("celery@here") is None
    assert Worker.of("a|b|c|no number|d") is None


def test_worker_is_never_its_own_predecessor() -> None:
    """Only what is not this process itself, and was in the same place, is known to be gone by its process id."""
    assert not _ME.sees_the_end_of(_ME)
    assert _ME.sees_the_end_of(replace(_ME, random="2"))
    assert not _ME.sees_the_end_of(replace(_ME, random="2", host="there"))
    assert not _ME.sees_the_end_of(replace(_ME, random="2", place="boot.2"))
    assert not _ME.sees_the_end_of(replace(_ME, random="2", pid=os.getppid()))


def test_two_starts_are_two_workers() -> None:
    """A process that starts again under the same name, host and process id has another id."""
    assert Worker.here("a@here") != Worker.here("a@here")
