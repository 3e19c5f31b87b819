"""Identify worker processes, and find out which of them are alive.

A worker counts as alive while its heartbeat key exists. But after an outage of Redis, all heartbeats have expired even
if all workers are alive. So a process must first be in contact with Redis, without a gap, for the lifetime of a
heartbeat (`ContinuousContact`). A process can treat a worker as dead only after this time. A dead process on the same
host is detected without waiting.
"""

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

#: The separator between the fields of a worker's id, which no host name contains.
_SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class WorkerId:
    """A worker process: its Celery name, its host, and random digits (because process ids are reused)."""

    node: str
    host: str
    #: The boot id and the process namespace, because different containers may have the same host name and process ids.
    namespace: str
    pid: int
    random: str

    @classmethod
    def current(cls, node: str) -> Self:
        """Return the id of this process."""
        return cls(node, socket.gethostname(), _namespace(), os.getpid(), secrets.token_hex(4))

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Parse the name of a worker; return None if it is not in our format."""
        parts = name.rsplit(_SEPARATOR, 4)
        if len(parts) != 5 or not parts[3].isdecimal():
            return None
        node, host, namespace, pid, random = parts
        return cls(node, host, namespace, int(pid), random)

    @property
    def name(self) -> str:
        """The id as one string, as it is used in Redis keys."""
        return _SEPARATOR.join((self.node, self.host, self.namespace, str(self.pid), self.random))

    def has_seen_exit(self, other: WorkerId) -> bool:
        """Return whether the other worker's process ran on the same host and no longer exists."""
        if other == self or (other.host, other.namespace) != (self.host, self.namespace):
            return False
        return other.pid == self.pid or not _is_running(other.pid)


def _namespace() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")[:8]
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        # Only Linux has the files with the boot id and the namespace.
        return ""


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # The process exists, but belongs to another user.
        return True
    return True


@dataclass(slots=True)
class ContinuousContact:
    """How long a process has been in contact with Redis without a gap."""

    _since: float | None = None
    _last: float = 0.0

    def record_reply(self) -> None:
        """Record a reply from Redis."""
        now = time.monotonic()
        # After a gap, for instance because this process was paused, heartbeats may have expired unnoticed.
        if self._since is None or now - self._last > limits.HEARTBEAT_TIMEOUT / 2:
            self._since = now
        self._last = now

    def record_failure(self) -> None:
        """Record that Redis did not reply."""
        self._since = None

    @property
    def is_long_enough(self) -> bool:
        """Whether contact has lasted so long that a worker without a heartbeat must be dead."""
        return self._since is not None and self._last - self._since >= limits.HEARTBEAT_TIMEOUT


def worker_liveness(server: redis.Redis) -> dict[str, bool]:
    """Return whether each worker has a heartbeat, by worker id. Workers that have stopped are not included.

    Args:
        server: a client with decoded responses.

    Raises:
        redis.RedisError: Redis is unreachable.
    """
    names = sorted(cast("set[str]", server.smembers(keys.WORKERS)))
    with server.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.exists(keys.heartbeat(name))
        return dict(zip(names, map(bool, pipe.execute()), strict=True))
