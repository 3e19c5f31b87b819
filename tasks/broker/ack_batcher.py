"""The end of tasks: their parts are counted in their chords, and then their messages acknowledged, in batches.

Celery counts each part in a round trip of its own, in the slot's thread, and has each acknowledged by the thread that
takes messages, which wakes up for it. Here a slot leaves both to one thread and goes on with the next image; that
thread does in a few round trips what has come together for a moment. A message is acknowledged when its part is
counted, so a worker that dies before loses none: the task is done again, and its part, known by its id, counts once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import redis
from celery.worker import state
from celery.worker.request import Request
from kombu.asynchronous import get_event_loop

from tasks.broker.redis_errors import REDIS_ERRORS
from tasks.broker.redis_retry import retry_until_redis_is_back, worker_is_stopping
from tasks.broker.snapshot import snapshot

_log = logging.getLogger(__name__)
#: Seconds that what is done waits for company: a round trip, and the switch to another thread, cost more than a part.
_BATCH_SECONDS = 0.02
#: Seconds that a worker that stops waits for what is not settled yet.
_FINISH_SECONDS = 10.0


class AckBatcher:
    """One thread that settles what the slots have done."""

    def __init__(self, count: Callable[[list[Any]], None]) -> None:
        """Take what counts a batch of parts; it is called from the settler's thread, and may be called again."""
        self._count = count
        self._parts: deque[Any] = deque()
        self._messages: deque[Any] = deque()
        self._has_work = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        #: The messages of the batch that is being settled.
        self._batch: list[Any] = []

    def add_part(self, part: Any) -> None:
        """Have a part counted; the slot that calls this acknowledges its message afterwards."""
        self._parts.append(part)

    def acknowledge(self, message: Any) -> None:
        """Have a message acknowledged, after the parts that came before it."""
        self._messages.append(message)
        if not self._has_work.is_set():
            self._has_work.set()
        if self._thread is None:
            self._start()

    def finish(self) -> None:
        """Wait until all is settled, or for ten seconds: what is not goes to another worker."""
        ends = time.monotonic() + _FINISH_SECONDS
        while self.pending() and time.monotonic() < ends:
            time.sleep(0.01)

    def pending(self) -> list[Any]:
        """Return the messages that wait."""
        return [*self._batch, *snapshot(self._messages)]

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ack-batcher", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while self._has_work.wait():
            time.sleep(_BATCH_SECONDS)
            self._has_work.clear()
            try:
                self._flush()
            except redis.RedisError as error:
                # Only a worker that stops gives up waiting; what it has not told is handed on.
                _log.warning("what is done could not be told to Redis: %s", error)
            except Exception:  # noqa: BLE001  # nothing would be settled any more
                _log.exception("a fault of ours while tasks were settled")
            finally:
                self._batch = []

    def _flush(self) -> None:
        # The messages first: the parts of all of them are there by then.
        messages = self._batch = snapshot(self._messages)
        for _ in messages:
            self._messages.popleft()
        parts = snapshot(self._parts)
        for _ in parts:
            self._parts.popleft()
        if parts:
            retry_until_redis_is_back(lambda: self._count(parts))
        for message in messages:
            message.ack_log_error(_log, REDIS_ERRORS)
        for channel in {message.channel for message in messages}:
            channel.qos.flush()
        loop = get_event_loop()
        if loop is not None:
            # There is room for messages now, and the thread that takes them may be asleep.
            loop.call_soon(_do_nothing)


class BatchedRequest(Request):  # type: ignore[misc]  # Celery has no annotations
    """A task's request whose message the settler acknowledges."""

    ack_batcher: AckBatcher
    acknowledged: bool

    def __init__(self, message: Any, **options: Any) -> None:
        # Celery reads a message's body to look at it, and the slot would read it again.
        super().__init__(message, **{**options, "body": message.payload, "decoded": True})

    def acknowledge(self) -> None:
        """Have the message acknowledged once the task's part is counted."""
        if not self.acknowledged:
            self.acknowledged = True
            self.ack_batcher.acknowledge(self.message)


def finish_pending() -> None:
    """Let a worker that stops settle what it has done, before its connection is closed."""
    if worker_is_stopping():
        BatchedRequest.ack_batcher.finish()


def running_task_ids() -> set[str]:
    """Return the ids of the tasks that this worker goes on with when its connection breaks.

    Those are the ones in its slots, and those that wait for one, unless it is told to stop; and what is not settled.
    """
    waiting: Iterable[Any] = () if worker_is_stopping() else snapshot(state.reserved_requests)
    running = {request.id for request in (*snapshot(state.active_requests), *waiting)}
    return running | {message.headers["id"] for message in BatchedRequest.ack_batcher.pending()}


def _do_nothing() -> None:
    """Do nothing: to be called is enough."""
