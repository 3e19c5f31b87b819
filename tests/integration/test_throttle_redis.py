"""The hosts' state in Redis: lost data, dead workers, operators, expiry, permissions, and what a call costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from producer.dispatch.host_watch import HostWatch
from tasks.broker import client as broker_client
from tasks.broker import keys as broker_keys
from tasks.celery import IMAGE_QUEUE
from tasks.throttle import hosts, keys, policy
from tasks.throttle.parking import ParkedTask, Parking
from tasks.throttle.redis_registry import RedisRegistry
from tasks.throttle.registry import Cause, Report, Rest, Why
from tasks.throttle_options import HostLimit
from tests.integration import processes
from tests.integration.throttle_clock import LUA_CLOCK, Clock

_HOST, _LIMIT = "a.example", HostLimit(8)


@pytest.fixture
def clock(server: redis.Redis) -> Clock:
    """Give a clock that stands still."""
    return Clock(server)


@pytest.fixture
def registry(server: redis.Redis, clock: Clock) -> RedisRegistry:
    """Give a registry with this clock, and three live workers."""
    server.sadd(keys.WORKERS, "one", "two", "three")
    return cast("RedisRegistry", clock.registry())


def described(server: redis.Redis) -> hosts.HostState:
    """Return the state of the only host."""
    (found,) = hosts.list_hosts(server, LUA_CLOCK)
    return found


def described_now(server: redis.Redis) -> hosts.HostState:
    """Return the state of the only host, by Redis's own clock."""
    (found,) = hosts.list_hosts(server)
    return found


def test_new_server_needs_no_producer_to_settle(server: redis.Redis) -> None:
    """Without a producer's note, the first permits are granted after a moment; with the note, at once."""
    clock = Clock(server)
    clock.set(clock.now)
    made = RedisRegistry(server, LUA_CLOCK)
    first = made.acquire(_HOST, _LIMIT, "one", 1, True)
    assert (first.permits, first.why, first.wait) == (0, Why.SETTLING, policy.SETTLE_SECONDS)
    made.prepare()
    assert made.acquire(_HOST, _LIMIT, "one", 1, True).why is Why.SETTLING
    clock.advance(policy.SETTLE_SECONDS)
    assert made.acquire(_HOST, _LIMIT, "one", 1, True).why is Why.GRANTED


def test_permits_survive_lost_data(server: redis.Redis, registry: RedisRegistry, clock: Clock) -> None:
    """After Redis lost everything, no permit and no booking is given until the holders have renewed their leases."""
    assert registry.acquire(_HOST, _LIMIT, "one", 8, True).permits == 8
    server.flushall()
    clock.set(clock.now)
    assert registry.acquire(_HOST, _LIMIT, "two", 8, True).why is Why.SETTLING
    clock.advance(1)
    assert registry.renew("one", {_HOST: 8})[_HOST].share == 8
    clock.advance(policy.SETTLE_SECONDS - 1)
    assert registry.acquire(_HOST, _LIMIT, "two", 8, True).why is Why.FULL


def test_restarted_server_settles(tmp_path: Path) -> None:
    """A restarted Redis may have lost its last writes, so it grants nothing until the holders have renewed."""
    port = processes.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with broker_client.client(url) as server:
        with processes.redis_server(tmp_path, port=port):
            made = RedisRegistry(server)
            made.prepare()
            assert made.acquire(_HOST, _LIMIT, "one", 3, True).permits == 3
        with processes.redis_server(tmp_path, port=port):
            made.prepare()
            assert made.acquire(_HOST, _LIMIT, "two", 3, True).why is Why.SETTLING
            made.renew("one", {_HOST: 3})
            assert described_now(server).permits == 3


def test_clock_that_jumps_back_while_settling(server: redis.Redis, registry: RedisRegistry, clock: Clock) -> None:
    """The wait after lost data does not get longer because the clock jumps back."""
    server.delete(keys.THROTTLE)
    registry.acquire(_HOST, _LIMIT, "one", 1, True)
    clock.advance(-3600)
    assert registry.acquire(_HOST, _LIMIT, "one", 1, True).wait == policy.SETTLE_SECONDS
    clock.advance(policy.SETTLE_SECONDS)
    assert registry.acquire(_HOST, _LIMIT, "one", 1, True).permits == 1


