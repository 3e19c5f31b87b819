"""The messages that a channel was given and has not acknowledged."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kombu.transport import redis, virtual

from tasks.broker.redis_errors import REDIS_ERRORS

#: Acknowledgements that wait for company, at most.
_ACK_BATCH = 16


@dataclass(slots=True)
class PendingAcks:
    """What could not be told to a Redis: the delivery tags to acknowledge, and those to give back."""

    acks: list[str] = field(default_factory=list)
    requeues: list[str] = field(default_factory=list)
    #: What a broken connection had delivered and goes on: it is acknowledged over another.
    running: set[str] = field(default_factory=set)
    #: Held by the thread that tells Redis.
    flush_lock: threading.Lock = field(default_factory=threading.Lock)


class QoS(redis.QoS):  # type: ignore[misc]  # kombu has no annotations
    """What a channel was given and has not acknowledged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Delivery tags that `reserve.lua` has recorded already.
        self.reserved: set[str] = set()
        #: The room without that which Celery adds for each task under a countdown; 0 before there is one.
        self._room_without_countdowns = 0

    def can_consume(self) -> bool:
        """Tell whether a quarter of the room is free: messages are worth asking for in batches.

        What is under a countdown has room of its own beside that.
        """
        if not self.prefetch_count:
            return True
        if time.monotonic() < self.channel.paused_until:
            return False
        # Whoever holds a thousand of those never has a quarter of all the room free.
        self._room_without_countdowns = min(self._room_without_countdowns or self.prefetch_count, self.prefetch_count)
        room = self.prefetch_count - (len(self._delivered) - len(self._dirty))
        return bool(room >= max(1, self._room_without_countdowns // 4))

    def append(self, message: Any, delivery_tag: str) -> None:
        """Remember a message that was delivered, and record it in Redis unless that is done."""
        if delivery_tag in self.reserved:
            self.reserved.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message, soon."""
        pending = self.channel.pending_acks
        acks = pending.acks
        acks.append(delivery_tag)
        pending.running.discard(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)
        if len(acks) >= _ACK_BATCH:
            self.flush()

    def flush(self) -> None:
        """Tell Redis what it is owed; while it is away, or this channel is closed, that stays for the next one."""
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
        """Give back what was delivered and has not begun: what has goes on, and is acknowledged when it is done."""
        running, pending = self.channel.running_ids(), self.channel.pending_acks
        for tag, message in self._delivered.items():
            if message.headers.get("id") in running:
                pending.running.add(tag)
            else:
                pending.requeues.append(tag)
        self._delivered.clear()
        self.flush()
