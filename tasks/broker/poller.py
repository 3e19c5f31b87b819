"""The connections over which a channel waits for messages and takes them."""

from __future__ import annotations

import time
from contextlib import suppress
from queue import Empty
from typing import Any, Protocol

from kombu.transport import redis

from tasks.broker.redis_errors import REDIS_ERRORS


class ConsumingChannel(Protocol):
    """The parts of a channel that its listeners use."""

    may_have_more: bool
    is_reserving: bool
    brpop_timeout: float | None
    health_check_interval: float | None
    global_keyprefix: str

    @property
    def disconnected(self) -> bool:
        """Whether the connection that this channel belongs to is closed."""

    def reserve_command(self) -> tuple[list[str], int, list[Any]] | None:
        """Return the queues, the number of messages, and the command to ask for."""

    def deliver(self, queues: list[str], answer: list[Any]) -> None:
        """Deliver the messages of an answer."""

    def requeue(self, queues: list[str], answer: list[Any]) -> None:
        """Requeue the messages of an answer."""

    def _create_client(self, asynchronous: bool = False) -> Any: ...


class QueueListener:
    """A connection that waits until a list holds a message, or asks for the messages of all lists."""

    def __init__(self, channel: ConsumingChannel, name: str) -> None:
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
            with suppress(*REDIS_ERRORS):
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
        except REDIS_ERRORS:
            self.client.connection.disconnect()
            raise


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


class EventLoop:
    """A worker's event loop that is told of a connection once: kombu tells at every tick, in a system call each."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, place: int, *callback: Any) -> None:
        """Add a reader of a file descriptor unless it has one."""
        if place not in self._loop.readers:
            self._loop.add_reader(place, *callback)
