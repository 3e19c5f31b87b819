"""Extend kombu's Redis transport: take and acknowledge messages in batches, without losing any.

For each message, kombu needs three round trips: it waits for the message (BRPOP), records it as unacknowledged, and
later removes the record. It creates a client object for each round trip. If a worker is killed after it receives the
message and before it records the message, the message is lost. In one atomic step (``reserve.lua``), this transport
takes as many messages as the worker has room for, and records them as unacknowledged. It takes more messages as soon as
the worker has room for a quarter of its maximum number. If the queues are empty, the transport waits with the command
``BLMOVE list list RIGHT RIGHT``. This command takes the last message of a list and puts the message back in its place.
So the command returns as soon as there is a message, and removes nothing. Each list has its own waiting connection.
Only one of these connections reserves messages at a time.

Acknowledgements are sent in batches, after at most a fifth of a second. If a worker dies before it sends its
acknowledgements, the tasks run twice, which is harmless because all our tasks are idempotent.

If the connection breaks, kombu tries to requeue all unacknowledged messages at once. If Redis still refuses connections
at that time, a worker with kombu's transport exits. Instead, this transport keeps its pending operations
(acknowledgements and requeues) for the next connection. Over the next connection, it acknowledges the tasks that have
finished meanwhile, and requeues the messages of tasks that have not started.

A worker process records its messages under its own id (``Channel.worker_id``), so that other workers can find and
requeue them after the process has died (``tasks/broker/requeue.py``). A process without an id uses kombu's records.

The data in Redis has kombu's format, so processes with this transport and processes with kombu's transport can share a
queue. Redis must be 6.2 or newer. This module uses internals of the pinned version of kombu.
``tests/unit/broker/test_transport.py`` lists them, and fails if one of them changes.
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
from tasks.broker.qos import MAX_BATCH, PendingAcks, QoS
from tasks.broker.snapshot import snapshot

_log = logging.getLogger(__name__)
_RESERVE = Path(__file__).with_name("reserve.lua").read_text(encoding="utf-8")
#: Maximum number of seconds that an acknowledgement waits until its batch is sent.
_ACK_WAIT_SECONDS = 0.2
#: Suffix of the list for messages not written by kombu.
_DEAD_LETTER_SUFFIX = "_dead_letter"
#: A pool size that no process reaches, so the pool is unlimited in effect.
_UNBOUNDED = 2**31
_JSON = "application/json"
#: Marks kombu's own types in JSON, such as dates.
_KOMBU_TYPE = b'"__type__"'


class Message(virtual.Message):  # type: ignore[misc]  # kombu has no annotations
    """A message that decodes its body faster if the body has none of kombu's own types."""

    def _decode(self) -> Any:
        accepted = self.accept is None or _JSON in self.accept
        if accepted and self.content_type == _JSON and _KOMBU_TYPE not in self.body:
            return _load_json(self.body)
        return super()._decode()


