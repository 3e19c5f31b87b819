"""Which worker processes there are, and which of them are alive."""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import redis

from config import limits
from tasks.broker import keys

#: Separates the parts of a worker's id; in no host name.
_SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class WorkerId:
    """A worker process: its Celery name, where it is, and what tells it from another with the same process id."""

    node: str
    host: str
    #: The boot and the process namespace: containers may share a host's name, and number their processes alike.
    namespace: str
    pid: int
    random: str

    @classmethod
    def current(cls, node: str) -> Self:
        """Return this process."""
        return cls(node, socket.gethostname(), _namespace(), os.getpid(), secrets.token_hex(4))

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return the worker with an id; None where it is none of ours."""
        parts = name.rsplit(_SEPARATOR, 4)
        if len(parts) != 5 or not parts[3].isdecimal():
            return None
        node, host, place, pid, random = parts
        return cls(node, host, place, int(pid), random)

    @property
    def name(self) -> str:
        """Its id."""
        return _SEPARATOR.join((self.node, self.host, self.namespace, str(self.pid), self.random))

    def has_seen_exit(self, other: WorkerId) -> bool:
        """Whether the other worker was a process of this one's host, and is no more."""
        if other == self or (other.host, other.namespace) != (self.host, self.namespace):
            return False
        return other.pid == self.pid or not _is_running(other.pid)


def _namespace() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")[:8]
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        # Only Linux has namespaces.
        return ""


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another user's.
        return True
    return True


@dataclass(slots=True)
class ContinuousContact:
    """For how long a process has heard Redis without a gap."""

    _since: float | None = None
    _last: float = 0.0

    def record_reply(self) -> None:
        """Note an answer."""
        now = time.monotonic()
        # Who was stopped for a while has missed what happened meanwhile.
        if self._since is None or now - self._last > limits.HEARTBEAT_TIMEOUT / 2:
            self._since = now
        self._last = now

    def record_failure(self) -> None:
        """Note that there was none."""
        self._since = None

    @property
    def is_long_enough(self) -> bool:
        """Whether a sign of life that is not there means anything."""
        return self._since is not None and self._last - self._since >= limits.HEARTBEAT_TIMEOUT


def worker_liveness(server: redis.Redis) -> dict[str, bool]:
    """Return by its id, for each worker that has not stopped, whether its sign of life stands.

    Args:
        server: a client that decodes what it reads.

    Raises:
        redis.RedisError: Redis is away.
    """
    names = sorted(cast("set[str]", server.smembers(keys.WORKERS)))
    with server.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.exists(keys.heartbeat(name))
        return dict(zip(names, map(bool, pipe.execute()), strict=True))
