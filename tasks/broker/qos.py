"""Track a channel's unacknowledged messages, even after its connection ends, and acknowledge them in batches."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kombu.transport import redis, virtual

from tasks.broker.held_tasks import HELD_TASKS
from tasks.broker.redis_errors import REDIS_ERRORS

#: Number of acknowledgements in a full batch.
_ACK_BATCH = 16
#: Maximum number of messages in one reservation. The number is low, because Redis serves no other client during a
#: reservation.
MAX_BATCH = 32


@dataclass(slots=True)
class PendingAcks:
    """The delivery tags of messages that are acknowledged or requeued as soon as Redis is reachable."""

    acks: list[str] = field(default_factory=list)
    requeues: list[str] = field(default_factory=list)
    #: Delivery tags of tasks that are still running, although their connection has broken. These messages are
    #: acknowledged later, over another connection.
    running: set[str] = field(default_factory=set)
    #: The lock that a thread holds while it sends pending operations to Redis.
    flush_lock: threading.Lock = field(default_factory=threading.Lock)


class QoS(redis.QoS):  # type: ignore[misc]  # kombu has no annotations
    """The unacknowledged messages of a channel."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Delivery tags already recorded by `reserve.lua`.
        self.reserved: set[str] = set()
        #: The prefetch count, without the 1 that Celery adds for each task with a countdown; 0 until the count is
        #: known.
        self._room_without_countdowns = 0

    def can_consume(self) -> bool:
        """Return whether this channel has room for at least a quarter of its maximum number of messages.

        With less room, a reservation would return too few messages to be worth its round trip. Tasks with a countdown
        and held tasks do not use this room, because they have room of their own.
        """
        if not self.prefetch_count:
            return True
        if time.monotonic() < self.channel.paused_until or HELD_TASKS.room < MAX_BATCH:
            return False
        # Don't count the room for tasks with a countdown. If this room counted and a thousand tasks had a countdown, a
        # quarter of the total room would never be free.
        self._room_without_countdowns = min(self._room_without_countdowns or self.prefetch_count, self.prefetch_count)
        return self._room() >= max(1, self._room_without_countdowns // 4)

    def can_consume_max_estimate(self) -> int | None:
        """Return the number of messages for which this channel has room; None if the room is unlimited."""
        return max(self._room(), 0) if self.prefetch_count else None

    def _room(self) -> int:
        """Return the room for messages. It is negative if a task has just been released."""
        return int(self.prefetch_count) + len(HELD_TASKS) - (len(self._delivered) - len(self._dirty))

    def append(self, message: Any, delivery_tag: str) -> None:
        """Remember a delivered message, and record it in Redis unless `reserve.lua` has done so."""
        if delivery_tag in self.reserved:
            self.reserved.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message with the next batch."""
        pending = self.channel.pending_acks
        acks = pending.acks
        acks.append(delivery_tag)
        pending.running.discard(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)
        if len(acks) >= _ACK_BATCH:
            self.flush()

    def flush(self) -> None:
        """Send the pending operations: acknowledgements and requeues.

        While Redis is unreachable, acknowledgements and requeues stay pending for a later flush. If this channel is
        closed, acknowledgements and requeues stay pending for the next channel.
        """
        pending = self.channel.pending_acks
        if self.channel.disconnected or not (pending.acks or pending.requeues):
            return
        with pending.flush_lock, suppress(*REDIS_ERRORS):
            if tags := pending.acks[:]:
                with self.pipe_or_acquire() as pipe:
                    pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags).execute()
                del pending.acks[: len(tags)]
            while pending.requeues:
                self.restore_by_tag(pending.requeues[-1])
                pending.requeues.pop()

    def restore_unacked(self, client: Any = None) -> None:
        """Requeue the delivered messages of tasks not yet started.

        Running tasks continue, and are acknowledged when they end.
        """
        running, pending = self.channel.running_ids(), self.channel.pending_acks
        for tag, message in self._delivered.items():
            if message.headers.get("id") in running:
                pending.running.add(tag)
            else:
                pending.requeues.append(tag)
        self._delivered.clear()
        self.flush()
