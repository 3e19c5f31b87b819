"""kombu's Redis transport, with messages taken and acknowledged in batches, and one client for each channel.

kombu takes a message in three round trips: it waits for one (BRPOP), records it as unacknowledged, and later removes
that record; each on a client object of its own. Here a worker waits for the first message as kombu does, and takes what
else it has room for in one step (``reserve.lua``) that records it as well. It asks again when a quarter of its room is
free. Acknowledgements wait for company, or a fifth of a second; one that is lost with its worker costs that the task is
done twice, which every task of ours bears.

When the connection breaks, kombu tries to give back over it all that is not acknowledged, and a Redis that refuses
connections at that moment ends the worker. Here what can't be told to Redis is owed, and told over the next connection:
the acknowledgements of what goes on meanwhile, and the messages whose tasks had not begun.

Workers and producers with and without it share a queue: what stands in Redis is what kombu writes. It leans on these
names of the pinned kombu: `Channel._create_client`, `pool`, `_brpop_read`, `_q_for_pri`, `_queue_cycle`, `_closing`,
and `QoS._remove_from_indices`, `restore_by_tag`, `_delivered`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import TimeoutError as Silent

_SCRIPT = Path(__file__).with_name("reserve.lua").read_text()
#: The most messages that one step takes: Redis does nothing else meanwhile.
_MOST = 32
#: Acknowledgements that wait for company, at most.
_ACKS = 16
#: Seconds that they wait, at most.
_ACK_WAIT = 0.2


_AWAY = (Broken, Silent, OSError)


@dataclass(slots=True)
class Owed:
    """What could not be told to a Redis: the delivery tags to acknowledge, and those to give back."""

    acks: list[str] = field(default_factory=list)
    returns: list[str] = field(default_factory=list)


class QoS(redis.QoS):  # type: ignore[misc]  # kombu has no annotations
    """What a channel was given and has not acknowledged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Delivery tags that `reserve.lua` has recorded already.
        self.reserved: set[str] = set()

    def can_consume(self) -> bool:
        """Tell whether a quarter of the room is free: messages are worth asking for in batches."""
        if not self.prefetch_count:
            return True
        room = self.prefetch_count - (len(self._delivered) - len(self._dirty))
        return bool(room >= max(1, self.prefetch_count // 4))

    def append(self, message: Any, delivery_tag: str) -> None:
        """Remember a message that was delivered, and record it in Redis unless that is done."""
        if delivery_tag in self.reserved:
            self.reserved.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message, soon."""
        acks = self.channel.owed.acks
        acks.append(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)
        if len(acks) >= _ACKS:
            self.flush()

    def flush(self) -> None:
        """Tell Redis what it is owed; while it is away, or this channel is closed, that stays for the next one."""
        owed = self.channel.owed
        if self.channel.disconnected:
            return
        with suppress(*_AWAY):
            if tags := owed.acks[:]:
                with self.pipe_or_acquire() as pipe:
                    pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags).execute()
                del owed.acks[: len(tags)]
            while owed.returns:
                self.restore_by_tag(owed.returns[-1])
                owed.returns.pop()

    def restore_unacked(self, client: Any = None) -> None:
        """Give back what was delivered and has not begun: what has goes on, and is acknowledged when it is done."""
        begun = self.channel.begun()
        self.channel.owed.returns += [
            tag for tag, message in self._delivered.items() if message.headers.get("id") not in begun
        ]
        self._delivered.clear()
        self.flush()


class Channel(redis.Channel):  # type: ignore[misc]  # kombu has no annotations
    """A channel that takes messages in batches and keeps its client."""

    QoS = QoS
    #: What each Redis is owed by this process, by its URL.
    _all_owed: ClassVar[dict[str, Owed]] = {}
    #: The ids of the tasks that this process is at.
    begun: Callable[[], Collection[str]] = staticmethod(frozenset)
    _kept: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._unrecorded: set[str] = set()
        url = connection.client.as_uri(include_password=True)
        self.owed = self._all_owed.setdefault(url, Owed())
        super().__init__(connection, **kwargs)

    @property
    def disconnected(self) -> bool:
        """Whether the connection that this channel belongs to is closed."""
        return self.connection is None or self.connection.client is None

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue; one without acknowledgements is left to kombu's own way."""
        if no_ack:
            self._unrecorded.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def close(self) -> None:
        """Close the channel; what was acknowledged is told first, or it would be handed back."""
        self.qos.flush()
        super().close()

    def _create_client(self, asynchronous: bool = False) -> Any:
        # The asynchronous client is a channel's own already: it holds the connection that waits for messages.
        if asynchronous:
            return super()._create_client(asynchronous=True)
        # After a reconnect the channel has another pool.
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept

    def _brpop_read(self, **options: Any) -> Any:
        delivered = super()._brpop_read(**options)
        # A prefix would have to reach the keys inside the script; kombu's client does not put it there.
        if not self._closing and not self.global_keyprefix:
            self._reserve()
        return delivered

    def _reserve(self) -> None:
        """Take and deliver what else there is room for."""
        queues = [
            queue for queue in self._queue_cycle.consume(len(self.active_queues)) if queue not in self._unrecorded
        ]
        # None stands for a room without a bound.
        free = self.qos.can_consume_max_estimate()
        room = _MOST if free is None else min(free, _MOST)
        if not queues or not room:
            return
        names = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        keys = [self.unacked_key, self.unacked_index_key, *names]
        with self.conn_or_acquire() as client:
            taken = client.eval(_SCRIPT, len(keys), *keys, time.time(), room)
        messages = [
            (queues[place % len(queues)], json.loads(raw)) for place, raw in zip(*[iter(taken)] * 2, strict=True)
        ]
        waiting = [message["properties"]["delivery_tag"] for _, message in messages]
        self.qos.reserved.update(waiting)
        try:
            for queue, message in messages:
                self.connection._deliver(message, queue)
                waiting.pop(0)
        finally:
            # Only where a delivery raised: the others go back to their queues now, not after the visibility timeout.
            for tag in waiting:
                self.qos.reserved.discard(tag)
                self.qos.restore_by_tag(tag)


class Transport(redis.Transport):  # type: ignore[misc]  # kombu has no annotations
    """kombu's transport with our channel."""

    Channel = Channel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Join a worker's event loop, and have it tell acknowledgements that found no company."""
        super().register_with_event_loop(connection, loop)
        timer = getattr(self.cycle, "_ack_tref", None)
        if timer is not None:
            timer.cancel()
        self.cycle._ack_tref = loop.call_repeatedly(_ACK_WAIT, self._flush_acks)

    def _flush_acks(self) -> None:
        for channel in list(self.cycle._channels):
            if channel.active_queues:
                channel.qos.flush()


def install(begun: Callable[[], Collection[str]] = frozenset) -> None:
    """Have every ``redis://``, ``rediss://`` and ``redis+socket://`` connection made from now on use `Transport`.

    The setting ``broker_transport`` would not do: a Unix socket's URL ignores it, and ``rediss://`` would be spoken in
    plain text.

    Args:
        begun: tells the ids of the tasks that this process is at.
    """
    Channel.begun = staticmethod(begun)
    name = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES.update(redis=name, rediss=name)
