"""What a Redis server has done, by its own count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import redis


@dataclass(frozen=True)
class RedisWork:
    """Calls, bytes and CPU seconds."""

    #: By the command's name: how many calls, and the microseconds in them. What a script calls is there twice: under
    #: its own name, and in the script's time.
    calls: dict[str, int]
    microseconds: dict[str, int]
    #: How often it read from a client: a round trip each.
    reads: int
    bytes_in: int
    bytes_out: int
    #: How much longer its append-only file is; less than was written if it was written anew meanwhile.
    appended: int
    #: CPU of the thread that serves all clients.
    main_thread: float

    @classmethod
    def so_far(cls, server: redis.Redis) -> Self:
        """Ask a server what it has done since it began."""
        commands = {name.removeprefix("cmdstat_"): found for name, found in _info(server, "commandstats").items()}
        stats, cpu = _info(server, "stats"), _info(server, "cpu")
        return cls(
            calls={name: int(found["calls"]) for name, found in commands.items()},
            microseconds={name: int(found["usec"]) for name, found in commands.items()},
            reads=stats["total_reads_processed"],
            bytes_in=stats["total_net_input_bytes"],
            bytes_out=stats["total_net_output_bytes"],
            appended=_info(server, "persistence")["aof_current_size"],
            main_thread=cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"],
        )

    def since(self, earlier: Self) -> Self:
        """Return what was done after an earlier moment."""
        values: dict[str, Any] = {}
        for field in fields(self):
            now, then = getattr(self, field.name), getattr(earlier, field.name)
            values[field.name] = _more(now, then) if isinstance(now, dict) else now - then
        return type(self)(**values)


def _more(now: Mapping[str, int], then: Mapping[str, int]) -> dict[str, int]:
    more = {name: count - then.get(name, 0) for name, count in now.items()}
    return {name: count for name, count in more.items() if count}


def _info(server: redis.Redis, section: str) -> dict[str, Any]:
    return server.info(section)
