"""Park the tasks of busy hosts in Redis, and serve them when their hosts are free.

A parked task holds no slot and no place at a worker. Its message is in a list of its host, outside of the queue. One
atomic step moves the message from the worker's unacknowledged messages to the list, and one moves it back to the queue,
so the message is never lost on the way, and never in two places.

Parking is cheaper than sending the task again with a countdown: it needs no new message, and the task comes back when
its host is free, not when a guessed time is over.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import redis

from config import limits
from tasks.throttle import keys
from tasks.throttle.scripts import call_each, script

#: The number of hosts to serve in one call.
_HOSTS = 50
#: The number of hosts whose parked tasks are counted.
_COUNTED_HOSTS = 200
#: The number of messages to read or to move at a time.
_CHUNK_MESSAGES = 1000
#: The beginning of the delivery tags of messages that were parked.
_TAG_PREFIX = "parked-"


@dataclass(frozen=True, slots=True)
class ParkedTask:
    """A task to park: its delivery, its host and its shard."""

    delivery_tag: str
    host: str
    run_id: str
    shard: int


class Parking:
    """The parked tasks of a broker."""

    def __init__(self, server: redis.Redis) -> None:
        """Take a client with decoded responses."""
        self._server = server
        self._park, self._serve = (server.register_script(script(step)) for step in ("park", "serve"))

    def park(self, task: ParkedTask, unacked: tuple[str, str]) -> bool:
        """Move a task's message to its host's list; return whether it was still unacknowledged.

        Args:
            task: the task.
            unacked: the keys of this worker's unacknowledged messages: the hash, and the index by time.

        Raises:
            redis.RedisError: Redis is unreachable; the message is either parked or unacknowledged.
        """
        parked = keys.parked(task.host), keys.PARKED_HOSTS, keys.parked_shards(task.run_id), keys.host(task.host)
        tags = task.delivery_tag, f"{_TAG_PREFIX}{uuid.uuid4()}"
        arguments = *tags, task.host, task.run_id, task.shard, limits.RUN_RECORD_TTL, _TAG_PREFIX
        return bool(self._park(keys=[*unacked, *parked], args=[*arguments]))

    def serve(self) -> int:
        """Move parked tasks of free hosts back to their queues; return the number of tasks.

        A call serves at most 50 hosts, chosen at random. So each host gets its turn. All tasks of ended runs are moved,
        because they need no permits.
        """
        hosts = cast("list[str]", self._server.srandmember(keys.PARKED_HOSTS, _HOSTS))
        if not hosts:
            return 0
        calls = [
            (
                (keys.host(host), keys.leases(host), keys.HOST_LIMITS, keys.parked(host), keys.PARKED_HOSTS),
                (host, _CHUNK_MESSAGES, keys.parked_shards(""), keys.run("")),
            )
            for host in hosts
        ]
        return sum(call_each(self._server, self._serve, calls))

    def messages(self) -> Iterator[str]:
        """Yield the messages of all parked tasks.

        A message that is parked during the reading is added on the left, so no message is missed, and a message may
        come twice.
        """
        for host in cast("set[str]", self._server.smembers(keys.PARKED_HOSTS)):
            name, start = keys.parked(host), 0
            while entries := cast("list[str]", self._server.lrange(name, start, start + _CHUNK_MESSAGES - 1)):
                yield from _messages(entries)
                start += len(entries)

    def parked_at_hosts(self) -> dict[str, int]:
        """Return the number of parked tasks of each host, of all runs.

        If more than 200 hosts have parked tasks, the result has 200 of them, chosen at random.
        """
        hosts = cast("list[str]", self._server.srandmember(keys.PARKED_HOSTS, _COUNTED_HOSTS))
        with self._server.pipeline(transaction=False) as pipe:
            for host in hosts:
                pipe.llen(keys.parked(host))
            counts = zip(hosts, cast("list[int]", pipe.execute()), strict=True)
        return {host: count for host, count in counts if count}

    def parked_in_shards(self, run_id: str) -> dict[int, int]:
        """Return the number of parked tasks of each shard of a run; shards without parked tasks are absent."""
        counts = cast("dict[str, str]", self._server.hgetall(keys.parked_shards(run_id)))
        return {int(shard): int(count) for shard, count in counts.items()}


def _messages(entries: Iterable[str]) -> Iterator[str]:
    for entry in entries:
        yield entry.split(" ", 3)[3]
