"""Ask the system's resolver in a bounded number of threads. Equal questions that are open at a time share one look-up.

`socket.getaddrinfo` has no timeout and can't be cancelled. A look-up that nobody waits for any more keeps its thread
until the resolver gives up, usually after 5 to 30 seconds. So the less urgent questions may use only a part of the
threads:

- A first question about a name may use all threads.
- A further question about one address family of the name may use half of them.
- A question ahead of time, before any slot needs the name, may use a quarter of them.

With 256 threads, each of 64 slots can abandon a look-up every ten seconds, and the next name still finds a thread.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from tasks import file_descriptors

#: The answer to a question: the list returned by `socket.getaddrinfo`, or the error that it raised.
Answer = list[Any] | Exception
#: A host name and an address family; `socket.AF_UNSPEC` asks for both families.
Question = tuple[str, int]
Listener = Callable[[Answer], object]

_log = logging.getLogger(__name__)
#: The maximum number of threads, and the number for a process that may open only few files. A look-up needs one or two
#: file descriptors.
_MAX_THREADS, _MIN_THREADS = 256, 8
_DESCRIPTORS_PER_THREAD = 8
#: The divisors of the number of threads for less urgent questions.
_FAMILY_DIVISOR, _AHEAD_DIVISOR = 2, 4
#: The maximum number of questions ahead that wait for a thread. With more, the oldest one is dropped: a worker holds at
#: most this many tasks, so the task that needed the answer is no longer held.
_MAX_WAITING_AHEAD = 128
#: Seconds for which an idle thread waits for the next question.
_IDLE_SECONDS = 10.0
#: Two limits for a look-up while file descriptors are short: the maximum number of tries, and the seconds between two
#: tries.
_MAX_TRIES, _PAUSE_SECONDS = 50, 0.1


@dataclass(slots=True)
class _Lookup:
    """An open question: who waits for its answer, and when its look-up started, by the monotonic clock."""

    listeners: list[Listener] = field(default_factory=list)
    started_at: float | None = None
    #: Whether a slot waits for the answer.
    is_urgent: bool = False


class Lookups:
    """The look-ups of a process. All methods may be called from any thread."""

    def __init__(self, threads: int) -> None:
        """Set the maximum number of threads. Threads are started when they are needed."""
        self._max_threads = threads
        self._lock = threading.Lock()
        self._open: dict[Question, _Lookup] = {}
        #: The questions that wait for a thread, by the divisor of the number of threads. A question may be in several
        #: of these queues.
        self._waiting: dict[int, deque[Question]] = {
            divisor: deque() for divisor in (1, _FAMILY_DIVISOR, _AHEAD_DIVISOR)
        }
        self._busy, self._idle = 0, 0
        #: Questions for the idle threads.
        self._handed_over: SimpleQueue[Question] = SimpleQueue()

    def ask(self, host: str, family: int, listener: Listener) -> float:
        """Look up a name; call the listener in the look-up's thread as soon as the answer is known.

        If no thread is free, the question waits.

        Returns:
            When the look-up started, by the monotonic clock. This time is in the past if another caller has asked the
            same question. If the question waits for a thread, the result is the current time.
        """
        return self._ask((host, family), 1 if family == socket.AF_UNSPEC else _FAMILY_DIVISOR, listener)

    def ask_ahead(self, host: str, listener: Listener) -> None:
        """Look up both families of a name before a slot needs it, like `ask`.

        If too many names wait, the listeners of the oldest ones are never called.
        """
        self._ask((host, socket.AF_UNSPEC), _AHEAD_DIVISOR, listener)

    def _ask(self, question: Question, divisor: int, listener: Listener) -> float:
        with self._lock:
            lookup = self._open.setdefault(question, _Lookup())
            lookup.listeners.append(listener)
            is_ahead = divisor == _AHEAD_DIVISOR
            lookup.is_urgent = lookup.is_urgent or not is_ahead
            if lookup.started_at is None:
                if not is_ahead or len(lookup.listeners) == 1:
                    self._waiting[divisor].append(question)
                self._start_waiting()
                self._drop_excess()
            return lookup.started_at or monotonic()

    def _start_waiting(self) -> None:
        """Start the waiting questions for which a thread is allowed. The caller holds the lock."""
        for divisor, waiting in self._waiting.items():
            while waiting and self._busy < self._max_threads // divisor:
                question = waiting.popleft()
                lookup = self._open.get(question)
                if lookup is None or lookup.started_at is not None:
                    continue
                if not self._start(question):
                    # The question is tried again as soon as a look-up ends, or another question is asked.
                    waiting.appendleft(question)
                    return
                lookup.started_at = monotonic()

    def _drop_excess(self) -> None:
        """Drop the oldest questions ahead if too many wait for a thread. The caller holds the lock."""
        ahead = self._waiting[_AHEAD_DIVISOR]
        while len(ahead) > _MAX_WAITING_AHEAD:
            question = ahead.popleft()
            lookup = self._open.get(question)
            if lookup is not None and lookup.started_at is None and not lookup.is_urgent:
                del self._open[question]

    def _start(self, question: Question) -> bool:
        """Give a question to an idle thread or to a new one; return whether that was possible.

        The caller holds the lock.
        """
        if self._idle:
            self._idle -= 1
            self._handed_over.put(question)
        else:
            try:
                threading.Thread(target=self._work, args=(question,), name="look-up", daemon=True).start()
            except RuntimeError as error:  # the system allows no further thread
                _log.warning("a host name waits to be looked up: %s", error)
                return False
        self._busy += 1
        return True

    def _work(self, question: Question | None) -> None:
        """Answer one question after another, until there is none for a while."""
        while question is not None:
            answer = _answer(*question)
            with self._lock:
                listeners = self._open.pop(question).listeners
            for listener in listeners:
                try:
                    listener(answer)
                except Exception:  # noqa: BLE001  # the other listeners must get the answer too
                    _log.exception("internal error after the look-up of %s", question[0])
            with self._lock:
                self._busy -= 1
                self._idle += 1
                self._start_waiting()
            question = self._next_question()

    def _next_question(self) -> Question | None:
        """Return the next question for this idle thread; None if the thread should end."""
        while True:
            with suppress(Empty):
                return self._handed_over.get(timeout=_IDLE_SECONDS)
            with self._lock:
                # If no thread counts as idle any more, a question for this thread is on its way.
                if self._idle:
                    self._idle -= 1
                    return None


@cache
def lookups() -> Lookups:
    """Return the look-ups of this process."""
    threads = file_descriptors.limit() // _DESCRIPTORS_PER_THREAD
    return Lookups(min(max(threads, _MIN_THREADS), _MAX_THREADS))


def _answer(host: str, family: int) -> Answer:
    try:
        return _ask_system_resolver(host, family)
    except (OSError, UnicodeError) as error:
        return error


def _ask_system_resolver(host: str, family: int) -> list[Any]:
    """Return the system's answer. If hardly any descriptor is free, close idle connections and ask again.

    If the system's resolver can't open a file or a socket, it hides this problem. It reports that the name does not
    exist.
    """
    for _ in range(_MAX_TRIES):
        try:
            return socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
        except OSError:
            if not file_descriptors.are_nearly_exhausted():
                raise
        time.sleep(_PAUSE_SECONDS)
    raise socket.gaierror(socket.EAI_AGAIN, "no file descriptor was free")