class Channel(redis.Channel):  # type: ignore[misc]  # kombu has no annotations
    """A channel that handles messages in batches and reuses one client."""

    QoS = QoS
    Message = Message
    #: This process's pending operations, by Redis server and by key of the records.
    _all_pending: ClassVar[dict[tuple[Any, ...], PendingAcks]] = {}
    #: The open channels of this process.
    _open_channels: ClassVar[WeakSet[Channel]] = WeakSet()
    #: The id of this worker process, used in the keys of its records. If the process has no id, kombu's records are
    #: used.
    worker_id: ClassVar[str] = ""
    #: End of the pause in which this process takes no tasks, by the monotonic clock.
    paused_until: ClassVar[float] = 0.0
    #: Returns the ids of this process's running tasks.
    running_ids: Callable[[], Collection[str]] = staticmethod(frozenset)
    #: Called before a channel is closed, to acknowledge finished tasks over this channel.
    before_close: Callable[[], object] = staticmethod(frozenset)
    #: The client for commands, and the pool of its connections.
    _command_client: Any = None
    _command_pool: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._unrecorded: set[str] = set()
        self._listeners: dict[str, QueueListener] = {}
        self._active_listeners: list[QueueListener] = []
        self._listened_queues: list[str] = []
        #: Whether the lists may hold messages, and whether a listener is reserving them.
        self.may_have_more, self.is_reserving = True, False
        super().__init__(connection, **kwargs)
        self._dead_letter_key = self.unacked_key + _DEAD_LETTER_SUFFIX
        if self.worker_id:
            # Add the id to the set of workers before the first record, because other workers check only the records of
            # ids in this set.
            self.client.sadd(keys.WORKERS, self.worker_id)
            for name in ("unacked_key", "unacked_index_key", "unacked_mutex_key"):
                setattr(self, name, keys.worker_key(getattr(self, name), self.worker_id))
        server = connection.client
        records = server.hostname, server.port, server.virtual_host, self.global_keyprefix, self.unacked_key
        self.pending_acks = self._all_pending.setdefault(records, PendingAcks())
        self._open_channels.add(self)

    @property
    def disconnected(self) -> bool:
        """Whether this channel's connection is closed."""
        return self.connection is None or self.connection.client is None

    def listeners(self) -> list[QueueListener]:
        """Return one listener for each list with a consumer."""
        if self._listened_queues != self._active_queues:
            self._listened_queues = list(self._active_queues)
            names = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in self.active_queues]
            for name in names:
                if name not in self._listeners:
                    self._listeners[name] = QueueListener(self, name)
            self._active_listeners = [self._listeners[name] for name in names]
        return self._active_listeners

    def reserve_command(self) -> tuple[list[str], int, list[Any]] | None:
        """Return the queue of each list, the maximum number of messages, and the command that reserves messages.

        Returns None if there is no room.
        """
        # None means unlimited room.
        free = self.qos.can_consume_max_estimate()
        room = MAX_BATCH if free is None else min(free, MAX_BATCH)
        queues = list(self._queue_cycle.consume(len(self.active_queues)))
        if not queues or not room:
            return None
        # With the round-robin strategy, each queue comes first in turn. With any other strategy, the order of the
        # queues is their priority.
        round_robin = self.queue_order_strategy == "round_robin"
        if round_robin:
            self._queue_cycle.rotate(queues[0])
        queues_of_lists = [queue for _ in self.priority_steps for queue in queues]
        lists = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        recorded = ["0" if queue in self._unrecorded else "1" for queue in queues_of_lists]
        record_keys = (self.unacked_key, self.unacked_index_key, self._dead_letter_key)
        keys = [self.global_keyprefix + key for key in (*record_keys, *lists)]
        group = len(queues) if round_robin else 1
        return queues_of_lists, room, ["EVAL", _RESERVE, len(keys), *keys, time.time(), room, group, *recorded]

    def deliver(self, queues: list[str], reply: list[Any]) -> None:
        """Deliver the messages returned by `reserve.lua`."""
        if reply[0]:
            _log.error("moved %d messages to %s, because kombu did not write them", reply[0], self._dead_letter_key)
        messages = _decode_messages(queues, reply)
        undelivered = [message["properties"]["delivery_tag"] for queue, message in messages]
        self.qos.reserved.update(
            message["properties"]["delivery_tag"] for queue, message in messages if queue not in self._unrecorded
        )
        try:
            for queue, message in messages:
                self.connection._deliver(message, queue)
                undelivered.pop(0)
        finally:
            # If a delivery raised an error, requeue the remaining messages now, not after the visibility timeout.
            for tag in undelivered:
                self.qos.reserved.discard(tag)
                self.qos.restore_by_tag(tag)

    def requeue(self, queues: list[str], reply: list[Any]) -> None:
        """Mark messages from `reserve.lua` for requeueing, because this channel is being closed."""
        self.pending_acks.requeues += [
            message["properties"]["delivery_tag"] for _, message in _decode_messages(queues, reply)
        ]

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue; messages that need no acknowledgement are not recorded."""
        if no_ack:
            self._unrecorded.add(queue)
        self.may_have_more = True
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def close(self) -> None:
        """Send the channel's acknowledgements, then close it. Unsent acknowledgements would cause requeues."""
        self.before_close()
        for listener in self._listeners.values():
            listener.close()
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
        for listener in self._listeners.values():
            if getattr(listener.client, "connection", None) is connection:
                listener.reset()
        super()._on_connection_disconnect(connection)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous=asynchronous)
        if asynchronous:
            # Each list has its own waiting connection. Celery's setting for the pool size limits only the connections
            # for commands.
            params["max_connections"] = _UNBOUNDED
        return params

    def _create_client(self, asynchronous: bool = False) -> Any:
        # An asynchronous client is one listener's waiting connection.
        if asynchronous:
            return super()._create_client(asynchronous=True)
        # After a reconnect, the channel has another pool, which needs a new client.
        if self._command_pool is not self.pool:
            self._command_client, self._command_pool = super()._create_client(), self.pool
        return self._command_client


