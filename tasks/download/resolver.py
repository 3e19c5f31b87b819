"""Resolve host names with a timeout, and cache the answers for 30 seconds."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from functools import cache
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from tasks import file_descriptors
from tasks.download.recent_hosts import RecentMap
from tasks.errors import DnsUnavailableError

#: Seconds for which an answer is cached. The system's resolver does not report the time to live of an answer.
_TTL_SECONDS = 30.0
#: The maximum number of look-ups for one name: one for both families together, then one for each family.
_LOOKUPS = 3
#: The maximum number of cached names.
_MAX_NAMES = 10_000
#: Two limits for a look-up while file descriptors are short: the maximum number of tries, and the seconds between two
#: tries.
_MAX_TRIES, _PAUSE_SECONDS = 50, 0.1


class Resolver:
    """Resolve names for all threads of a process, with a cache."""

    def __init__(self) -> None:
        #: The addresses, by host and port.
        self._answers: RecentMap[tuple[str, int], list[Any]] = RecentMap(_TTL_SECONDS, _MAX_NAMES)

    def look_up(self, host: str, port: int, timeout: float) -> list[Any]:
        """Return the answer of `socket.getaddrinfo` for TCP connections to a host. The answer may come from the cache.

        Raises:
            DnsUnavailableError: there was no answer within ``timeout`` seconds.
            socket.gaierror, UnicodeError: raised by `socket.getaddrinfo`.
        """
        if _is_address(host):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        known = self._answers.get((host, port))
        if known is not None:
            return known
        answer = _resolve_with_timeout(host, port, timeout)
        self._answers.put((host, port), answer)
        return answer

    def forget(self, host: str, port: int) -> None:
        """Remove a cached answer, because no connection to its addresses was possible."""
        self._answers.drop((host, port))


def _resolve_with_timeout(host: str, port: int, timeout: float) -> list[Any]:
    """Return the answer of the system's resolver. The resolver has no timeout of its own, so it runs in threads.

    Some name servers ignore or refuse a query for one address family. With such a name server, some resolvers fail for
    both families. So after half of the timeout, or after a temporary failure, IPv4 and IPv6 are looked up separately.
    The addresses that are found first are returned. An abandoned look-up continues in its thread until the resolver
    gives up, after at most 30 seconds.
    """
    ends = monotonic() + timeout
    answers: SimpleQueue[list[Any] | Exception] = SimpleQueue()
    _start_look_up(host, port, socket.AF_UNSPEC, answers)
    answer = _next_answer(answers, timeout / 2)
    if isinstance(answer, list):
        return answer
    if answer is not None and not _is_temporary(answer):
        raise answer
    for family in (socket.AF_INET, socket.AF_INET6):
        _start_look_up(host, port, family, answers)
    failures = [] if answer is None else [answer]
    while len(failures) < _LOOKUPS:
        answer = _next_answer(answers, ends - monotonic())
        if isinstance(answer, list):
            return answer
        if answer is None:
            raise DnsUnavailableError(f"the host name {host} was not resolved within {timeout:g} s")
        failures.append(answer)
    raise next(filter(_is_temporary, failures), failures[0])


def _start_look_up(host: str, port: int, family: int, answers: SimpleQueue[list[Any] | Exception]) -> None:
    """Start a thread that asks the system's resolver and puts the addresses or the error into the queue."""

    def look_up() -> None:
        try:
            answers.put(_ask_system_resolver(host, port, family))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=look_up, name=f"look-up {host[:60]}", daemon=True).start()


def _next_answer(answers: SimpleQueue[list[Any] | Exception], seconds: float) -> list[Any] | Exception | None:
    """Return the next answer; None if no answer comes in time."""
    try:
        return answers.get(timeout=max(seconds, 0))
    except Empty:
        return None


def _is_temporary(error: Exception) -> bool:
    """Tell whether a later look-up may succeed."""
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN


@cache
def _lookup_semaphore() -> threading.BoundedSemaphore:
    """Return the semaphore that limits how many look-ups run at a time.

    Even an abandoned look-up keeps file descriptors open.
    """
    return threading.BoundedSemaphore(max(file_descriptors.limit() // 8, 8))


def _ask_system_resolver(host: str, port: int, family: int) -> list[Any]:
    """Return the system's answer. If hardly any descriptor is free, close idle connections and ask again.

    If the system's resolver can't open a file or a socket, it hides this problem. It reports that the name does not
    exist.
    """
    for _ in range(_MAX_TRIES):
        with _lookup_semaphore():
            try:
                return socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
            except OSError:
                if not file_descriptors.are_nearly_exhausted():
                    raise
        time.sleep(_PAUSE_SECONDS)
    raise socket.gaierror(socket.EAI_AGAIN, "no file descriptor was free")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
