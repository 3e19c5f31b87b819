"""Parked tasks: the way of their messages, their counts, and the tasks of ended runs."""

from __future__ import annotations

import json

import pytest
import redis

from tasks.broker import keys as broker_keys
from tasks.throttle import keys
from tasks.throttle.parking import ParkedTask, Parking
from tasks.throttle.redis_registry import RedisRegistry
from tasks.throttle_options import HostLimit
from tests.waiting import wait_for

_HOST, _QUEUE, _UNACKED = "a.example", "imagefleet.images.0", ("unacked:one", "unacked_index:one")


@pytest.fixture
def registry(server: redis.Redis) -> RedisRegistry:
    """Give a registry that knows the limit of the host: one request."""
    registry = RedisRegistry(server)
    registry.prepare()
    registry.acquire(_HOST, HostLimit(1), "one", 1, True)
    return registry


def park(server: redis.Redis, run_id: str, index: int) -> bool:
    """Deliver a task to a worker, and park it."""
    tag = f"tag-{run_id}-{index}"
    message = {"headers": {"id": f"{run_id}.{index}"}, "args": [], "properties": {"delivery_tag": tag}}
    server.hset(_UNACKED[0], tag, json.dumps([message, "", _QUEUE]))
    server.zadd(_UNACKED[1], {tag: 1})
    return Parking(server).park(ParkedTask(tag, _HOST, run_id, index // 10), _UNACKED)


def queued(server: redis.Redis) -> list[str]:
    """Return the ids of the queued tasks; the next one is the first."""
    return [json.loads(message)["headers"]["id"] for message in reversed(server.lrange(_QUEUE, 0, -1))]


def test_run_keys_agree() -> None:
    """The throttle and the broker use the same names."""
    assert keys.run("a") == broker_keys.run("a")


def test_parked_task_returns_when_its_host_is_free(server: redis.Redis, registry: RedisRegistry) -> None:
    """A parked message is in no other place. It returns with a new delivery tag, one task for each free permit."""
    server.set(keys.run("run"), "{}")
    parking = Parking(server)
    assert all(park(server, "run", index) for index in range(3))
    assert not server.exists(*_UNACKED)
    assert parking.parked_in_shards("run") == {0: 3}
    assert parking.serve() == 0
    registry.renew("one", {_HOST: 0})
    assert (parking.serve(), parking.serve()) == (1, 0)
    assert (queued(server), parking.parked_in_shards("run")) == (["run.0"], {0: 2})
    (message,) = server.lrange(_QUEUE, 0, -1)
    assert json.loads(message)["args"] == []
    assert json.loads(message)["properties"]["delivery_tag"] != "tag-run-0"
    assert len(list(parking.messages())) == 2


def test_served_tasks_that_do_not_ask_the_fleet_are_forgotten(server: redis.Redis, registry: RedisRegistry) -> None:
    """If half of the served tasks use a permit that their worker already has, all permits are soon served again."""
    server.set(keys.run("run"), "{}")
    parking, limit = Parking(server), HostLimit(4)
    registry.renew("one", {_HOST: 0})
    assert registry.acquire(_HOST, limit, "one", 1, True).permits == 1
    registry.renew("one", {_HOST: 0})
    assert all(park(server, "run", index) for index in range(1000))

    def serve() -> int:
        moved = parking.serve()
        for _ in range(moved // 2):
            assert registry.acquire(_HOST, limit, "one", 1, True).permits == 1
            registry.renew("one", {_HOST: 0})
        return moved

    assert [serve(), serve()] == [4, 2]
    wait_for(lambda: serve() == 4)


def test_tasks_of_an_ended_run_do_not_delay_others(server: redis.Redis, registry: RedisRegistry) -> None:
    """Tasks of an ended run go back to the queue at once, where workers drop them. They use no permits of the host."""
    server.set(keys.run("new"), "{}")
    parking = Parking(server)
    for index in range(20):
        park(server, "ended", index)
    park(server, "new", 0)
    park(server, "new", 1)
    assert parking.serve() == 20
    assert len(queued(server)) == 20
    registry.renew("one", {_HOST: 0})
    assert parking.serve() == 1
    assert queued(server)[0] == "new.0"
    assert parking.parked_in_shards("ended") == {}
    assert server.ttl(keys.host(_HOST)) > 0


def test_message_that_is_no_longer_unacknowledged_is_not_parked(server: redis.Redis) -> None:
    """If another worker has already requeued the message, it is not parked too."""
    task = ParkedTask("missing", _HOST, "run", 0)
    assert not Parking(server).park(task, _UNACKED)
    assert not server.exists(keys.parked(_HOST), keys.PARKED_HOSTS)
