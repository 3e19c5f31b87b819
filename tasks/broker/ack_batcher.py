"""In batches, count the chord parts of finished tasks, and acknowledge the tasks' messages.

In Celery, the slot's thread counts each chord part, which takes one round trip per part. For each acknowledgement,
Celery wakes the thread that receives messages. Here, a slot passes the chord part and the message to the batcher's
thread, and continues with the next image. The batcher's thread collects chord parts and messages for a moment. Then it
needs only a few round trips for the whole batch. The thread acknowledges a message only after the task's chord part is
counted. If a worker dies between the two steps, the task runs again, so it is not lost. The task's chord part still
counts only once, because the task's id identifies the part.
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
#: Seconds to collect a batch. All chord parts of a batch share one round trip and one thread switch, because each of
#: the two costs more than counting a chord part.
_BATCH_SECONDS = 0.02
#: Seconds a stopping worker waits for unfinished batches.
_FINISH_SECONDS = 10.0


class AckBatcher:
    """One thread that counts and acknowledges the slots' finished tasks."""

    def __init__(self, count: Callable[[list[Any]], None]) -> None:
        """Create the batcher; ``count`` counts a batch of chord parts.

        The batcher calls ``count`` from its own thread, and may repeat the call for the same chord parts.
        """
        self._count = count
        self._parts: deque[Any] = deque()
        self._messages: deque[Any] = deque()
        self._has_work = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        #: The messages of the current batch.
        self._batch: list[Any] = []

    def add_part(self, part: Any) -> None:
        """Add a chord part to the next batch. Afterwards, the calling slot acknowledges the task's message."""
        self._parts.append(part)

    def acknowledge(self, message: Any) -> None:
        """Acknowledge a message with the next batch, after all earlier chord parts are counted."""
        self._messages.append(message)
        if not self._has_work.is_set():
            self._has_work.set()
        if self._thread is None:
            self._start()

    def finish(self) -> None:
        """Wait at most ten seconds until all batches are finished. Other workers get the remaining tasks."""
        deadline = time.monotonic() + _FINISH_SECONDS
        while self.pending() and time.monotonic() < deadline:
            time.sleep(0.01)

    def pending(self) -> list[Any]:
        """Return the messages that are not yet acknowledged."""
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
                # Errors are retried until the worker stops. When the worker stops, its unacknowledged tasks are
                # requeued.
                _log.warning("could not acknowledge finished tasks: %s", error)
            except Exception:  # noqa: BLE001  # the thread must survive, or nothing more would be acknowledged
                _log.exception("internal error while acknowledging tasks")
            finally:
                self._batch = []

    def _flush(self) -> None:
        # Take the messages before the chord parts. Each chord part was added before its message, so no message is taken
        # without its chord part.
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
            # The acknowledgements made room for more messages. Wake the thread that receives messages.
            loop.call_soon(_do_nothing)


class BatchedRequest(Request):  # type: ignore[misc]  # Celery has no annotations
    """A Celery request for a task. The batcher acknowledges the task's message."""

    ack_batcher: AckBatcher
    acknowledged: bool

    def __init__(self, message: Any, **options: Any) -> None:
        # Celery inspects the body, and therefore decodes it. Keep the result, so that the slot does not decode the body
        # again.
        super().__init__(message, **{**options, "body": message.payload, "decoded": True})

    def acknowledge(self) -> None:
        """Acknowledge the message after the task's chord part is counted."""
        if not self.acknowledged:
            self.acknowledged = True
            self.ack_batcher.acknowledge(self.message)


def finish_pending() -> None:
    """Let a stopping worker acknowledge its finished tasks before its connection is closed."""
    if worker_is_stopping():
        BatchedRequest.ack_batcher.finish()


def running_task_ids() -> set[str]:
    """Return the ids of the tasks that continue when this worker's connection breaks.

    These are the tasks that run in slots, and the finished tasks that are not acknowledged yet. Unless the worker is
    stopping, the tasks that wait for a slot are included too.
    """
    waiting: Iterable[Any] = () if worker_is_stopping() else snapshot(state.reserved_requests)
    running = {request.id for request in (*snapshot(state.active_requests), *waiting)}
    return running | {message.headers["id"] for message in BatchedRequest.ack_batcher.pending()}


def _do_nothing() -> None:
    """Do nothing, because the event loop has already woken to make this call."""