def _decode_messages(queues: list[str], reply: list[Any]) -> list[tuple[str, Any]]:
    return [(queues[index], _load_json(raw)) for index, raw in zip(*[iter(reply[1:])] * 2, strict=True)]


def _load_json(raw: bytes) -> Any:
    """Parse JSON with orjson, which takes a fifth of json's time. Non-standard JSON is parsed with json."""
    try:
        return orjson.loads(raw)
    except ValueError:
        return json.loads(raw)


def pause_consuming(seconds: float) -> None:
    """Stop this process from taking new tasks for a number of seconds. It keeps its current tasks."""
    Channel.paused_until = max(Channel.paused_until, time.monotonic() + seconds)


def known_tags() -> set[str]:
    """Return the delivery tags of this process's unacknowledged messages and of its pending operations."""
    # Other threads move a tag through three collections: reserved, then delivered, then pending. Read the collections
    # in the same order, so that no tag is missed.
    found: set[str] = set()
    for qos in filter(None, (channel._qos for channel in snapshot(Channel._open_channels))):
        found.update(snapshot(qos.reserved), snapshot(qos._delivered))
    for pending in snapshot(Channel._all_pending.values()):
        found.update(snapshot(pending.running), pending.requeues[:], pending.acks[:])
    return found


def disconnect_pools() -> None:
    """Close this process's connections for commands; the next command opens new ones."""
    for channel in snapshot(Channel._open_channels):
        if channel._pool is not None:
            channel._pool.disconnect()


class Transport(redis.Transport):  # type: ignore[misc]  # kombu has no annotations
    """kombu's transport with our channel and poller."""

    Channel = Channel
    #: After an error reply from Redis, a worker reconnects in the same way as after a broken connection. With kombu's
    #: transport, the worker would exit after an error reply. After a failover, the new connection leads to the new
    #: master. The worker keeps its messages until it has reconnected.
    connection_errors = (*redis.Transport.connection_errors, ResponseError)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Register with a worker's event loop. The loop's timer sends the acknowledgements of incomplete batches."""
        cycle = self.cycle
        super().register_with_event_loop(connection, EventLoop(loop))
        timer = getattr(cycle, "_ack_tref", None)
        if timer is not None:
            timer.cancel()
        cycle._ack_tref = loop.call_repeatedly(_ACK_WAIT_SECONDS, cycle.flush_and_close_dead)


class SentinelChannel(Channel, redis.SentinelChannel):  # type: ignore[misc]  # kombu has no annotations
    """Our channel for Redis Sentinel. It connects to the current master."""


class SentinelTransport(Transport):
    """Our transport, for ``sentinel://``."""

    Channel = SentinelChannel
    default_port = redis.SentinelTransport.default_port


def install(
    running_ids: Callable[[], Collection[str]] = frozenset, before_close: Callable[[], object] = frozenset
) -> None:
    """Make new connections to Redis use `Transport`, and new connections to Sentinels use `SentinelTransport`.

    Celery's setting ``broker_transport`` can't do this: it has no effect on the URL of a Unix socket, and with
    ``rediss://`` it would send data in plain text.

    Args:
        running_ids: returns the ids of this process's running tasks.
        before_close: called before a channel is closed, to acknowledge finished tasks.
    """
    Channel.running_ids, Channel.before_close = staticmethod(running_ids), staticmethod(before_close)
    name = f"{__name__}:{Transport.__name__}"
    sentinel = f"{__name__}:{SentinelTransport.__name__}"
    TRANSPORT_ALIASES.update(redis=name, rediss=name, sentinel=sentinel)
