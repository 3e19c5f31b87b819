"""What a fleet says to its Redis: recorded by a proxy in between, and said again as fast as Redis answers.

Python can't load a Redis on the same two cores: what sends and takes the messages needs several times the CPU of the
Redis that carries them. What was recorded costs next to nothing to send. Each player speaks in a database of its own,
on as many connections as the fleet had, one turn after the other, so Redis does for every image what it did in the run.
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
from tasks import presence
from tasks.celery import IMAGES

_HOST = "127.0.0.1"
_BLOCK = 1 << 20
#: Seconds that players wait for each other.
_PATIENCE = 600.0
#: Messages that may be left: a run ends before the last of them are acknowledged.
_FEW = 100
#: Each connection says these for itself, or they wait for what others do; Redis does next to nothing for them.
_LEFT_OUT = frozenset(
    {b"HELLO", b"CLIENT", b"SELECT", b"SUBSCRIBE", b"PSUBSCRIBE", b"UNSUBSCRIBE", b"BLMOVE", b"BLPOP"}
)


@dataclass(frozen=True)
class Turn:
    """Commands that came at once on a connection, and how many replies they have."""

    connection: int
    request: bytes
    replies: int


class Tap:
    """A proxy before a Redis that notes every turn, in the order in which Redis hears them; a context manager."""

    def __init__(self, port: int, turns: list[Turn]) -> None:
        """Take the port of Redis on this machine, and the list to note in; `port` is the proxy's own."""
        self._redis_port, self._turns = port, turns
        self._server = _Server(self._serve)
        self._numbers = count(1)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="tap").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, client: socket.socket) -> None:
        """Carry one connection's bytes both ways until either side ends it."""
        number, reader = next(self._numbers), hiredis.Reader()
        with socket.create_connection((_HOST, self._redis_port)) as server, suppress(OSError):
            threading.Thread(target=_carry, args=(server, client), daemon=True).start()
            while block := client.recv(_BLOCK):
                reader.feed(block)
                # Before Redis hears of it: what follows from it stands behind it.
                self._note(number, reader)
                server.sendall(block)

    def _note(self, connection: int, reader: hiredis.Reader) -> None:
        commands = []
        while (command := reader.gets()) is not False:
            if command[0].upper() not in _LEFT_OUT:
                commands.append(hiredis.pack_command(tuple(command)))
        if commands:
            self._turns.append(Turn(connection, b"".join(commands), len(commands)))


class _Server(socketserver.ThreadingTCPServer):
    """Gives each connection to a function, in a thread of its own."""

    # Clients may stay longer than the tap.
    daemon_threads = True

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        super().__init__((_HOST, 0), socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._serve(request)


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(_BLOCK):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Played:
    """What Redis did while players spoke to it, and how long that took."""

    seconds: float
    work: RedisWork


def play(turns: Sequence[Turn], port: int, players: int, times: int) -> Played:
    """Say what was recorded again: so many players at once, each so many times.

    Raises:
        RuntimeError: a player could not go on, or Redis did not do what it did in the run.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(players + 1)
    processes = [
        # The fleet is still there, in database 0.
        context.Process(target=_play, args=(turns, port, database, times, barrier))
        for database in range(1, players + 1)
    ]
    for process in processes:
        process.start()
    try:
        with redis.Redis(_HOST, port) as server:
            # All are ready, all begin, all are done.
            barrier.wait(_PATIENCE)
            work, started = RedisWork.so_far(server), time.monotonic()
            barrier.wait(_PATIENCE)
            barrier.wait(_PATIENCE)
            return Played(time.monotonic() - started, RedisWork.so_far(server).since(work))
    except threading.BrokenBarrierError as error:
        raise RuntimeError("a player could not go on; it says above why") from error
    except BaseException:
        barrier.abort()
        raise
    finally:
        for process in processes:
            process.join()


def _play(turns: Sequence[Turn], port: int, database: int, times: int, barrier: Barrier) -> None:
    """Be a player: once in peace, which opens connections and loads scripts, and then as often as asked."""
    try:
        with redis.Redis(_HOST, port, db=database) as server, ExitStack() as stack:
            player = _Player(port, database, stack)
            player.say(turns)
            barrier.wait(_PATIENCE)
            barrier.wait(_PATIENCE)
            for _ in range(times):
                # Celery drops parts of a chord that it knows to be done.
                server.flushdb()
                player.say(turns)
                _expect_nothing_queued(server)
            barrier.wait(_PATIENCE)
    except BaseException:
        barrier.abort()
        raise


class _Player:
    """Connections to one database."""

    def __init__(self, port: int, database: int, stack: ExitStack) -> None:
        self._port, self._database, self._stack = port, database, stack
        self._connections: dict[int, tuple[socket.socket, hiredis.Reader]] = {}

    def say(self, turns: Sequence[Turn]) -> None:
        """Say it all, each turn when the one before is answered.

        Raises:
            RuntimeError: Redis refused a command.
        """
        for turn in turns:
            self._say(turn)

    def _say(self, turn: Turn) -> None:
        connection, reader = self._connections.get(turn.connection) or self._connect(turn.connection)
        connection.sendall(turn.request)
        missing = turn.replies
        while missing:
            reader.feed(connection.recv(_BLOCK))
            while (reply := reader.gets()) is not False:
                if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("NOSCRIPT"):
                    raise RuntimeError(f"Redis refused what it had accepted: {reply}")
                missing -= 1

    def _connect(self, number: int) -> tuple[socket.socket, hiredis.Reader]:
        found = self._connections[number] = (
            self._stack.enter_context(socket.create_connection((_HOST, self._port))),
            hiredis.Reader(),
        )
        self._say(Turn(number, b"SELECT %d\r\n" % self._database, 1))
        return found


def _expect_nothing_queued(server: redis.Redis) -> None:
    """Make sure that Redis was told of the end of all that it was given; the last moments may be missing.

    Raises:
        RuntimeError: too much is left.
    """
    held: list[Any] = [server.hlen(name) for name in presence.holders(server)]
    left = server.llen(IMAGES) + sum(held)
    if left > _FEW:
        raise RuntimeError(f"{left} messages are left in Redis, which had none at the end of the run")
