"""The doctor's checks of the Redis server: version, persistence, eviction, memory, connections and writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import redis

from producer.doctor.finding import Finding, Level
from producer.formatting import format_size
from tasks.broker import client as broker_client
from tasks.broker import keys
from tasks.broker.redis_errors import redis_problem

#: The oldest Redis version that has all commands of the transport.
_MIN_VERSION = (6, 2)
#: The share of `maxmemory` above which the memory check warns.
_FULL_MEMORY_RATIO = 0.8
#: An id that no run has.
_NO_RUN = "none"
_CONF_HINT = "config/redis.conf has the recommended settings."


def server_findings(info: Mapping[str, Any]) -> list[Finding]:
    """Check version, persistence, eviction and memory in a server's INFO reply. Missing values count as unknown."""
    return [_version_finding(info), _append_only_finding(info), _policy_finding(info), _memory_finding(info)]


def connections_finding(info: Mapping[str, Any], workers: int) -> Finding:
    """Check whether the server has enough free connections for a producer and this number of workers."""
    name, free = "connections", broker_client.free_connections(info)
    if free is None:
        return _unknown_finding(name, "Check `maxclients` on the server.")
    needed = broker_client.PRODUCER_CONNECTIONS + workers * broker_client.MORE_CONNECTIONS
    found = f"{info['connected_clients']} of {info['maxclients']} in use"
    if free < needed:
        return Finding(name, Level.BAD, f"{found}; a run needs about {needed} more", broker_client.MORE_CLIENTS_HINT)
    return Finding(name, Level.OK, found)


def check_writes(server: redis.Redis) -> Finding:
    """Check whether the server accepts writes.

    The SET changes nothing. Its option XX limits it to existing keys, and the given key does not exist.
    """
    try:
        server.set(keys.run(_NO_RUN), "", xx=True)
    except redis.RedisError as error:
        problem = redis_problem(error)
        retried = "; a run would retry for two minutes" if problem.temporary else ""
        return Finding("writes", Level.BAD, f"Redis answers: {problem.text.rstrip('.')}{retried}", problem.hint)
    return Finding("writes", Level.OK, "Redis accepts writes")


def query_or_none(command: Callable[[], Any]) -> Any:
    """Return the reply to a Redis command; None if the broker's user is not allowed to run the command."""
    try:
        return command()
    except redis.exceptions.NoPermissionError:
        return None


def _version_finding(info: Mapping[str, Any]) -> Finding:
    version = str(info.get("redis_version", ""))
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None:
        return _unknown_finding("server version", f"Make sure that it is Redis {_dotted(_MIN_VERSION)} or newer.")
    shown = f"Redis {version}"
    if "valkey_version" in info:
        shown = f"Valkey {info['valkey_version']} (as Redis {version})"
    if (int(number[1]), int(number[2])) < _MIN_VERSION:
        return Finding(
            "server version", Level.BAD, shown, f"Install Redis {_dotted(_MIN_VERSION)} or newer, or Valkey."
        )
    if info.get("redis_mode") == "cluster":
        todo = "Use a Redis without cluster mode; Celery does not support clusters."
        return Finding("server version", Level.BAD, f"{shown}, in cluster mode", todo)
    return Finding("server version", Level.OK, shown)


def _append_only_finding(info: Mapping[str, Any]) -> Finding:
    name = "append-only file"
    if "aof_enabled" not in info:
        return _unknown_finding(name, f"Set `appendonly yes`; {_CONF_HINT}")
    if not int(info["aof_enabled"]):
        found = "off: queued tasks are lost when the server restarts"
        return Finding(name, Level.WARN, found, f"Set `appendonly yes`; {_CONF_HINT}")
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding(
            name, Level.BAD, "on, but the last write to the file failed", "Check the server's disk and its log."
        )
    return Finding(name, Level.OK, "on")


def _policy_finding(info: Mapping[str, Any]) -> Finding:
    name = "eviction policy"
    if "maxmemory_policy" not in info:
        return _unknown_finding(name, f"Set `maxmemory-policy noeviction`; {_CONF_HINT}")
    policy = str(info["maxmemory_policy"])
    if policy != "noeviction":
        found = f"{policy}: queued tasks may be evicted when memory runs out"
        return Finding(name, Level.BAD, found, f"Set `maxmemory-policy noeviction`; {_CONF_HINT}")
    return Finding(name, Level.OK, policy)


def _memory_finding(info: Mapping[str, Any]) -> Finding:
    if "used_memory" not in info:
        return _unknown_finding("memory", "Check the memory of the server.")
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
    if not limit:
        return Finding("memory", Level.OK, f"{format_size(used)} used, no limit set")
    found = f"{format_size(used)} of {format_size(limit)} used ({used / limit:.0%})"
    if used > _FULL_MEMORY_RATIO * limit:
        return Finding(
            "memory", Level.WARN, found, "Raise `maxmemory`, or use a smaller --window. A full server refuses writes."
        )
    return Finding("memory", Level.OK, found)


def _unknown_finding(name: str, todo: str) -> Finding:
    return Finding(name, Level.WARN, "unknown: the server does not report it in INFO", todo)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
