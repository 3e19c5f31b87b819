"""Read a Redis server's own counters of its work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import redis


@dataclass(frozen=True)
class RedisWork:
    """The work of a Redis server: calls, bytes and CPU seconds."""

    #: Calls, and microseconds spent in them, by command name. A command that a script calls counts twice: under its own
    #: name, and as part of the script's time.
    calls: dict[str, int]
    microseconds: dict[str, int]
    #: The number of reads from clients. Each read is a round trip.
    reads: int
    bytes_in: int
    bytes_out: int
    #: Growth of the append-only file. If Redis rewrote the file meanwhile, the growth is less than the bytes written.
    appended: int
    #: CPU seconds of the thread that serves all clients.
    main_thread: float

    @classmethod
    def read(cls, server: redis.Redis) -> Self:
        """Read a server's counters since its start."""
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
        """Return the work done since an earlier reading."""
        values: dict[str, Any] = {}
        for field in fields(self):
            now, then = getattr(self, field.name), getattr(earlier, field.name)
            values[field.name] = _difference(now, then) if isinstance(now, dict) else now - then
        return type(self)(**values)


def _difference(now: Mapping[str, int], then: Mapping[str, int]) -> dict[str, int]:
    added = {name: count - then.get(name, 0) for name, count in now.items()}
    return {name: count for name, count in added.items() if count}


def _info(server: redis.Redis, section: str) -> dict[str, Any]:
    return server.info(section)
