"""Resolve host names with a timeout. Answers are cached for 30 seconds, failures for a shorter time.

The names are resolved by the system (`socket.getaddrinfo`), so `/etc/hosts`, search domains, mDNS and the other sources
in `nsswitch.conf` work as in every program of the machine. The libraries dnspython and pycares would return the time to
live of an answer. But they ask only name servers and read `/etc/hosts`, so a name may resolve everywhere on the machine
except in a worker. pycares is also a compiled dependency.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from tasks.download.lookups import Answer, lookups
from tasks.download.recent_hosts import RecentMap
from tasks.errors import DnsUnavailableError

#: Seconds for which an answer is cached. The system's resolver does not report the time to live of an answer.
_TTL_SECONDS = 30.0
#: Seconds for which it is cached that a name does not exist or has no address. These failures are final, so the image
#: is not retried.
_MISSING_TTL_SECONDS = 10.0
#: Seconds for which a temporary failure is cached. The first retry of an image comes later, so it asks again.
_FAILURE_TTL_SECONDS = 0.2
#: The maximum number of look-ups for one name: one for both families together, then one for each family.
_LOOKUPS = 3
#: The maximum number of cached names.
_MAX_NAMES = 10_000
#: The part of the timeout for which a caller waits at least, even if the look-up was started long ago for another
#: caller.
_MIN_WAIT = 0.25
#: The error codes for a name that does not exist and for a name without an address. Some systems have no second code.
_MISSING = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class Resolver:
    """Resolve names for all threads of a process, with a cache."""

    def __init__(self) -> None:
        #: The addresses by host, with the port 0.
        self._answers: RecentMap[str, list[Any]] = RecentMap(_TTL_SECONDS, _MAX_NAMES)
        #: The names without an address, and the names that recently failed to resolve.
        self._missing: RecentMap[str, Exception] = RecentMap(_MISSING_TTL_SECONDS, _MAX_NAMES)
        self._failures: RecentMap[str, Exception] = RecentMap(_FAILURE_TTL_SECONDS, _MAX_NAMES)

    def look_up(self, host: str, port: int, timeout: float) -> list[Any]:
        """Return the answer of `socket.getaddrinfo` for TCP connections to a host. The answer may come from the cache.

        If another thread has asked for the same name, its look-up is shared. The timeout then starts with that look-up,
        but a quarter of the timeout is always left.

        Raises:
            DnsUnavailableError: there was no answer within ``timeout`` seconds.
            socket.gaierror, UnicodeError: raised by `socket.getaddrinfo`.
        """
        if _is_address(host):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        answer = self._known(host) or self._resolve(host, timeout)
        if isinstance(answer, Exception):
            # Raise a copy, because several threads must not write their tracebacks into one exception.
            raise type(answer)(*answer.args)
        return [(*info[:4], (info[4][0], port, *info[4][2:])) for info in answer]

    def look_up_ahead(self, host: str, on_answer: Callable[[], object]) -> bool:
        """Start to look up a name that a slot will soon need.

        Returns:
            Whether ``on_answer`` will be called, from another thread, when the look-up has ended. If the result is
            False, the name is known already.
        """
        if _is_address(host) or self._known(host) is not None:
            return False

        def cache_answer(answer: Answer) -> None:
            self._cache(host, answer)
            on_answer()

        lookups().ask_ahead(host, cache_answer)
        return True

    def forget(self, host: str) -> None:
        """Remove a cached answer, because no connection to its addresses was possible."""
        self._answers.drop(host)

    def _known(self, host: str) -> Answer | None:
        return self._answers.get(host) or self._missing.get(host) or self._failures.get(host)

    def _cache(self, host: str, answer: Answer) -> None:
        """Cache an answer for both families, unless it is a temporary failure."""
        if isinstance(answer, list):
            self._answers.put(host, answer)
        elif isinstance(answer, socket.gaierror) and answer.errno in _MISSING:
            self._missing.put(host, answer)

    def _cache_partial(self, host: str, answer: Answer) -> None:
        """Cache the addresses of one family, unless the addresses of both families are known."""
        if isinstance(answer, list) and self._answers.get(host) is None:
            self._answers.put(host, answer)

    def _resolve(self, host: str, timeout: float) -> Answer:
        """Return the answer of the system's resolver, or its error.

        Some name servers ignore or refuse a query for one address family. With such a name server, some resolvers fail
        for both families. So after half of the timeout, or after a temporary failure, IPv4 and IPv6 are looked up
        separately. The addresses that are found first are returned. An abandoned look-up continues in its thread, and
        its answer is cached.

        Raises:
            DnsUnavailableError: there was no answer in time.
        """
        answers: SimpleQueue[Answer] = SimpleQueue()
        started_at = self._ask(host, socket.AF_UNSPEC, self._cache, answers)
        ends = max(started_at + timeout, monotonic() + timeout * _MIN_WAIT)
        answer = _next_answer(answers, started_at + timeout / 2)
        if isinstance(answer, list) or (answer is not None and not _is_temporary(answer)):
            return answer
        for family in (socket.AF_INET, socket.AF_INET6):
            self._ask(host, family, self._cache_partial, answers)
        failures: list[Exception] = [] if answer is None else [answer]
        while len(failures) < _LOOKUPS:
            answer = _next_answer(answers, ends)
            if isinstance(answer, list):
                return answer
            if answer is None:
                raise DnsUnavailableError(f"the host name {host} was not resolved within {timeout:g} s")
            failures.append(answer)
        failure = next(filter(_is_temporary, failures), failures[0])
        self._failures.put(host, failure)
        return failure

    @staticmethod
    def _ask(
        host: str, family: int, cache_answer: Callable[[str, Answer], None], answers: SimpleQueue[Answer]
    ) -> float:
        """Start or join a look-up whose answer is cached and put into the queue; return when it started."""

        def listen(answer: Answer) -> None:
            cache_answer(host, answer)
            answers.put(answer)

        return lookups().ask(host, family, listen)


def _next_answer(answers: SimpleQueue[Answer], ends: float) -> Answer | None:
    """Return the next answer; None if no answer comes until ``ends`` by the monotonic clock."""
    try:
        return answers.get(timeout=max(ends - monotonic(), 0))
    except Empty:
        return None


def _is_temporary(error: Exception) -> bool:
    """Tell whether a later look-up may succeed."""
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
