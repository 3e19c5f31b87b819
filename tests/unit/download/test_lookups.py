"""Look-ups run in a bounded number of threads. Equal questions share one look-up."""

from __future__ import annotations

import logging
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

import pytest

from tasks import file_descriptors
from tasks.download import lookups as module
from tasks.download.lookups import Lookups
from tests.waiting import PATIENCE, wait_for

_ANY, _FOUR, _SIX = socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6


class SlowResolver:
    """A replacement of the system's resolver that answers each question when the test allows it."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.running: set[tuple[str, int]] = set()
        self._may_answer: dict[str, threading.Event] = {}
        self._created: list[Lookups] = []
        self.over = threading.Event()

    def __call__(self, host: str, port: None, *, family: int, **_: Any) -> list[Any]:
        """Wait for the test, then answer with the question."""
        self.asked[host] += 1
        self.running.add((host, family))
        self.gate(host).wait(PATIENCE)
        self.running.discard((host, family))
        return [host]

    def gate(self, host: str) -> threading.Event:
        """Return the event that lets a name's look-ups end."""
        return self.over if self.over.is_set() else self._may_answer.setdefault(host, threading.Event())

    def lookups(self, threads: int) -> Lookups:
        """Return look-ups whose end the test waits for."""
        self._created.append(Lookups(threads))
        return self._created[-1]

    def end(self) -> None:
        """Let all look-ups end, and wait for their end."""
        self.over.set()
        for event in tuple(self._may_answer.values()):
            event.set()
        wait_for(lambda: not any(lookups._open for lookups in self._created))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowResolver]:
    """Replace the system's resolver."""
    resolver = SlowResolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.end()


def ignore(_: object) -> None:
    """Ignore an answer."""


def test_runs_at_most_this_many_look_ups(slow: SlowResolver) -> None:
    """Further questions wait. Each of them starts as soon as a thread is free, in the order of the questions."""
    lookups, answers = slow.lookups(4), SimpleQueue[Any]()
    names = [f"{number}.example" for number in range(10)]
    for name in names:
        lookups.ask(name, _ANY, answers.put)
    wait_for(lambda: len(slow.running) == 4)
    assert slow.running == {(name, _ANY) for name in names[:4]}
    for number, name in enumerate(names, 1):
        slow.gate(name).set()
        assert answers.get(timeout=PATIENCE) == [name]
        expected = {(name, _ANY) for name in names[number : number + 4]}
        wait_for(partial(lambda expected: slow.running == expected, expected))
    assert set(slow.asked.values()) == {1}


def test_equal_questions_share_a_look_up(slow: SlowResolver) -> None:
    """All callers get the answer of one look-up. After its end, the same question starts a new look-up."""
    lookups, answers = slow.lookups(4), SimpleQueue[Any]()
    first = lookups.ask("a.example", _ANY, answers.put)
    assert lookups.ask("a.example", _ANY, answers.put) == first
    lookups.ask_ahead("a.example", answers.put)
    assert lookups.ask("a.example", _FOUR, ignore) >= first
    slow.gate("a.example").set()
    assert [answers.get(timeout=PATIENCE) for _ in range(3)] == [["a.example"]] * 3
    wait_for(lambda: not lookups._open)
    assert slow.asked["a.example"] == 2
    lookups.ask("a.example", _ANY, answers.put)
    assert answers.get(timeout=PATIENCE)
    assert slow.asked["a.example"] == 3


def test_abandoned_look_ups_leave_threads_for_new_names(slow: SlowResolver) -> None:
    """Look-ups ahead use a quarter of the threads, and those of one family half. Thus names of slots find a thread."""
    lookups = slow.lookups(8)
    for number in range(4):
        lookups.ask_ahead(f"ahead{number}.example", ignore)
    wait_for(lambda: len(slow.running) == 2)
    for number in range(8):
        lookups.ask(f"dead{number}.example", _FOUR, ignore)
        lookups.ask(f"dead{number}.example", _SIX, ignore)
    wait_for(lambda: len(slow.running) == 4)
    for number in range(8):
        lookups.ask(f"new{number}.example", _ANY, ignore)
    wait_for(lambda: len(slow.running) == 8)
    assert sum(name.startswith("new") for name, _ in slow.running) == 4


