"""kombu's Redis transport, with messages taken and acknowledged in batches, and nothing lost on the way.

kombu takes a message in three round trips: it waits for one (BRPOP), records it as unacknowledged, and later removes
that record; each on a client object of its own. A worker that is killed between the first and the second loses the
message. Here a worker takes what it has room for in one step that records it as well (``reserve.lua``), and asks again
when a quarter of its room is free. When the queues are empty it waits with a move of a list's last message to where it
is (``BLMOVE list list RIGHT RIGHT``): that returns as soon as there is one, and takes nothing out. Each list has a
connection that waits for it; one of them asks at a time.

Acknowledgements wait for company, or a fifth of a second; one that is lost with its worker costs that the task is done
twice, which every task of ours bears.

When the connection breaks, kombu tries to give back over it all that is not acknowledged, and a Redis that refuses
connections at that moment ends the worker. Here what can't be told to Redis is owed, and told over the next connection:
the acknowledgements of what goes on meanwhile, and the messages whose tasks had not begun.

A worker process has records of its own, under its id (``Channel.worker_id``), so that others can tell what it holds and
give that back when it is gone (``tasks/broker/heartbeat.py``). Who has no id records where kombu does.

Workers and producers with and without it share a queue: what stands in Redis is what kombu writes. Redis has to be 6.2
or newer. What it leans on in the pinned kombu is in ``tests/unit/broker/test_transport.py``, which fails where that
changes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import orjson
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from redis.exceptions import ResponseError

from tasks.broker import keys
from tasks.broker.poller import EventLoop, Poller, QueueListener
from tasks.broker.qos import PendingAcks, QoS
from tasks.broker.snapshot import snapshot

_log = logging.getLogger(__name__)
_RESERVE = Path(__file__).with_name("reserve.lua").read_text(encoding="utf-8")
#: The most messages that one step takes: Redis does nothing else meanwhile.
_MAX_BATCH = 32
#: Seconds that they wait, at most.
_ACK_WAIT_SECONDS = 0.2
#: Ends the name of the list of what kombu did not write.
_DEAD_LETTER_SUFFIX = "_dead_letter"
#: More connections than a process can have: no bound on a pool of them.
_UNBOUNDED = 2**31
_JSON = "application/json"
#: Marks what kombu writes as JSON that it is not, such as a date.
_KOMBU_TYPE = b'"__type__"'


class Message(virtual.Message):  # type: ignore[misc]  # kombu has no annotations
    """A message whose body is read once, and fast where it holds none of kombu's own types."""

    def _decode(self) -> Any:
        accepted = self.accept is None or _JSON in self.accept
        if accepted and self.content_type == _JSON and _KOMBU_TYPE not in self.body:
            return _load_json(self.body)
        return super()._decode()


