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
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

import orjson
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from redis.exceptions import RedisError, ResponseError

from tasks.broker import keys

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_RESERVE = Path(__file__).with_name("reserve.lua").read_text(encoding="utf-8")
#: The most messages that one step takes: Redis does nothing else meanwhile.
_MAX_BATCH = 32
#: Acknowledgements that wait for company, at most.
_ACK_BATCH = 16
#: Seconds that they wait, at most.
_ACK_WAIT_SECONDS = 0.2
#: Ends the name of the list of what kombu did not write.
_DEAD_LETTER_SUFFIX = "_dead_letter"
#: What Redis could not be told for: it is away, or answers with an error.
_REDIS_ERRORS = (RedisError, OSError)
#: More connections than a process can have: no bound on a pool of them.
_UNBOUNDED = 2**31
_JSON = "application/json"
#: Marks what kombu writes as JSON that it is not, such as a date.
_KOMBU_TYPE = b'"__type__"'


@dataclass(slots=True)
class PendingAcks:
    """What could not be told to a Redis: the delivery tags to acknowledge, and those to give back."""

    acks: list[str] = field(default_factory=list)
    requeues: list[str] = field(default_factory=list)
    #: What a broken connection had delivered and goes on: it is acknowledged over another.
    running: set[str] = field(default_factory=set)
    #: Held by the thread that tells Redis.
    flush_lock: threading.Lock = field(default_factory=threading.Lock)


class Message(virtual.Message):  # type: ignore[misc]  # kombu has no annotations
    """A message whose body is read once, and fast where it holds none of kombu's own types."""

    def _decode(self) -> Any:
        accepted = self.accept is None or _JSON in self.accept
        if accepted and self.content_type == _JSON and _KOMBU_TYPE not in self.body:
            return _load_json(self.body)
        return super()._decode()


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
        with pending.flush_lock, suppress(*_REDIS_ERRORS):
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


class QueueListener:
    """A connection that waits until a list holds a message, or asks for the messages of all lists."""

    def __init__(self, channel: Channel, name: str) -> None:
        self.client = channel._create_client(asynchronous=True)
        self._channel, self._name = channel, name
        #: What was asked for: lists and room; None while it waits or is idle.
        self._reserving: tuple[list[str], int] | None = None
        #: When it sent what has not been answered, by the monotonic clock.
        self._sent_at: float | None = None

    @property
    def idle(self) -> bool:
        """Whether it has nothing to wait for."""
        return self._sent_at is None

    def close_if_dead(self) -> None:
        """Give up a connection whose server would have answered by now: it is gone, and nobody has told."""
        wait, interval = self._channel.brpop_timeout, self._channel.health_check_interval
        # Without a bound on its wait a server may be silent for ever, and without an interval nobody wants to know.
        if self._sent_at is None or not wait or not interval or time.monotonic() - self._sent_at <= wait + interval:
            return
        connection = self.client.connection
        # What has come while this process was busy, or stopped, is read soon; it may be messages.
        if connection._sock is not None and not redis._socket_readable(connection._sock):
            connection.disconnect()

    def reset(self) -> None:
        """Begin anew on another connection: what the last one was asked for was never answered."""
        if self._reserving is not None:
            self._channel.is_reserving = False
        self._reserving = self._sent_at = None

    def poll(self) -> None:
        """Ask if there is something to be had, and wait if there is not."""
        channel = self._channel
        if channel.may_have_more:
            if not channel.is_reserving:
                self._reserve()
        else:
            name = channel.global_keyprefix + self._name
            self._send("BLMOVE", name, name, "RIGHT", "RIGHT", channel.brpop_timeout or 0)

    def read(self) -> bool:
        """Take an answer; return whether messages were delivered."""
        if self.idle:
            # The server has closed a connection that it was not asked over, as it may.
            self.client.connection.disconnect()
            return False
        answer = self._read_reply()
        if self._reserving is None:
            self._channel.may_have_more = self._channel.may_have_more or answer is not None
            return False
        (queues, room), self._reserving = self._reserving, None
        self._channel.is_reserving = False
        self._channel.may_have_more = len(answer) > 2 * room
        self._channel.deliver(queues, answer)
        return len(answer) > 1

    def close(self) -> None:
        """End it; what it has been given meanwhile goes back."""
        if self._reserving is not None and not self._channel.disconnected:
            with suppress(*_REDIS_ERRORS):
                queues, _ = self._reserving
                self._channel.requeue(queues, self._read_reply())
        self.reset()
        if getattr(self.client, "connection", None) is not None:
            self.client.connection.disconnect()

    def _reserve(self) -> None:
        asked = self._channel.reserve_command()
        if asked is None:
            return
        queues, room, command = asked
        self._reserving = queues, room
        self._channel.is_reserving = True
        self._send(*command)

    def _send(self, *command: Any) -> None:
        self._sent_at = time.monotonic()
        self.client.connection.send_command(*command)

    def _read_reply(self) -> Any:
        self._sent_at = None
        try:
            return self.client.connection.read_response()
        except _REDIS_ERRORS:
            self.client.connection.disconnect()
            raise


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


def snapshot(items: Iterable[_T]) -> list[_T]:
    """Return what is in a collection that other threads change."""
    while True:
        with suppress(RuntimeError):
            return list(items)


class Poller(redis.MultiChannelPoller):  # type: ignore[misc]  # kombu has no annotations
    """kombu's poller, with waiters in place of its one BRPOP for each channel."""

    def on_poll_start(self) -> None:
        """Put waiters that are idle to work; an event loop calls this again and again."""
        for channel in self._channels:
            idle = [waiter for waiter in channel.listeners() if waiter.idle]
            if idle and channel.qos.can_consume():
                for waiter in idle:
                    if not self._client_registered(channel, waiter.client, waiter):
                        self._register(channel, waiter.client, waiter)
                    waiter.poll()
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)

    def on_readable(self, fileno: int) -> Any:
        """Hand what came to whom it is for.

        Raises:
            Empty: it was no message, and whoever drains events waits on.
        """
        _, kind = self._fd_to_chan.get(fileno, (None, None))
        if not isinstance(kind, QueueListener):
            return super().on_readable(fileno)
        if not kind.read():
            raise Empty
        return True

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Wait for messages without an event loop, whose timer would tell acknowledgements."""
        self.flush_and_close_dead()
        super().get(callback, timeout)

    def flush_and_close_dead(self) -> None:
        """Tell the acknowledgements that found no company, and give up connections that are dead."""
        for channel in list(self._channels):
            if channel.active_queues:
                channel.qos.flush()
                for waiter in channel.listeners():
                    waiter.close_if_dead()


class _EventLoop:
    """A worker's event loop that is told of a connection once: kombu tells at every tick, in a system call each."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, place: int, *callback: Any) -> None:
        if place not in self._loop.readers:
            self._loop.add_reader(place, *callback)


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
        super().register_with_event_loop(connection, _EventLoop(loop))
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