def test_slot_overtakes_look_ups_ahead(slow: SlowResolver) -> None:
    """If a slot needs a name whose look-up ahead waits for a thread, this look-up starts at once, and only once."""
    lookups, answers = slow.lookups(4), SimpleQueue[Any]()
    for number in range(4):
        lookups.ask_ahead(f"{number}.example", answers.put)
    wait_for(lambda: slow.running == {("0.example", _ANY)})
    lookups.ask("3.example", _ANY, answers.put)
    wait_for(lambda: slow.running == {("0.example", _ANY), ("3.example", _ANY)})
    slow.end()
    assert sorted(answers.get(timeout=PATIENCE)[0] for _ in range(5)) == [
        *("0.example", "1.example", "2.example", "3.example", "3.example")
    ]
    assert set(slow.asked.values()) == {1}


def test_waiting_look_ups_ahead_are_limited(slow: SlowResolver) -> None:
    """With a dead name server, the oldest look-ups ahead are dropped. A slot's question is never dropped."""
    lookups, answers = slow.lookups(4), SimpleQueue[Any]()
    lookups.ask_ahead("first.example", ignore)
    for number in range(8):
        lookups.ask_ahead(f"{number}.example", ignore)
    for number in range(8):
        lookups.ask(f"{number}.example", _ANY, answers.put)
    for number in range(1000):
        lookups.ask_ahead(f"ahead{number}.example", ignore)
    assert len(lookups._open) == 1 + 8 + module._MAX_WAITING_AHEAD
    slow.end()
    assert {answers.get(timeout=PATIENCE)[0] for _ in range(8)} == {f"{number}.example" for number in range(8)}
    assert slow.asked["ahead999.example"] == 1
    assert "ahead0.example" not in slow.asked


def test_idle_threads_are_reused_and_end(slow: SlowResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One question after another uses the same thread, which ends after an idle time."""
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.2)
    lookups, threads = slow.lookups(8), SimpleQueue[threading.Thread]()
    slow.end()
    used = set()
    for number in range(20):
        lookups.ask(f"{number}.example", _ANY, lambda _: threads.put(threading.current_thread()))
        used.add(threads.get(timeout=PATIENCE))
        wait_for(lambda: lookups._idle == 1)
    (thread,) = used
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert (lookups._idle, lookups._busy) == (0, 0)
    lookups.ask("a.example", _ANY, lambda _: threads.put(threading.current_thread()))
    assert threads.get(timeout=PATIENCE) is not thread


def test_question_waits_while_no_thread_can_be_started(slow: SlowResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system allows no further thread, a question waits. It is answered when the next question is asked."""
    lookups, answers = slow.lookups(4), SimpleQueue[Any]()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        lookups.ask("a", _ANY, answers.put)
    assert not slow.asked
    slow.gate("a").set()
    lookups.ask("b", _ANY, ignore)
    assert answers.get(timeout=PATIENCE) == ["a"]


def test_failing_listener_costs_no_answer(slow: SlowResolver, caplog: pytest.LogCaptureFixture) -> None:
    """An error in one listener is logged. The other listeners still get the answer, and the thread continues."""
    lookups, answers = slow.lookups(1), SimpleQueue[Any]()

    def fail(_: object) -> None:
        raise ValueError("broken")

    lookups.ask("a.example", _ANY, fail)
    lookups.ask("a.example", _ANY, answers.put)
    with caplog.at_level(logging.ERROR):
        slow.end()
        assert answers.get(timeout=PATIENCE) == ["a.example"]
    assert "internal error after the look-up of a.example" in caplog.text
    lookups.ask("b.example", _ANY, answers.put)
    assert answers.get(timeout=PATIENCE) == ["b.example"]


def test_many_callers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many threads and names, each caller gets the answer to its own question, and no thread is left busy."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: [host])
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.001)
    lookups, wrong = Lookups(8), []

    def ask_many(seed: int) -> None:
        for number in range(200):
            name, answers = f"{(seed * number) % 17}.example", SimpleQueue[Any]()
            lookups.ask(name, (_ANY, _FOUR, _SIX)[number % 3], answers.put)
            found = None
            with suppress(Exception):
                found = answers.get(timeout=PATIENCE)
            if found != [name]:
                wrong.append((name, found))

    callers = [threading.Thread(target=ask_many, args=(seed,)) for seed in range(1, 9)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
    wait_for(lambda: lookups._busy == 0)


@pytest.mark.parametrize(("descriptors", "threads"), [(32, 8), (256, 32), (1024, 128), (65_536, 256)])
def test_number_of_threads_depends_on_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, threads: int
) -> None:
    """Look-ups use at most an eighth of the file descriptors, but a minimum of eight threads."""
    monkeypatch.setattr(file_descriptors, "limit", lambda: descriptors)
    assert module.lookups()._max_threads == threads
