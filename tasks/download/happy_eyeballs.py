"""Connect to the first address of a host that answers (Happy Eyeballs version 2, RFC 8305).

The addresses are tried in the resolver's order with the families alternating. Each attempt gets a head start of 250 ms
before the next one begins beside it; if it fails, the next one begins at once. The first connection wins, and the
others are closed. So a dead address costs a quarter of a second, not the timeout.

asyncio and aiohappyeyeballs do the same for coroutines. Here one thread polls non-blocking sockets, because a download
already has a thread of its own. A host with a single address is connected to without any of that.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from time import monotonic
from typing import Any

from tasks.download.recent_hosts import RecentMap

#: One item of what `socket.getaddrinfo` returns: family, kind, protocol, canonical name and socket address.
AddressInfo = tuple[Any, ...]
Opener = Callable[[int, int, int], socket.socket]

#: The "Connection Attempt Delay" that RFC 8305 recommends.
_HEAD_START_SECONDS = 0.25
#: How long an address that answered is tried first, so that one that has come back gets another chance (RFC 6555, 4.2).
_MEMORY_SECONDS = 600.0
#: The most hosts that are remembered.
_MEMORY_HOSTS = 10_000
#: This process or this machine has no file descriptor left for another socket.
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
#: This machine can't send to the address, whoever lives there.
_NO_ROUTE = frozenset({errno.EAFNOSUPPORT, errno.ENETUNREACH})


class Connector:
    """Connect for all threads of a process, and remember the addresses that answered in place of a dead one."""

    def __init__(self) -> None:
        #: The socket address that answered, by host and port.
        self._answered: RecentMap[tuple[str, int], Any] = RecentMap(_MEMORY_SECONDS, _MEMORY_HOSTS)

    def connect(self, host: str, port: int, found: Sequence[AddressInfo], ends: float, opener: Opener) -> socket.socket:
        """Return a socket that is connected to one of a host's addresses.

        Args:
            host: the name that the addresses were found for; the memory's key together with the port.
            port: where the addresses are connected to.
            found: the addresses, in the resolver's order. All of them may be connected to.
            ends: when to give up, by the monotonic clock.
            opener: makes a socket from family, kind and protocol.

        Raises:
            TimeoutError: no address answered in time.
            OSError: no address can be connected to, or there is no file descriptor for a socket (EMFILE, ENFILE).
        """
        if len(found) == 1:
            remaining = ends - monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out")
            return _connect(found[0], opener, remaining)
        addresses = interleave(found)
        usual = addresses[0]
        remembered = self._answered.get((host, port))
        # Only an address that the resolver names today, and so one that the guard has judged, is tried.
        addresses.sort(key=lambda info: info[4] != remembered)
        try:
            connection, winner = _race(addresses, ends, opener)
        except OSError:
            self._answered.drop((host, port))
            raise
        if winner is usual:
            self._answered.drop((host, port))
        elif winner[4] != remembered:
            self._answered.put((host, port), winner[4])
        return connection


def interleave(found: Sequence[AddressInfo]) -> list[AddressInfo]:
    """Return the distinct addresses with the families alternating, each family in its own order (RFC 8305, 4)."""
    families: dict[int, dict[Any, AddressInfo]] = {}
    for info in found:
        families.setdefault(info[0], {}).setdefault(info[4], info)
    turns = zip_longest(*(family.values() for family in families.values()))
    return [info for info in chain.from_iterable(turns) if info is not None]


def _race(addresses: Sequence[AddressInfo], ends: float, opener: Opener) -> tuple[socket.socket, AddressInfo]:
    """Return the first socket that is connected, and its address; the others are closed.

    Raises:
        TimeoutError: the time was over before one answered.
        OSError: all of them failed.
    """
    waiting = deque(addresses)
    running: dict[int, tuple[socket.socket, AddressInfo]] = {}
    failures: list[OSError] = []
    poll = select.poll()
    next_start = 0.0
    try:
        while waiting or running:
            now = monotonic()
            if now >= ends:
                raise TimeoutError("timed out")
            if waiting and (now >= next_start or not running):
                info = waiting.popleft()
                try:
                    connection = _connect(info, opener, timeout=0)
                except OSError as error:
                    if error.errno not in _NO_DESCRIPTORS:
                        # This machine may lack the address's family or a route to it.
                        failures.append(error)
                    elif running:
                        # The attempts that run may end well, or give their descriptors back.
                        waiting.appendleft(info)
                        next_start = now + _HEAD_START_SECONDS
                    else:
                        raise
                else:
                    running[connection.fileno()] = connection, info
                    poll.register(connection, select.POLLOUT)
                    next_start = now + _HEAD_START_SECONDS
                continue
            until = min(ends, next_start) if waiting else ends
            for descriptor, _ in poll.poll(math.ceil((until - now) * 1000)):
                connection, info = running.pop(descriptor)
                code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    connection.settimeout(max(ends - monotonic(), 0.001))
                    return connection, info
                poll.unregister(descriptor)
                connection.close()
                failures.append(OSError(code, os.strerror(code)))
                next_start = 0.0
    finally:
        for connection, _ in running.values():
            connection.close()
    raise _combined_error(failures)


def _connect(info: AddressInfo, opener: Opener, timeout: float) -> socket.socket:
    """Return a socket connected to an address; with a timeout of 0, its connection may still be under way."""
    connection = opener(*info[:3])
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(timeout)
        connection.connect(info[4])
    except BaseException as error:
        if timeout == 0 and isinstance(error, BlockingIOError):
            return connection
        connection.close()
        raise
    return connection


def _combined_error(failures: Sequence[OSError]) -> OSError:
    """Return the one error that stands for those of all addresses."""
    # What a host answered tells more than that one of its families can't be reached from here.
    numbers = sorted((failure.errno for failure in failures), key=_NO_ROUTE.__contains__)
    causes = ", ".join(dict.fromkeys(str(failure.strerror or failure) for failure in failures))
    return OSError(numbers[0], f"none of its {len(failures)} addresses can be connected to: {causes}")
