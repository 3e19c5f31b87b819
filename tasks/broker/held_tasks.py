"""Hold reserved tasks back until they can use a slot, for example until the host names of their URLs are resolved.

A held task occupies neither a slot nor a place among the tasks that a worker reserves for its slots. So the slots get
other tasks meanwhile. A held task is an unacknowledged message like every reserved task. If the worker stops or dies,
the message is requeued.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from tasks.broker.redis_retry import worker_is_stopping

_log = logging.getLogger(__name__)
#: The maximum number of held tasks. A worker with this many held tasks reserves no further tasks. The number is twice
#: the number of names that a worker resolves at a time, so that the next look-up starts as soon as one ends.
MAX_HELD = 128
#: Seconds after which a held task gets a slot anyway.
MAX_HELD_SECONDS = 10.0

#: Starts whatever a task waits for. Takes the task's request and a function that releases the task. Returns False if
#: the task can start at once; the function is not called then.
Preparation = Callable[[Any, Callable[[], None]], bool]


class HeldTasks:
    """The held tasks of a worker process. All methods may be called from any thread."""

    def __init__(self, limit: int = MAX_HELD) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._last_number = 0
        #: By a number: the function that starts a held task, and when the task is released at the latest, by the
        #: monotonic clock. The tasks are in the order of these times.
        self._held: dict[int, tuple[Callable[[], object], float]] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def room(self) -> int:
        """The number of further tasks that could be held."""
        return self._limit - len(self._held)

    def start_when_prepared(self, request: Any, prepare: Preparation, start: Callable[[Any], object]) -> None:
        """Start a task now, or hold it and start it later, from the thread that releases it.

        Args:
            request: Celery's request of the task.
            prepare: called in this thread.
            start: passes the request to the slots.
        """
        with self._lock:
            self._last_number += 1
            number = self._last_number
            self._held[number] = partial(start, request), monotonic() + MAX_HELD_SECONDS
        try:
            is_held = prepare(request, partial(self._release, number))
        except Exception:  # noqa: BLE001  # the consumer's loop must not end because of one task
            _log.exception("internal error in the preparation of a task, so the task starts without it")
            is_held = False
        if not is_held:
            self._release(number)

    def release_overdue(self) -> None:
        """Start the tasks that were held for too long. Call this several times a second."""
        while (number := next(iter(tuple(self._held)), None)) is not None:
            _, ends = self._held.get(number, (None, 0.0))
            if monotonic() < ends:
                return
            self._release(number)

    def _release(self, number: int) -> None:
        """Start a held task, unless it was started already."""
        start, _ = self._held.pop(number, (None, 0.0))
        if start is not None:
            try:
                start()
            except RuntimeError:
                # If the worker is stopping, its slots accept no more tasks.
                if not worker_is_stopping():
                    _log.exception("internal error: a task could not be started")


#: The held tasks of this process.
HELD_TASKS = HeldTasks()