def test_lease_of_a_removed_worker_ends_early(server: redis.Redis, registry: RedisRegistry, clock: Clock) -> None:
    """A full host does not wait for the expiry of a dead worker's lease. A live worker's lease stays."""
    registry.acquire(_HOST, _LIMIT, "one", 4, True)
    registry.acquire(_HOST, _LIMIT, "two", 4, True)
    server.srem(keys.WORKERS, "one", "two")
    waited = 0.0
    while registry.acquire(_HOST, _LIMIT, "three", 2, True).permits == 0:
        clock.advance(0.5)
        registry.renew("two", {_HOST: 4})
        waited += 0.5
    assert waited == policy.SILENCE_SECONDS + policy.DOUBT_SECONDS
    assert described(server).permits == 4 + 2


def test_operator_limits_a_host(server: redis.Redis, registry: RedisRegistry) -> None:
    """An operator can lower a host's limit and rate while runs go on, and lift both again."""
    registry.acquire(_HOST, _LIMIT, "one", 8, True)
    hosts.set_limit(server, _HOST, HostLimit(3, 2.0))
    assert registry.renew("one", {_HOST: 8})[_HOST].share == 3
    registry.renew("one", {_HOST: 1})
    assert registry.acquire(_HOST, _LIMIT, "one", 8, True).permits == 1
    assert registry.acquire(_HOST, HostLimit(8, 1.0), "two", 1, True).wait == 0.5
    assert described(server).operator_limit == HostLimit(3, 2.0)
    hosts.lift(server, _HOST)
    assert registry.acquire(_HOST, _LIMIT, "one", 2, True).permits == 2
    assert described(server).operator_limit is None


def test_operator_ends_a_rest(server: redis.Redis, registry: RedisRegistry) -> None:
    """An operator who knows that a host works again ends its rest at once, for all processes."""
    assert registry.next_rest(0.01) is None
    for _ in range(2):
        registry.report(_HOST, "one", Report(refused=True, retry_after=900), True)
    assert registry.acquire(_HOST, _LIMIT, "one", 1, True).why is Why.GIVEN_UP
    assert registry.next_rest(1.0) == Rest(_HOST, 900.0, True)
    hosts.lift(server, _HOST)
    assert registry.next_rest(1.0) == Rest(_HOST, 0.0)
    assert registry.acquire(_HOST, _LIMIT, "one", 8, True).permits == 8
    registry.close()


def test_lists_what_is_known_of_each_host(server: redis.Redis, registry: RedisRegistry, clock: Clock) -> None:
    """The list has each host's limits, permits, rest, numbers of answers and latency."""
    registry.acquire(_HOST, HostLimit(8, 4.0), "one", 1, True)
    registry.report(_HOST, "one", Report(ok=3, latency=0.25), True)
    registry.report(_HOST, "one", Report(slow=2), True)
    registry.acquire("b.example", HostLimit(1), "one", 1, True)
    registry.report("c.example", "one", Report(unreachable=True), True)
    for _ in range(5):
        registry.acquire("c.example", _LIMIT, "two", 1, True)
        registry.report("c.example", "two", Report(unreachable=True), True)
    clock.advance(2)
    listed = {host.key: host for host in hosts.list_hosts(server, LUA_CLOCK)}
    first, second, third = (listed[name] for name in (_HOST, "b.example", "c.example"))
    assert (first.limit, first.permits, first.why, first.cause) == (HostLimit(8, 4.0), 1, Why.GRANTED, None)
    assert (first.ok, first.slow, first.latency, first.best_latency, first.adaptive_limit) == (3, 2, 0.25, 0.25, 4)
    assert (first.open_limit, second.why, second.latency, second.open_limit) == (4, Why.FULL, None, 1)
    assert (third.why, third.cause, third.rests, third.resting) == (Why.RESTING, Cause.UNREACHABLE, 1, 3.0)
    assert (third.unreachable, third.open_limit) == (6, 0)
    clock.advance(3)
    listed = {host.key: host for host in hosts.list_hosts(server, LUA_CLOCK)}
    assert (listed["c.example"].why, listed["c.example"].open_limit) == (Why.HALF_OPEN, 1)


