"""Share the rules of robots.txt files among all processes of a fleet.

The rules in Redis are only a cache. If Redis does not answer, each process fetches the files itself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from math import ceil
from time import monotonic
from typing import cast

import redis

from tasks.broker import keys
from tasks.broker.redis_errors import redis_problem

_log = logging.getLogger(__name__)
#: Seconds after which another process may fetch a file, because the process that began to fetch it may be dead.
_CLAIM_SECONDS = 30
#: The maximum number of characters that one process saves within this number of seconds. Hosts could otherwise fill
#: Redis, and a full Redis stops all runs. The limit is enough for about ten thousand usual files.
_MAX_CHARACTERS, _PERIOD_SECONDS = 32 * 1024 * 1024, 3600.0


class RedisRobotsStore:
    """The rules in Redis; implements `tasks.download.robots.RobotsStore`."""

    def __init__(self, server: redis.Redis, protocol: int) -> None:
        """Take a client with decoded responses, and the number of the workers' message format."""
        self._server, self._protocol = server, protocol
        #: The times and lengths of the saved rules, oldest first.
        self._saved: deque[tuple[float, int]] = deque()
        self._total = 0
        self._lock = threading.Lock()

    def load(self, key: str) -> str | None:
        """Return a host's rules; None if they are unknown."""
        try:
            return cast("str | None", self._server.get(keys.robots(self._protocol, key)))
        except redis.RedisError as error:
            _warn(error)
            return None

    def save(self, key: str, rules: str, seconds: float) -> None:
        """Save a host's rules for some time, unless this process has saved too much lately."""
        if not self._has_room(len(rules)):
            return
        try:
            self._server.set(keys.robots(self._protocol, key), rules, ex=ceil(seconds))
        except redis.RedisError as error:
            _warn(error)

    def claim(self, key: str) -> bool:
        """Return whether this process should fetch the file, because no other process is fetching it."""
        try:
            return bool(self._server.set(keys.robots_claim(self._protocol, key), "1", nx=True, ex=_CLAIM_SECONDS))
        except redis.RedisError as error:
            _warn(error)
            return True

    def release(self, key: str) -> None:
        """End a claim. If the claim has expired meanwhile, this ends another process's claim, which is harmless."""
        try:
            self._server.delete(keys.robots_claim(self._protocol, key))
        except redis.RedisError as error:
            _warn(error)

    def _has_room(self, length: int) -> bool:
        """Tell whether rules of this length may be saved, and count them."""
        with self._lock:
            now = monotonic()
            while self._saved and self._saved[0][0] < now - _PERIOD_SECONDS:
                self._total -= self._saved.popleft()[1]
            if self._total + length > _MAX_CHARACTERS:
                return False
            self._saved.append((now, length))
            self._total += length
            return True


def _warn(error: redis.RedisError) -> None:
    _log.warning("the rules of a robots.txt could not be shared: %s", redis_problem(error).text)
