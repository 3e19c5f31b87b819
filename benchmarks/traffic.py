"""Record a fleet's commands to Redis with a proxy, and replay them as fast as Redis responds.

A fleet in Python can't saturate a Redis on the same two cores. The fleet needs several times the CPU of Redis to send
and take messages. Sending recorded commands costs almost nothing. Each client uses a separate database, and as many
connections as the fleet. Each client sends one batch after another. So Redis does the same work per image as in the
recorded run.
"""

from __future__ import annotations

import multiprocessing
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.synchronize import Barrier
from types import TracebackType
from typing import Any, Self

import hiredis
import redis

from benchmarks.redis_work import RedisWork
from tasks.broker import requeue
from tasks.celery import IMAGE_QUEUE

_HOST = "127.0.0.1"
_BLOCK = 1 << 20
#: Seconds for which a client waits for the other clients before it gives up.
_TIMEOUT = 600.0
#: Number of messages that may remain, because a run ends before its last messages are acknowledged.
_MAX_REMAINING = 100
#: Commands to set up a connection or to wait for other clients. Such commands cost Redis almost nothing.
_NOT_RECORDED = frozenset(
    {b"HELLO", b"CLIENT", b"SELECT", b"SUBSCRIBE", b"PSUBSCRIBE", b"UNSUBSCRIBE", b"BLMOVE", b"BLPOP"}
)


@dataclass(frozen=True)
class Batch:
    """Commands received together on one connection, and the number of replies to them."""

    connection: int
    request: bytes
    replies: int


class Recorder:
    """A proxy in front of Redis. It records every batch, in the order of arrival.

    The proxy is a context manager.
    """

    def __init__(self, port: int, batches: list[Batch]) -> None:
        """Take the port of Redis on this machine, and a list to add batches to. `Recorder.port` is the proxy's port."""
        self._redis_port, self._batches = port, batches
        self._server = _Server(self._serve)
        self._numbers = count(1)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="recorder").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, client: socket.socket) -> None:
        """Forward one connection's bytes in both directions until either side closes it."""
        number, reader = next(self._numbers), hiredis.Reader()
        with socket.create_connection((_HOST, self._redis_port)) as server, suppress(OSError):
            threading.Thread(target=_forward, args=(server, client), daemon=True).start()
            while block := client.recv(_BLOCK):
                reader.feed(block)
                # Record the batch before forwarding it, so that the commands it causes are recorded after it.
                self._record(number, reader)
                server.sendall(block)

    def _record(self, connection: int, reader: hiredis.Reader) -> None:
        commands = []
        while (command := reader.gets()) is not False:
            if command[0].upper() not in _NOT_RECORDED:
                commands.append(hiredis.pack_command(tuple(command)))
        if commands:
            self._batches.append(Batch(connection, b"".join(commands), len(commands)))


class _Server(socketserver.ThreadingTCPServer):
    """Passes each connection to a function, in a separate thread."""

    # The threads are daemon threads, because clients may stay connected longer than the recorder lives.
    daemon_threads = True

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        super().__init__((_HOST, 0), socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._serve(request)


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(_BLOCK):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Replay:
    """The duration of a replay, and the work of Redis during it."""

    seconds: float
    work: RedisWork


def replay(batches: Sequence[Batch], port: int, clients: int, times: int) -> Replay:
    """Let each of ``clients`` concurrent processes send the recorded batches ``times`` times.

    Raises:
        RuntimeError: a client failed, or Redis did not do the same work as in the run.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(clients + 1)
    processes = [
        # The clients start at database 1, because the fleet still uses database 0.
        context.Process(target=_replay, args=(batches, port, database, times, barrier))
        for database in range(1, clients + 1)
    ]
    for process in processes:
        process.start()
    try:
        with redis.Redis(_HOST, port) as server:
            # Three barriers: all clients are ready, all start, all are done.
            barrier.wait(_TIMEOUT)
            work, started = RedisWork.read(server), time.monotonic()
            barrier.wait(_TIMEOUT)
            barrier.wait(_TIMEOUT)
            return Replay(time.monotonic() - started, RedisWork.read(server).since(work))
    except threading.BrokenBarrierError as error:
        raise RuntimeError("a client failed; its traceback is above") from error
    except BaseException:
        barrier.abort()
        raise
    finally:
        for process in processes:
            process.join()


def _replay(batches: Sequence[Batch], port: int, database: int, times: int, barrier: Barrier) -> None:
    """Run one client.

    After a warm-up that opens the connections and loads the scripts, ``times`` rounds are measured.
    """
    try:
        with redis.Redis(_HOST, port, db=database) as server, ExitStack() as stack:
            client = _Client(port, database, stack)
            client.send(batches)
            barrier.wait(_TIMEOUT)
            barrier.wait(_TIMEOUT)
            for _ in range(times):
                # Otherwise, Celery would drop the chord parts, because the previous round has already counted them.
                server.flushdb()
                client.send(batches)
                _expect_nothing_queued(server)
            barrier.wait(_TIMEOUT)
    except BaseException:
        barrier.abort()
        raise


class _Client:
    """Connections to one database."""

    def __init__(self, port: int, database: int, stack: ExitStack) -> None:
        self._port, self._database, self._stack = port, database, stack
        self._connections: dict[int, tuple[socket.socket, hiredis.Reader]] = {}

    def send(self, batches: Sequence[Batch]) -> None:
        """Send all batches. Send each batch after receiving the replies to the batch before it.

        Raises:
            RuntimeError: Redis refused a command.
        """
        for batch in batches:
            self._send(batch)

    def _send(self, batch: Batch) -> None:
        connection, reader = self._connections.get(batch.connection) or self._connect(batch.connection)
        connection.sendall(batch.request)
        missing = batch.replies
        while missing:
            reader.feed(connection.recv(_BLOCK))
            while (reply := reader.gets()) is not False:
                if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("NOSCRIPT"):
                    raise RuntimeError(f"Redis refused a command that it accepted in the recording: {reply}")
                missing -= 1

    def _connect(self, number: int) -> tuple[socket.socket, hiredis.Reader]:
        found = self._connections[number] = (
            self._stack.enter_context(socket.create_connection((_HOST, self._port))),
            hiredis.Reader(),
        )
        self._send(Batch(number, b"SELECT %d\r\n" % self._database, 1))
        return found


def _expect_nothing_queued(server: redis.Redis) -> None:
    """Check that nearly all messages were acknowledged. The recording may lack the last acknowledgements.

    Raises:
        RuntimeError: too many messages remain.
    """
    unacked: list[Any] = [server.hlen(name) for name in requeue.unacked_hashes(server)]
    remaining = server.llen(IMAGE_QUEUE) + sum(unacked)
    if remaining > _MAX_REMAINING:
        raise RuntimeError(f"{remaining} messages remain in Redis, but none remained at the end of the run")
