"""A clock for registries that a test sets, for both kinds of registry."""

from __future__ import annotations

from dataclasses import dataclass

import redis

from tasks.throttle.memory_registry import MemoryRegistry
from tasks.throttle.redis_registry import RedisRegistry
from tasks.throttle.registry import Registry

_KEY = "test:clock"
#: Replaces ``clock.lua``.
LUA_CLOCK = f"local function read_clock() return tonumber(redis.call('GET', '{_KEY}')) end"


@dataclass
class Clock:
    """The time in seconds. Redis gets it when it changes."""

    server: redis.Redis | None = None
    now: float = 1_000_000.0

    def set(self, now: float) -> None:
        """Set the time."""
        self.now = now
        if self.server is not None:
            self.server.set(_KEY, f"{now:.6f}")

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.set(round(self.now + seconds, 6))

    def registry(self) -> Registry:
        """Return a registry with this clock: in the server, or in memory if there is no server."""
        if self.server is None:
            return MemoryRegistry(lambda: self.now)
        self.set(self.now)
        made = RedisRegistry(self.server, LUA_CLOCK)
        made.prepare()
        return made
