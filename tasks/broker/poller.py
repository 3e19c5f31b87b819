"""Poll Redis for messages. Each list has its own waiting connection. One poller or event loop serves all lists."""

from __future__ import annotations

import time
from contextlib import suppress
from queue import Empty
from typing import Any, Protocol

from kombu.transport import redis

from tasks.broker.held_tasks import HELD_TASKS
from tasks.broker.redis_errors import REDIS_ERRORS


class ConsumingChannel(Protocol):
    """The methods and attributes of a channel that its listeners use."""

    may_have_more: bool
    is_reserving: bool
    brpop_timeout: float | None
    health_check_interval: float | None
    global_keyprefix: str

    @property
    def disconnected(self) -> bool:
        """Whether this channel's connection is closed."""

    def reserve_command(self) -> tuple[list[str], int, list[Any]] | None:
        """Return the queue of each list, the maximum number of messages, and the command that reserves messages."""

    def deliver(self, queues: list[str], reply: list[Any]) -> None:
        """Deliver the messages of a reply."""

    def requeue(self, queues: list[str], reply: list[Any]) -> None:
        """Requeue the messages of a reply."""

    def _create_client(self, asynchronous: bool = False) -> Any: ...


class QueueListener:
    """A connection that waits until a list holds a message, and then reserves messages from all lists."""

    def __init__(self, channel: ConsumingChannel, name: str) -> None:
        self.client = channel._create_client(asynchronous=True)
        self._channel, self._name = channel, name
        #: The queues and the number of messages of a reservation in flight; None while the listener waits or is idle.
        self._reserving: tuple[list[str], int] | None = None
        #: Time when the command in flight was sent, by the monotonic clock.
        self._sent_at: float | None = None

    @property
    def idle(self) -> bool:
        """Whether no command is in flight."""
        return self._sent_at is None

    def close_if_dead(self) -> None:
        """If a reply is overdue, close the connection, because the server has disappeared without closing it."""
        wait, interval = self._channel.brpop_timeout, self._channel.health_check_interval
        # A wait without a time limit may last for ever. Without a health check interval, overdue replies are not
        # detected.
        if self._sent_at is None or not wait or not interval or time.monotonic() - self._sent_at <= wait + interval:
            return
        connection = self.client.connection
        # If a reply arrived while this process was busy or paused, keep the connection. The reply may contain messages.
        if connection._sock is not None and not redis._socket_readable(connection._sock):
            connection.disconnect()

    def reset(self) -> None:
        """Forget the command in flight, because its connection is lost."""
        if self._reserving is not None:
            self._channel.is_reserving = False
        self._reserving = self._sent_at = None

    def poll(self) -> None:
        """Reserve messages if the lists may hold any; otherwise wait for a message."""
        channel = self._channel
        if channel.may_have_more:
            if not channel.is_reserving:
                self._reserve()
        else:
            name = channel.global_keyprefix + self._name
            self._send("BLMOVE", name, name, "RIGHT", "RIGHT", channel.brpop_timeout or 0)

    def read(self) -> bool:
        """Read a reply; return whether messages were delivered."""
        if self.idle:
            # No command is in flight, so there is no reply to read. The server has closed the idle connection.
            self.client.connection.disconnect()
            return False
        reply = self._read_reply()
        if self._reserving is None:
            self._channel.may_have_more = self._channel.may_have_more or reply is not None
            return False
        (queues, room), self._reserving = self._reserving, None
        self._channel.is_reserving = False
        self._channel.may_have_more = len(reply) > 2 * room
        self._channel.deliver(queues, reply)
        return len(reply) > 1

    def close(self) -> None:
        """Close the connection, and requeue the messages of a reservation in flight."""
        if self._reserving is not None and not self._channel.disconnected:
            with suppress(*REDIS_ERRORS):
                queues, _ = self._reserving
                self._channel.requeue(queues, self._read_reply())
        self.reset()
        if getattr(self.client, "connection", None) is not None:
            self.client.connection.disconnect()

    def _reserve(self) -> None:
        reservation = self._channel.reserve_command()
        if reservation is None:
            return
        queues, room, command = reservation
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
        except REDIS_ERRORS:
            self.client.connection.disconnect()
            raise


class Poller(redis.MultiChannelPoller):  # type: ignore[misc]  # kombu has no annotations
    """A poller with one listener per list, whereas kombu's poller sends one BRPOP per channel for all lists."""

    def on_poll_start(self) -> None:
        """Let idle listeners reserve messages or wait for them; an event loop calls this method at each tick."""
        for channel in self._channels:
            idle = [listener for listener in channel.listeners() if listener.idle]
            if idle and channel.qos.can_consume():
                for listener in idle:
                    if not self._client_registered(channel, listener.client, listener):
                        self._register(channel, listener.client, listener)
                    listener.poll()
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)

    def on_readable(self, fileno: int) -> Any:
        """Let the listener of a connection read its reply.

        Raises:
            Empty: the reply held no message, so kombu's ``drain_events`` continues to wait.
        """
        _, kind = self._fd_to_chan.get(fileno, (None, None))
        if not isinstance(kind, QueueListener):
            return super().on_readable(fileno)
        if not kind.read():
            raise Empty
        return True

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Wait for messages without an event loop. Before the wait, do the work that an event loop's timer would do."""
        self.flush_and_close_dead()
        super().get(callback, timeout)

    def flush_and_close_dead(self) -> None:
        """Send the acknowledgements of incomplete batches, close dead connections, and start overdue held tasks."""
        HELD_TASKS.release_overdue()
        for channel in list(self._channels):
            if channel.active_queues:
                channel.qos.flush()
                for listener in channel.listeners():
                    listener.close_if_dead()


class EventLoop:
    """A worker's event loop that registers each connection only once.

    At every tick, kombu's own event loop registers all connections again, with a system call for each connection.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, fd: int, *callback: Any) -> None:
        """Add a reader of a file descriptor, unless the descriptor already has one."""
        if fd not in self._loop.readers:
            self._loop.add_reader(fd, *callback)
