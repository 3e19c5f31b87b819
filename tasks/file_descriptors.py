"""Limit the file descriptors of a process, and close idle connections before the descriptors run out.

A slot keeps connections open for the next image of a host, and each connection uses a descriptor. Only the number of
these connections grows with the number of hosts. So one list holds the idle connections of all slots. The least
recently used connection is closed when the number of a new descriptor comes near the limit, or when no descriptor is
left.

The system gives a new descriptor the lowest free number. So this number shows, at no cost, how many descriptors the
whole process uses.
"""

from __future__ import annotations

import errno
import os
import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from tasks.errors import UsageError

_P = ParamSpec("_P")
_T = TypeVar("_T")
#: The system's errors if no descriptor is left: for this process, and for the whole machine.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
#: Upper bound for a raised limit. It is needed because some programs close every descriptor number up to the limit
#: before they start another program.
_MAX_LIMIT = 65_536
#: The real maximum on macOS, even if macOS reports the hard limit as unlimited.
_MACOS_LIMIT = 10_240
#: Descriptors that a worker or a producer needs in addition to one for each download. An idle worker has about 30 open
#: descriptors, mostly for Redis. The remaining descriptors are for logs, name lookups, and collecting a shard.
RESERVED = 64
#: Maximum number of descriptors that idle connections must leave free for everything else.
_MAX_FREE = 256
#: Seconds for which a call waits until another thread or process frees a descriptor.
_RETRY_SECONDS = 60.0
_RETRY_INTERVAL_SECONDS = 0.05
#: Number of idle connections to close at once when no descriptor is left.
_CLOSE_BATCH = 8


def limit() -> int:
    """Return the maximum number of open descriptors of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_LIMIT if soft == resource.RLIM_INFINITY else soft


def raise_limit() -> int:
    """Raise the soft limit to the hard limit; return the new limit. Call this at a process's start, never at import."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _MAX_LIMIT)
    for number in (wanted, _MACOS_LIMIT):
        if soft == resource.RLIM_INFINITY or soft >= min(number, wanted):
            break
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, wanted), hard))
            break
    IDLE_CONNECTIONS.set_limit(limit())
    return limit()


def max_slots(descriptors: int) -> int:
    """Return the maximum number of concurrent downloads for this number of descriptors.

    Each download needs one descriptor.
    """
    return max(descriptors - RESERVED, 0)


def check_slots(slots: int, option: str) -> None:
    """Check that a process on this machine has enough descriptors for this many concurrent downloads.

    Args:
        slots: the number of downloads.
        option: the command-line option for this number.

    Raises:
        UsageError: the process would run out of descriptors.
    """
    allowed = limit()
    most = max_slots(allowed)
    if slots > most:
        other = f"Use {option} {most} or less, or raise" if most else "Raise"
        raise UsageError(
            f"{slots} downloads at a time can't run in one process here",
            f"each download needs a file descriptor; a process may open {allowed}, but needs {RESERVED} for other uses",
            f"{other} the limit: {limit_hint(slots)}.",
        )


def limit_hint(slots: int) -> str:
    """Return instructions to raise the limit far enough for this many slots."""
    wanted = slots + RESERVED
    return f"`ulimit -n {wanted}`, LimitNOFILE={wanted} in a systemd unit, or `ulimits` in Compose"


def is_exhausted(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, is a lack of descriptors."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


class IdleConnections:
    """The idle connections of all threads. A thread that takes out a socket becomes the owner of the socket.

    No lock is needed, because each step is a single, uninterruptible operation of a dictionary.
    """

    def __init__(self, descriptors: int) -> None:
        """Set the limit of descriptors. There are no connections yet."""
        #: The least recently used connection comes first.
        self._sockets: OrderedDict[Any, None] = OrderedDict()
        self.set_limit(descriptors)

    def __len__(self) -> int:
        return len(self._sockets)

    def set_limit(self, descriptors: int) -> None:
        """Set the limit of descriptors. Idle connections leave a quarter of the limit free, or 256 if that is less."""
        self._max_in_use = descriptors - min(descriptors // 4, _MAX_FREE)

    def add(self, socket: Any) -> None:
        """Add a connection's socket after its use.

        The socket stays until a thread takes it or `close_oldest` closes it.
        """
        self._sockets[socket] = None
        if len(self._sockets) > self._max_in_use:
            self.close_oldest(1)

    def take(self, socket: Any) -> bool:
        """Take a socket out; return False if the socket is gone, because it was closed to make room."""
        return self._sockets.pop(socket, self) is None

    def make_room(self, descriptor: int) -> None:
        """Close idle connections if the number of a new descriptor shows that too many are in use."""
        if descriptor >= self._max_in_use:
            self.close_oldest(descriptor - self._max_in_use + 1)

    def close_oldest(self, number: int) -> int:
        """Close up to this many connections, the least recently used first; return how many were closed."""
        for closed in range(number):
            try:
                socket, _ = self._sockets.popitem(last=False)
            except KeyError:
                return closed
            with suppress(OSError):
                socket.close()
        return number


#: The idle connections of this process.
IDLE_CONNECTIONS = IdleConnections(limit())


def retry_when_exhausted(step: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make an idempotent function retry for up to a minute while no descriptor is left.

    Each retry first closes idle connections. If there are no idle connections, the retry waits until other threads or
    processes free descriptors.
    """

    @wraps(step)
    def repeated(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return step(*args, **kwargs)
        except Exception as error:
            if not is_exhausted(error):
                raise
        return wait_for_descriptors(partial(step, *args, **kwargs), _RETRY_SECONDS)

    return repeated


def wait_for_descriptors(step: Callable[[], _T], seconds: float) -> _T:
    """Call a function until it gets the descriptors it needs, and return its result.

    Args:
        step: the function. The call is retried as long as there are idle connections to close.
        seconds: how long to wait for other threads or processes to free descriptors, if there are no idle connections
            to close.

    Raises:
        Exception: any exception of the function. A lack of descriptors is raised only after the wait.
    """
    ends = time.monotonic() + seconds
    while True:
        try:
            return step()
        except Exception as error:
            if not is_exhausted(error):
                raise
            if not IDLE_CONNECTIONS.close_oldest(_CLOSE_BATCH):
                if time.monotonic() >= ends:
                    raise
                time.sleep(_RETRY_INTERVAL_SECONDS)


def are_nearly_exhausted() -> bool:
    """Return whether hardly any descriptor is free. If so, close idle connections.

    Call this after an error without a known cause, such as a failed name lookup.
    """
    try:
        probe = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        IDLE_CONNECTIONS.close_oldest(_CLOSE_BATCH)
        return is_exhausted(error)
    os.close(probe)
    IDLE_CONNECTIONS.make_room(probe)
    return probe >= limit() - min(limit() // 8, RESERVED // 2)
