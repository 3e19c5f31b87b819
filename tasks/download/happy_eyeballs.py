"""Connect to a host's first address that answers (Happy Eyeballs version 2, RFC 8305).

The addresses are tried in the resolver's order, alternating between IPv6 and IPv4. Each attempt gets a head start of
250 ms before the next attempt starts in parallel. If an attempt fails, the next attempt starts at once. The first
connection is used, and the other connections are closed. So a dead address costs 250 ms instead of the whole timeout.
The libraries asyncio and aiohappyeyeballs do the same for coroutines. Here one thread polls non-blocking sockets,
because a download already has its own thread. A host with a single address gets a plain connection attempt.
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

#: One item of the answer of `socket.getaddrinfo`: family, kind, protocol, canonical name and socket address.
AddressInfo = tuple[Any, ...]
Opener = Callable[[int, int, int], socket.socket]

#: The "Connection Attempt Delay" recommended by RFC 8305.
_HEAD_START_SECONDS = 0.25
#: After an address answers, it is tried first for this number of seconds. After this time, the usual order applies
#: again, because a dead address may have recovered (RFC 6555, section 4.2).
_MEMORY_SECONDS = 600.0
#: The maximum number of remembered hosts.
_MEMORY_HOSTS = 10_000
#: The system's errors if this process or this machine has no file descriptor for another socket.
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
#: The system's errors if this machine can't send to the address. These errors say nothing about the host.
_NO_ROUTE = frozenset({errno.EAFNOSUPPORT, errno.ENETUNREACH})


class Connector:
    """Connect to hosts for all threads of a process.

    If a host has a dead address, remember the address that answered.
    """

    def __init__(self) -> None:
        #: The socket address that answered, by host and port.
        self._answered: RecentMap[tuple[str, int], Any] = RecentMap(_MEMORY_SECONDS, _MEMORY_HOSTS)

    def connect(self, host: str, port: int, found: Sequence[AddressInfo], ends: float, opener: Opener) -> socket.socket:
        """Return a socket connected to one of a host's addresses.

        Args:
            host: the resolved name. The remembered addresses are stored by name and port.
            port: the port to connect to.
            found: the addresses, in the resolver's order. All of these addresses must be permitted.
            ends: when to give up, by the monotonic clock.
            opener: creates a socket from family, kind and protocol.

        Raises:
            TimeoutError: no address answered in time.
            OSError: no connection to any address is possible, or there is no file descriptor for a socket (EMFILE,
                ENFILE).
        """
        if len(found) == 1:
            remaining = ends - monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out")
            return _connect(found[0], opener, remaining)
        addresses = interleave(found)
        usual = addresses[0]
        remembered = self._answered.get((host, port))
        # The remembered address is tried only if it is in the resolver's current answer, which the guard has checked.
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
    """Return the distinct addresses, alternating between the families (RFC 8305, section 4).

    Within a family, the order stays the same.
    """
    families: dict[int, dict[Any, AddressInfo]] = {}
    for info in found:
        families.setdefault(info[0], {}).setdefault(info[4], info)
    turns = zip_longest(*(family.values() for family in families.values()))
    return [info for info in chain.from_iterable(turns) if info is not None]


def _race(addresses: Sequence[AddressInfo], ends: float, opener: Opener) -> tuple[socket.socket, AddressInfo]:
    """Return the first connected socket and its address, and close the other sockets.

    Raises:
        TimeoutError: no address answered in time.
        OSError: all attempts failed.
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
                        # This machine may not support the address family, or may have no route to the address.
                        failures.append(error)
                    elif running:
                        # Continue, because a running attempt may still succeed. A failed attempt frees its descriptor
                        # for the next attempt.
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
    """Return a socket connected to an address; if the timeout is 0, the socket may still be connecting."""
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
    """Combine the errors of all addresses into one error."""
    # An error from the host is more useful than the error for an address family that this machine can't use.
    numbers = sorted((failure.errno for failure in failures), key=_NO_ROUTE.__contains__)
    causes = ", ".join(dict.fromkeys(str(failure.strerror or failure) for failure in failures))
    return OSError(numbers[0], f"can't connect to any of its {len(failures)} addresses: {causes}")