class Channel(redis.Channel):  # type: ignore[misc]  # kombu has no annotations
    """A channel that takes messages in batches and keeps its client."""

    QoS = QoS
    Message = Message
    #: What each Redis is owed by this process, by where its records are.
    _all_pending: ClassVar[dict[tuple[Any, ...], PendingAcks]] = {}
    #: The channels of this process that are open.
    _open_channels: ClassVar[WeakSet[Channel]] = WeakSet()
    #: The id of this worker process, under which its records are; without one they are where kombu has them.
    worker_id: ClassVar[str] = ""
    #: Until when this process takes no tasks, by the monotonic clock.
    paused_until: ClassVar[float] = 0.0
    #: The ids of the tasks that this process is at.
    running_ids: Callable[[], Collection[str]] = staticmethod(frozenset)
    #: Called before a channel is closed: what is still to be acknowledged over it is, then.
    before_close: Callable[[], object] = staticmethod(frozenset)
    #: The client for commands, and the pool that it is of.
    _command_client: Any = None
    _command_pool: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._unrecorded: set[str] = set()
        self._listeners: dict[str, QueueListener] = {}
        self._active_listeners: list[QueueListener] = []
        self._listened_queues: list[str] = []
        #: Whether the lists may hold messages, and whether a waiter is asking for them.
        self.may_have_more, self.is_reserving = True, False
        super().__init__(connection, **kwargs)
        self._dead_letter_key = self.unacked_key + _DEAD_LETTER_SUFFIX
        if self.worker_id:
            # Before anything is recorded there: nobody would look for it.
            self.client.sadd(keys.WORKERS, self.worker_id)
            for name in ("unacked_key", "unacked_index_key", "unacked_mutex_key"):
                setattr(self, name, keys.worker_key(getattr(self, name), self.worker_id))
        server = connection.client
        place = server.hostname, server.port, server.virtual_host, self.global_keyprefix, self.unacked_key
        self.pending_acks = self._all_pending.setdefault(place, PendingAcks())
        self._open_channels.add(self)

    @property
    def disconnected(self) -> bool:
        """Whether the connection that this channel belongs to is closed."""
        return self.connection is None or self.connection.client is None

    def listeners(self) -> list[QueueListener]:
        """Return a waiter for each list that is consumed from."""
        if self._listened_queues != self._active_queues:
            self._listened_queues = list(self._active_queues)
            names = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in self.active_queues]
            for name in names:
                if name not in self._listeners:
                    self._listeners[name] = QueueListener(self, name)
            self._active_listeners = [self._listeners[name] for name in names]
        return self._active_listeners

    def reserve_command(self) -> tuple[list[str], int, list[Any]] | None:
        """Return what to ask for: the queue of each list, how many messages, and the command; None without room."""
        # None stands for a room without a bound.
        free = self.qos.can_consume_max_estimate()
        room = _MAX_BATCH if free is None else min(free, _MAX_BATCH)
        queues = list(self._queue_cycle.consume(len(self.active_queues)))
        if not queues or not room:
            return None
        # In turns, each queue is the first once; any other strategy has an order that counts.
        in_turns = self.queue_order_strategy == "round_robin"
        if in_turns:
            self._queue_cycle.rotate(queues[0])
        queues_of_lists = [queue for _ in self.priority_steps for queue in queues]
        lists = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        recorded = ["0" if queue in self._unrecorded else "1" for queue in queues_of_lists]
        kept = (self.unacked_key, self.unacked_index_key, self._dead_letter_key)
        keys = [self.global_keyprefix + key for key in (*kept, *lists)]
        group = len(queues) if in_turns else 1
        return queues_of_lists, room, ["EVAL", _RESERVE, len(keys), *keys, time.time(), room, group, *recorded]

    def deliver(self, queues: list[str], answer: list[Any]) -> None:
        """Deliver what `reserve.lua` has returned."""
        if answer[0]:
            _log.error("%d messages that kombu did not write are in %s now", answer[0], self._dead_letter_key)
        messages = _decode_messages(queues, answer)
        waiting = [message["properties"]["delivery_tag"] for queue, message in messages]
        self.qos.reserved.update(
            message["properties"]["delivery_tag"] for queue, message in messages if queue not in self._unrecorded
        )
        try:
            for queue, message in messages:
                self.connection._deliver(message, queue)
                waiting.pop(0)
        finally:
            # Only where a delivery raised: the others go back to their queues now, not after the visibility timeout.
            for tag in waiting:
                self.qos.reserved.discard(tag)
                self.qos.restore_by_tag(tag)

    def requeue(self, queues: list[str], answer: list[Any]) -> None:
        """Owe Redis what `reserve.lua` has returned to a channel that is being closed."""
        self.pending_acks.requeues += [
            message["properties"]["delivery_tag"] for _, message in _decode_messages(queues, answer)
        ]

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue; what needs no acknowledgement is not recorded."""
        if no_ack:
            self._unrecorded.add(queue)
        self.may_have_more = True
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def close(self) -> None:
        """Close the channel; what was acknowledged is told first, or it would be handed back."""
        self.before_close()
        for waiter in self._listeners.values():
            waiter.close()
        self._listeners.clear()
        self._listened_queues, self._active_listeners = [], []
        self.qos.flush()
        super().close()

    def _poll_error(self, kind: Any, **options: Any) -> None:
        if isinstance(kind, QueueListener):
            kind.read()
        else:
            super()._poll_error(kind, **options)

    def _on_connection_disconnect(self, connection: Any) -> None:
        for waiter in self._listeners.values():
            if getattr(waiter.client, "connection", None) is connection:
                waiter.reset()
        super()._on_connection_disconnect(connection)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous=asynchronous)
        if asynchronous:
            # Each list has a connection that waits; the setting bounds those that commands take.
            params["max_connections"] = _UNBOUNDED
        return params

    def _create_client(self, asynchronous: bool = False) -> Any:
        # An asynchronous client holds a connection that waits.
        if asynchronous:
            return super()._create_client(asynchronous=True)
        # After a reconnect the channel has another pool.
        if self._command_pool is not self.pool:
            self._command_client, self._command_pool = super()._create_client(), self.pool
        return self._command_client


def _decode_messages(queues: list[str], answer: list[Any]) -> list[tuple[str, Any]]:
    return [(queues[place], _load_json(raw)) for place, raw in zip(*[iter(answer[1:])] * 2, strict=True)]


def _load_json(raw: bytes) -> Any:
    """Return what JSON stands for; orjson takes a fifth of the time, and refuses what the standard calls no JSON."""
    try:
        return orjson.loads(raw)
    except ValueError:
        return json.loads(raw)


def pause_consuming(seconds: float) -> None:
    """Have this process take no tasks for so many seconds; what it was given already stays with it."""
    Channel.paused_until = max(Channel.paused_until, time.monotonic() + seconds)


def known_tags() -> set[str]:
    """Return the delivery tags of all that this process was given, and of what it owes to Redis."""
    # What is delivered, done and owed moves on in this order while other threads look.
    found: set[str] = set()
    for qos in filter(None, (channel._qos for channel in snapshot(Channel._open_channels))):
        found.update(snapshot(qos.reserved), snapshot(qos._delivered))
    for pending in snapshot(Channel._all_pending.values()):
        found.update(snapshot(pending.running), pending.requeues[:], pending.acks[:])
    return found


def disconnect_pools() -> None:
    """Close the connections that commands of this process take; the next command opens new ones."""
    for channel in snapshot(Channel._open_channels):
        if channel._pool is not None:
            channel._pool.disconnect()


class Transport(redis.Transport):  # type: ignore[misc]  # kombu has no annotations
    """kombu's transport with our channel."""

    Channel = Channel
    #: A worker connects again after an error that Redis answers with, as after a broken connection; kombu would let it
    #: die. A new connection leads to the new master after a failover, and what was delivered is kept meanwhile.
    connection_errors = (*redis.Transport.connection_errors, ResponseError)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Join a worker's event loop, and have it tell acknowledgements that found no company."""
        cycle = self.cycle
        super().register_with_event_loop(connection, EventLoop(loop))
        timer = getattr(cycle, "_ack_tref", None)
        if timer is not None:
            timer.cancel()
        cycle._ack_tref = loop.call_repeatedly(_ACK_WAIT_SECONDS, cycle.flush_and_close_dead)


class SentinelChannel(Channel, redis.SentinelChannel):  # type: ignore[misc]  # kombu has no annotations
    """Our channel, to whichever server the Sentinels call the master."""


class SentinelTransport(Transport):
    """Our transport, for ``sentinel://``."""

    Channel = SentinelChannel
    default_port = redis.SentinelTransport.default_port


def install(
    running_ids: Callable[[], Collection[str]] = frozenset, before_close: Callable[[], object] = frozenset
) -> None:
    """Have every connection to a Redis made from now on use `Transport`, and to Sentinels `SentinelTransport`.

    The setting ``broker_transport`` would not do: a Unix socket's URL ignores it, and ``rediss://`` would be spoken in
    plain text.

    Args:
        running_ids: tells the ids of the tasks that this process is at.
        before_close: called before a channel is closed, to acknowledge what is done.
    """
    Channel.running_ids, Channel.before_close = staticmethod(running_ids), staticmethod(before_close)
    name = f"{__name__}:{Transport.__name__}"
    sentinel = f"{__name__}:{SentinelTransport.__name__}"
    TRANSPORT_ALIASES.update(redis=name, rediss=name, sentinel=sentinel)
