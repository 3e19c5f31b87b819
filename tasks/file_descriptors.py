"""The file descriptors of a process: their limit, and the idle connections that are closed before they run out.

A slot keeps connections open for the next image of a host, and each holds a descriptor. Nothing else in a worker grows
with the number of hosts. So the idle connections of all slots stand in one list, and the one that was used least
recently is closed first: when a new descriptor comes near the limit, and when one can't be had at all.

The system gives out the lowest number that is free. The number of a new descriptor therefore says how many are in use,
by everything in this process, and costs nothing to look at.
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
#: What the system answers where no descriptor is left: for this process, and for the whole machine.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
#: The most that the limit is raised to: some programs close every number up to it before they start another program.
_MAX_LIMIT = 65_536
#: What macOS allows where its hard limit is called unlimited.
_MACOS_LIMIT = 10_240
#: Descriptors that a worker or a producer needs besides those of its downloads: a quiet worker has about 30 open, most
#: of them for Redis; the rest is for logs, look-ups, and a shard that is collected.
RESERVED = 64
#: The most that idle connections leave free for everything else.
_MAX_FREE = 256
#: Seconds for which a step waits for a descriptor that somebody else gives back.
_RETRY_SECONDS = 60.0
_RETRY_INTERVAL_SECONDS = 0.05
#: Idle connections that are closed at a time, when a descriptor could not be had.
_CLOSE_BATCH = 8


def limit() -> int:
    """Return how many descriptors this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_LIMIT if soft == resource.RLIM_INFINITY else soft


def raise_limit() -> int:
    """Raise the soft limit to the hard one, and return it; call it where a process starts, never at import."""
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
    """Return how many downloads at a time a process has room for under a limit; each needs a descriptor."""
    return max(descriptors - RESERVED, 0)


def check_slots(slots: int, option: str) -> None:
    """Make sure that a process of this machine has room for so many downloads at a time.

    Args:
        slots: how many.
        option: the option that says so.

    Raises:
        UsageError: it has not.
    """
    allowed = limit()
    most = max_slots(allowed)
    if slots > most:
        other = f"Use {option} {most} or less, or raise" if most else "Raise"
        raise UsageError(
            f"{slots} downloads at a time can't run in one process here",
            f"each needs a file descriptor, a process may open {allowed}, and {RESERVED} of those are needed besides",
            f"{other} the limit: {limit_hint(slots)}.",
        )


def limit_hint(slots: int) -> str:
    """Return how a person raises the limit so far that a process can have so many slots."""
    wanted = slots + RESERVED
    return f"`ulimit -n {wanted}`, LimitNOFILE={wanted} in a systemd unit, or `ulimits` in Compose"


def is_exhausted(error: BaseException | None) -> bool:
    """Tell whether an error, or what it was raised from, means that no descriptor is left."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


class IdleConnections:
    """The idle connections of all threads: each socket belongs to whoever takes it out.

    Every step is one operation of a dictionary, which no other thread can interrupt; so there is no lock.
    """

    def __init__(self, descriptors: int) -> None:
        """Follow a limit of so many descriptors."""
        #: The least recently used first.
        self._sockets: OrderedDict[Any, None] = OrderedDict()
        self.set_limit(descriptors)

    def __len__(self) -> int:
        return len(self._sockets)

    def set_limit(self, descriptors: int) -> None:
        """Leave a quarter of so many descriptors free, and 256 at most."""
        self._max_in_use = descriptors - min(descriptors // 4, _MAX_FREE)

    def add(self, socket: Any) -> None:
        """Keep the socket of a connection that was just used, until it is taken or closed to make room."""
        self._sockets[socket] = None
        if len(self._sockets) > self._max_in_use:
            self.close_oldest(1)

    def take(self, socket: Any) -> bool:
        """Take a socket out; return False if it is not there, because it was closed to make room."""
        return self._sockets.pop(socket, self) is None

    def make_room(self, descriptor: int) -> None:
        """Close idle connections, if the number of a new descriptor says that too many are in use."""
        if descriptor >= self._max_in_use:
            self.close_oldest(descriptor - self._max_in_use + 1)

    def close_oldest(self, number: int) -> int:
        """Close so many connections, those first that were used least recently; return how many there were."""
        for closed in range(number):
            try:
                socket, _ = self._sockets.popitem(last=False)
            except KeyError:
                return closed
            with suppress(OSError):
                socket.close()
        return number


#: Those of this process.
IDLE_CONNECTIONS = IdleConnections(limit())


def retry_when_exhausted(step: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return a step that is repeated while no descriptor can be had, for a minute at most; it must be safe to repeat.

    Idle connections are closed for it first. Then it waits for what others give back.
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
    """Return what a step returns once it gets the descriptors that it needs.

    Args:
        step: it is repeated, for as long as there are idle connections to close.
        seconds: how long to wait for what others give back, after that.

    Raises:
        Exception: what the step raises: at once where that is something else, and in the end.
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
    """Tell whether hardly any descriptor is free, and close idle connections if so.

    For what does not say why it failed, as a look-up of a name.
    """
    try:
        probe = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        IDLE_CONNECTIONS.close_oldest(_CLOSE_BATCH)
        return is_exhausted(error)
    os.close(probe)
    IDLE_CONNECTIONS.make_room(probe)
    return probe >= limit() - min(limit() // 8, RESERVED // 2)