def test_hosts_expire(server: redis.Redis, registry: RedisRegistry, clock: Clock) -> None:
    """Every key of a host expires. Released permits leave nothing but the state, and the index forgets old hosts."""
    registry.acquire(_HOST, _LIMIT, "one", 1, True)
    registry.acquire("b.example", _LIMIT, "one", 1, True)
    registry.report("b.example", "one", Report(refused=True), True)
    lifetimes = [server.ttl(name) for name in (keys.host(_HOST), keys.host("b.example"), keys.leases(_HOST))]
    assert lifetimes == [policy.IDLE_SECONDS, policy.TROUBLED_SECONDS + 1, policy.TROUBLED_SECONDS]
    registry.renew("one", {_HOST: 0})
    assert not server.exists(keys.leases(_HOST))
    server.delete(keys.host(_HOST))
    assert [host.key for host in hosts.list_hosts(server, LUA_CLOCK)] == ["b.example"]
    clock.advance(policy.TROUBLED_SECONDS + 1)
    registry.acquire("c.example", _LIMIT, "one", 1, True)
    assert server.zrange(keys.HOSTS, 0, -1) == ["c.example"]


def test_parked_tasks_make_permits_wanted(server: redis.Redis, registry: RedisRegistry) -> None:
    """A holder gives its idle permits back if tasks wait for the host in Redis."""
    registry.acquire(_HOST, _LIMIT, "one", 8, True)
    assert not registry.renew("one", {_HOST: 8})[_HOST].wanted
    server.lpush(keys.parked(_HOST), "task")
    assert registry.renew("one", {_HOST: 8})[_HOST].wanted


def test_real_clock_is_redis_time(server: redis.Redis) -> None:
    """In production, the time is Redis's own."""
    made = RedisRegistry(server)
    made.prepare()
    made.acquire(_HOST, _LIMIT, "one", 1, True)
    renewed = float(cast("str", server.hget(keys.leases(_HOST), "one")).split()[1])
    now = server.time()
    assert now[0] - 60 < renewed <= now[0] + 1


def test_workers_key_is_the_brokers() -> None:
    """The registry reads the set of workers that the heartbeats write."""
    assert keys.WORKERS == broker_keys.WORKERS


@pytest.fixture
def restricted(server: redis.Redis) -> Iterator[redis.Redis]:
    """Give a client with the permissions of config/users.acl."""
    line = next(
        text for text in (processes.ROOT / "config/users.acl").read_text().splitlines() if "user imagefleet" in text
    )
    rules = [rule for rule in line.split()[2:] if not rule.startswith("#")]
    untyped: Any = server
    untyped.execute_command("ACL", "SETUSER", "imagefleet", *rules, "nopass")
    with redis.Redis(
        unix_socket_path=server.connection_pool.connection_kwargs["path"], username="imagefleet", decode_responses=True
    ) as client:
        yield client
    untyped.execute_command("ACL", "DELUSER", "imagefleet")


def test_permissions_of_a_worker_suffice(server: redis.Redis, restricted: redis.Redis) -> None:
    """The user of config/users.acl can run each step, list and limit hosts, and hear of rests."""
    server.sadd(keys.WORKERS, "one")
    made = RedisRegistry(restricted)
    made.prepare()
    assert made.next_rest(0.01) is None
    assert made.acquire(_HOST, HostLimit(1, 5.0), "one", 1, True).permits == 1
    assert made.acquire(_HOST, HostLimit(1), "two", 1, True).why is Why.FULL
    assert made.renew("one", {_HOST: 1})[_HOST].wanted
    made.renew("one", {_HOST: 0})
    made.forget("two", [_HOST])
    assert made.report(_HOST, "one", Report(refused=True), True) == Rest(_HOST, 1.0)
    assert made.next_rest(1.0) == Rest(_HOST, 1.0)
    hosts.set_limit(restricted, _HOST, HostLimit(1))
    assert described_now(restricted).cause is Cause.REFUSED
    watch = HostWatch(restricted)
    watch.start()
    watch.refresh(has_parked=True)
    assert [host.host for host in watch.troubled_hosts()] == [_HOST]
    hosts.lift(restricted, _HOST)
    made.close()


def test_permissions_of_a_worker_suffice_for_parking(server: redis.Redis, restricted: redis.Redis) -> None:
    """The user of config/users.acl can park, count, read and serve tasks."""
    unacked = "unacked:one", "unacked_index:one"
    server.hset(unacked[0], "tag-1", json.dumps([{"properties": {"delivery_tag": "tag-1"}}, "", IMAGE_QUEUE]))
    server.set(keys.run("run"), "{}")
    parking = Parking(restricted)
    assert parking.park(ParkedTask("tag-1", _HOST, "run", 3), unacked)
    assert (parking.parked_at_hosts(), parking.parked_in_shards("run")) == ({_HOST: 1}, {3: 1})
    assert len(list(parking.messages())) == 1
    assert parking.serve() == 1
