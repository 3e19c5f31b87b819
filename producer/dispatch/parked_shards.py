"""Find the shards whose remaining images all wait for busy hosts. Such shards give their places in the window back."""

from __future__ import annotations

import time
from collections.abc import Collection

import redis

from producer.dispatch import chord_state
from producer.dispatch.host_watch import HostWatch
from producer.dispatch.publisher import ChordPublisher
from producer.dispatch.recovery import ShardInFlight
from tasks.throttle.parking import Parking

#: Seconds between two looks at the parked images.
_LOOK_INTERVAL_SECONDS = 1.0


class ParkedShards:
    """The shards of a run that wait only for busy hosts."""

    def __init__(self, server: redis.Redis, run_id: str, publisher: ChordPublisher, most: int) -> None:
        """Take a client with `decode_responses`, the run and its publisher.

        ``most`` is the number of shards that may give their places back at the same time. It bounds the messages in
        Redis.
        """
        self._server, self._run_id, self._publisher, self._most = server, run_id, publisher, most
        self._parking = Parking(server)
        self._looked_at = 0.0
        self._shards: frozenset[int] = frozenset()
        #: The number of parked images of the run.
        self.images = 0
        #: The hosts that the images wait for.
        self.hosts = HostWatch(server)

    def places(self, in_flight: Collection[int]) -> int:
        """Return how many of the shards in flight give their places back."""
        return min(len(self._shards.intersection(in_flight)), self._most)

    def refresh(self, in_flight: Collection[ShardInFlight]) -> None:
        """Look at the parked images again, at most once a second.

        Raises:
            redis.RedisError: Redis is unreachable.
        """
        if time.monotonic() - self._looked_at < _LOOK_INTERVAL_SECONDS:
            return
        self._looked_at = time.monotonic()
        parked = self._parking.parked_in_shards(self._run_id)
        self.images = sum(parked.values())
        self.hosts.refresh(has_parked=self.images > 0)
        self._shards = frozenset(
            shard.shard
            for shard in in_flight
            if shard.shard in parked
            and parked[shard.shard]
            >= shard.images - chord_state.count_parts(self._server, self._publisher.group_id(shard.shard))
        )
