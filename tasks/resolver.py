"""What a host name means: the system's resolver with a time limit, and what it said in the last half minute."""

from __future__ import annotations

import ipaddress
import socket
import threading
from time import monotonic
from typing import Any

from tasks.errors import DnsUnavailable

#: Seconds for which an answer is used again; the system's resolver does not tell how long it holds.
_LIFETIME = 30.0
#: The most names that are remembered.
_NAMES = 10_000


class Resolver:
    """Looks names up for all threads of a process; each name once in a while."""

    def __init__(self) -> None:
        #: When an answer was given, by the monotonic clock, and the answer; the oldest first.
        self._known: dict[tuple[str, int], tuple[float, list[Any]]] = {}
        self._lock = threading.Lock()

    def look_up(self, host: str, port: int, timeout: float) -> list[Any]:
        """Return what `socket.getaddrinfo` answers for a stream to a host, or has answered a moment ago.

        Raises:
            DnsUnavailable: there was no answer within ``timeout`` seconds.
            socket.gaierror, UnicodeError: what it raised.
        """
        if _is_address(host):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        known = self._known.get((host, port))
        if known is not None and monotonic() - known[0] < _LIFETIME:
            return known[1]
        answer = _asked(host, port, timeout)
        with self._lock:
            self._known.pop((host, port), None)
            self._known[host, port] = monotonic(), answer
            if len(self._known) > _NAMES:
                del self._known[next(iter(self._known))]
        return answer

    def forget(self, host: str, port: int) -> None:
        """Ask again at the next look-up: what was answered leads nowhere."""
        with self._lock:
            self._known.pop((host, port), None)


def _asked(host: str, port: int, timeout: float) -> list[Any]:
    """Return what the system's resolver answers, which has no timeout of its own: a thread waits for it.

    A look-up that is given up goes on in its thread until the resolver gives up too, half a minute at the most.
    """
    found: list[Any] = []
    failures: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failures.append(error)

    thread = threading.Thread(target=look_up, name=f"look-up {host[:60]}", daemon=True)
    thread.start()
    thread.join(timeout)
    if failures:
        raise failures[0]
    if not found:
        raise DnsUnavailable(f"the host name {host} was not resolved within {timeout:g} s")
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
