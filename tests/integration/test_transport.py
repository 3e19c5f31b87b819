"""The transport takes messages in batches without losing one, and shares queues with kombu's own."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty
from typing import Any

import pytest
import redis
from kombu.asynchronous.hub import Hub
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.eventio import ERR, READ

from tasks import broker, transport
from tests.conditions import PATIENCE, wait_for
from tests.integration import parts

_QUEUE = "transport-test"


@pytest.fixture(autouse=True)
def server(redis_url: str) -> Iterator[redis.Redis]:
    """A client of an empty Redis; the transport is installed."""
    transport.install()
    with broker.client(redis_url) as client:
        client.flushall()
        yield client


def put(url: str, queue: str, count: int, first: int = 0, **options: Any) -> None:
    """Send so many numbers to a queue."""
    with Connection(url, **options) as connection, connection.SimpleQueue(queue) as simple:
        for number in range(first, first + count):
            simple.put({"n": number})


@contextmanager
def consuming(
    url: str, queues: list[str], prefetch: int, on_message: Callable[[Any, Any], None], **options: Any
) -> Iterator[Any]:
    """Consume from queues; give a connection whose ``drain_events`` delivers."""
    with Connection(url, **options) as connection:
        channel = connection.channel()
        channel.basic_qos(0, prefetch, False)
        declared = [Queue(name, Exchange(name), routing_key=name) for name in queues]
        with Consumer(channel, declared, callbacks=[on_message]):
            yield connection


def drain(connection: Any, enough: Callable[[], bool]) -> None:
    """Deliver until there is enough."""

    def deliver() -> bool:
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.2)
        return enough()

    wait_for(deliver)


def taking(found: list[int]) -> Callable[[Any, Any], None]:
    """Return a consumer that notes each number and acknowledges it."""

    def take(body: Any, message: Any) -> None:
        found.append(body["n"])
        message.ack()

    return take


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+socket"])
def test_every_scheme_uses_it(scheme: str) -> None:
    """Connections of all the schemes that we accept use this transport."""
    assert Connection(f"{scheme}://localhost/0").get_transport_cls() is transport.Transport


def test_all_arrive_once_and_are_acknowledged(redis_url: str, server: redis.Redis) -> None:
    """A hundred messages arrive in their order, each once, and leave nothing behind."""
    put(redis_url, _QUEUE, 100)
    found: list[int] = []

    with consuming(redis_url, [_QUEUE], 10, taking(found)) as connection:
        drain(connection, lambda: len(found) == 100)
    assert found == list(range(100))
    assert not server.exists("unacked", "unacked_index", _QUEUE)


def test_prefetch_is_kept(redis_url: str, server: redis.Redis) -> None:
    """No more than the prefetch count is taken, all of it is recorded, and the rest stays in the queue."""
    put(redis_url, _QUEUE, 100)
    held: list[Any] = []
    with consuming(redis_url, [_QUEUE], 12, lambda _, message: held.append(message)) as connection:
        drain(connection, lambda: len(held) >= 12)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.3)
        assert (len(held), server.llen(_QUEUE)) == (12, 88)
        recorded: Any = server.hkeys("unacked")
        assert set(recorded) == {message.delivery_tag for message in held}


def test_countdowns_leave_room_for_others(redis_url: str) -> None:
    """A consumer that holds many messages under a countdown, each with room of its own, takes others all the same."""
    put(redis_url, _QUEUE, 108)
    held: list[Any] = []

    def hold(_: Any, message: Any) -> None:
        held.append(message)
        # As Celery does for each of them.
        message.channel.basic_qos(0, 4 + min(len(held), 100), False)

    with consuming(redis_url, [_QUEUE], 4, hold) as connection:
        drain(connection, lambda: len(held) >= 104)
        for message in held[100:104]:
            message.ack()
        drain(connection, lambda: len(held) >= 108)


def test_what_a_dead_consumer_held_comes_back(redis_url: str, server: redis.Redis) -> None:
    """What was reserved stands in Redis as kombu writes it: kombu itself hands it to the next consumer."""
    put(redis_url, _QUEUE, 20)
    held: list[Any] = []
    with consuming(redis_url, [_QUEUE], 20, lambda _, message: held.append(message)) as connection:
        drain(connection, lambda: len(held) == 20)
        records: Any = server.hgetall("unacked")
        # As a killed worker leaves them: nothing is handed back when the connection goes.
        held[0].channel.qos._delivered.clear()
    assert {json.loads(record)[1] for record in records.values()} == {_QUEUE}
    for tag in records:
        server.zadd("unacked_index", {tag: 1})
    found: list[int] = []
    options = {"transport_options": {"visibility_timeout": 1, "unacked_restore_limit": 100}}
    with consuming(redis_url, [_QUEUE], 20, taking(found), **options) as connection:
        drain(connection, lambda: len(set(found)) == 20)
    assert not server.exists("unacked")


@pytest.mark.parametrize(("sender", "taker"), [("ours", "theirs"), ("theirs", "ours"), ("theirs", "theirs")])
def test_both_transports_share_a_queue(
    redis_url: str, server: redis.Redis, monkeypatch: pytest.MonkeyPatch, sender: str, taker: str
) -> None:
    """What one sends the other takes, and what stands unacknowledged has kombu's form in every case."""
    aliases = {"ours": "tasks.transport:Transport", "theirs": "kombu.transport.redis:Transport"}
    monkeypatch.setitem(TRANSPORT_ALIASES, "redis", aliases[sender])
    put(redis_url, _QUEUE, 3)
    monkeypatch.setitem(TRANSPORT_ALIASES, "redis", aliases[taker])
    held: list[Any] = []
    with consuming(redis_url, [_QUEUE], 8, lambda _, message: held.append(message)) as connection:
        drain(connection, lambda: len(held) == 3)
        stored: Any = server.hgetall("unacked")
    for tag, record in stored.items():
        message, exchange, key = json.loads(record)
        assert message["properties"]["delivery_tag"] == tag
        assert (exchange, key) == (_QUEUE, _QUEUE)


def test_a_busy_queue_blocks_no_other(redis_url: str) -> None:
    """A queue that is never empty does not keep a second one waiting."""
    put(redis_url, "busy", 200)
    put(redis_url, "quiet", 5, first=1000)
    found: list[int] = []

    with consuming(redis_url, ["busy", "quiet"], 8, taking(found)) as connection:
        drain(connection, lambda: len(found) == 205)
    assert max(found.index(number) for number in range(1000, 1005)) < 40


@pytest.mark.parametrize("foreign", ["{broken", "{}", "[]", "5", '{"properties": {}}'])
def test_message_of_another_form_is_put_aside(redis_url: str, server: redis.Redis, foreign: str) -> None:
    """What kombu did not write is kept in a list of its own, and what stood behind it is delivered."""
    put(redis_url, _QUEUE, 1)
    server.lpush(_QUEUE, foreign)
    put(redis_url, _QUEUE, 2, first=1)
    found: list[int] = []

    with consuming(redis_url, [_QUEUE], 2, taking(found)) as connection:
        drain(connection, lambda: len(found) == 3)
    assert server.lrange("unacked_put_aside", 0, -1) == [foreign]


def test_delivery_that_raises_gives_the_others_back(redis_url: str, server: redis.Redis) -> None:
    """A consumer that fails at one message loses none of those that were taken with it."""
    put(redis_url, _QUEUE, 10)
    seen: list[int] = []

    def fail(body: Any, _: Any) -> None:
        seen.append(body["n"])
        if body["n"] == 4:
            raise RuntimeError("it can't be taken")

    with (
        consuming(redis_url, [_QUEUE], 20, fail) as connection,
        pytest.raises(RuntimeError, match="it can't be taken"),
    ):
        drain(connection, lambda: len(seen) == 10)
    queued: Any = server.llen(_QUEUE)
    unacked: Any = server.hlen("unacked")
    assert queued + unacked == 10


def test_channel_follows_its_pool(redis_url: str) -> None:
    """A channel has one client for all its commands, and another after a reconnect gave it another pool."""
    with Connection(redis_url) as connection:
        channel: Any = connection.default_channel
        before = channel._create_client()
        assert channel._create_client() is before
        channel._disconnect_pools()
        after = channel._create_client()
        assert after is not before
        assert after.ping()


def test_what_goes_on_is_acknowledged_over_the_next_connection(redis_url: str, server: redis.Redis) -> None:
    """A connection that ends gives back what has not begun; what has is acknowledged later, once, by another one."""
    begun: list[str] = []
    transport.install(lambda: begun)
    messages: list[Any] = []
    put(redis_url, _QUEUE, 4)
    with consuming(redis_url, [_QUEUE], 4, lambda _, message: messages.append(message)) as connection:
        drain(connection, lambda: len(messages) == 4)
        for number, message in enumerate(messages):
            message.headers["id"] = str(number)
        begun += ["0", "1"]
    assert (server.llen(_QUEUE), server.hlen("unacked")) == (2, 2)
    for message in messages[:2]:
        message.ack()
    found: list[int] = []

    with consuming(redis_url, [_QUEUE], 4, taking(found)) as connection:
        drain(connection, lambda: len(found) == 2)
    assert sorted(found) == [2, 3]
    assert server.hlen("unacked") == 0


def test_waiting_takes_nothing_out(redis_url: str, server: redis.Redis) -> None:
    """A consumer that waits leaves a message where it is until it asks for it, and asks as soon as it can."""
    found: list[int] = []

    with consuming(redis_url, ["other", _QUEUE], 8, taking(found)) as connection:
        for _ in range(3):
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.05)
        # Nobody drains now: what the server answers to the waiting consumer stays in its socket.
        put(redis_url, _QUEUE, 1)
        time.sleep(0.2)
        assert server.llen(_QUEUE) == 1
        drain(connection, lambda: found == [0])


def test_draining_ends_with_a_message_or_in_time(redis_url: str) -> None:
    """Who drains an empty queue waits until the time is over, whatever the server answers to the waiters meanwhile."""
    with consuming(redis_url, ["one", "two"], 8, lambda *_: None) as connection:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=1.5)
        assert time.monotonic() - started >= 1.5


def only_waiter(connection: Any) -> Any:
    """Return the waiter of a connection that consumes from one list."""
    ((waiter,),) = [channel.waiters() for channel in connection.transport.channels if channel.active_queues]
    return waiter


_ONE_LIST: dict[str, Any] = {"transport_options": {"priority_steps": [0]}}


def test_answer_that_is_not_read_yet_is_none_that_is_missing(redis_url: str, server: redis.Redis) -> None:
    """A process that was stopped for a minute finds the messages that it had asked for."""
    put(redis_url, _QUEUE, 3)
    found: list[int] = []
    with consuming(redis_url, [_QUEUE], 8, taking(found), **_ONE_LIST) as connection:
        cycle, waiter = connection.transport.cycle, only_waiter(connection)
        cycle.on_poll_start()
        assert select.select([waiter.client.connection._sock], [], [], PATIENCE)[0]
        waiter._sent -= 60
        cycle.look_after()
        drain(connection, lambda: found == [0, 1, 2])
    assert not server.exists("unacked")


def test_server_that_is_silent_is_given_up(redis_url: str) -> None:
    """A connection that nobody answers is closed, and its successor brings what has come meanwhile."""
    found: list[int] = []
    with consuming(redis_url, [_QUEUE], 8, taking(found), **_ONE_LIST) as connection:
        drain(connection, lambda: True)
        cycle, waiter = connection.transport.cycle, only_waiter(connection)
        cycle.on_poll_start()
        before = waiter.client.connection._sock
        waiter._sent -= 60
        cycle.look_after()
        assert waiter.client.connection._sock is None
        put(redis_url, _QUEUE, 1)
        drain(connection, lambda: found == [0])
        assert waiter.client.connection._sock is not before


@pytest.mark.parametrize("option", [{"polling_interval": 0}, {"health_check_interval": 0}])
def test_silence_is_borne_where_nobody_bounds_it(redis_url: str, option: dict[str, int]) -> None:
    """Without a bound on a server's wait, or with health checks switched off, no connection is given up."""
    options = {"transport_options": {"priority_steps": [0], **option}}
    with consuming(redis_url, [_QUEUE], 8, lambda *_: None, **options) as connection:
        drain(connection, lambda: only_waiter(connection)._asked is None)
        cycle, waiter = connection.transport.cycle, only_waiter(connection)
        cycle.on_poll_start()
        before = waiter.client.connection._sock
        waiter._sent -= 3600
        cycle.look_after()
        assert waiter.client.connection._sock is before


@pytest.mark.parametrize("event", [READ, ERR], ids=["read", "error"])
def test_server_may_close_an_idle_connection(redis_url: str, server: redis.Redis, event: int) -> None:
    """A consumer without room whose server closes what it does not use takes another connection when there is room."""
    put(redis_url, _QUEUE, 2)
    messages: list[Any] = []
    with consuming(redis_url, [_QUEUE], 1, lambda _, message: messages.append(message), **_ONE_LIST) as connection:
        drain(connection, lambda: len(messages) == 1)
        waiter = only_waiter(connection)
        connected = waiter.client.connection._sock
        server.client_kill_filter(_type="normal", skipme=True)
        assert select.select([connected], [], [], PATIENCE)[0]
        with suppress(Empty):
            connection.transport.cycle.handle_event(connected.fileno(), event)
        assert waiter.client.connection._sock is None
        messages[0].ack()
        drain(connection, lambda: len(messages) == 2)


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_what_comes_after_the_end_goes_back(redis_url: str, server: redis.Redis, end: str) -> None:
    """Messages that were asked for, and come when nobody consumes any more, are in their queue again."""
    put(redis_url, _QUEUE, 3)
    found: list[int] = []
    with Connection(redis_url, **_ONE_LIST) as connection:
        channel: Any = connection.channel()
        queue = Queue(_QUEUE, Exchange(_QUEUE), routing_key=_QUEUE)
        with Consumer(channel, [queue], callbacks=[taking(found)]):
            connection.transport.cycle.on_poll_start()
            assert select.select([only_waiter(connection).client.connection._sock], [], [], PATIENCE)[0]
        if end == "close":
            channel.close()
        else:
            drain(connection, lambda: bool(server.llen(_QUEUE)))
        assert server.llen(_QUEUE) == 3
    assert found == []
    assert not server.exists("unacked")


def test_channel_without_room_blocks_no_other(redis_url: str) -> None:
    """Two channels of a connection wait for each other neither when one is full nor when it has room again."""
    put(redis_url, "one", 2)
    held: list[Any] = []
    found: list[int] = []
    with consuming(redis_url, ["one"], 1, lambda _, message: held.append(message), **_ONE_LIST) as connection:
        drain(connection, lambda: len(held) == 1)
        other = connection.channel()
        with Consumer(other, [Queue("two", Exchange("two"), routing_key="two")], callbacks=[taking(found)]):
            put(redis_url, "two", 3, first=10)
            drain(connection, lambda: found == [10, 11, 12])
            assert len(held) == 1
            held[0].ack()
            drain(connection, lambda: len(held) == 2)


def test_event_loop_follows_a_connection_that_is_made_anew(redis_url: str) -> None:
    """redis-py may replace a connection between two ticks of a worker's loop; each is told to the loop once."""
    found: list[int] = []
    hub = Hub()
    told: list[int] = []
    add_reader = hub.add_reader

    def add(place: int, *callback: Any) -> None:
        told.append(place)
        add_reader(place, *callback)

    hub.add_reader = add

    def turn() -> bool:
        for tick in list(hub.on_tick):
            tick()
        for place, _ in hub.poller.poll(0.05):
            callback, arguments = hub.readers[place]
            with suppress(Empty):
                callback(*arguments)
        return bool(found)

    try:
        with consuming(redis_url, [_QUEUE], 8, taking(found), **_ONE_LIST) as connection:
            connection.register_with_event_loop(hub)
            for number in range(3):
                turn()
                only_waiter(connection).client.connection.disconnect()
                only_waiter(connection).client.connection.connect()
                put(redis_url, _QUEUE, 1, first=number)
                wait_for(turn)
                assert found == [number]
                found.clear()
        assert len(told) == 4
    finally:
        hub.close()


def test_waiting_is_no_polling(redis_url: str, server: redis.Redis) -> None:
    """While its queues are empty, a consumer sends a command a second for each."""

    def sent() -> int:
        stats: Any = server.info("commandstats")
        return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("blmove", "brpop", "rpop"))

    options: dict[str, Any] = {"transport_options": {"priority_steps": [0]}}
    with consuming(redis_url, ["one", "two"], 8, lambda *_: None, **options) as connection:
        drain(connection, lambda: True)
        before, ends = sent(), time.monotonic() + 2
        while time.monotonic() < ends:
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.2)
        assert sent() - before <= 6


def test_priorities_come_first(redis_url: str) -> None:
    """With priorities configured, a message of a higher one overtakes all of a lower one; 0 is the highest."""
    options: dict[str, Any] = {"transport_options": {"priority_steps": [0, 5]}}
    with Connection(redis_url, **options) as connection:
        producer = connection.Producer()
        queue = Queue(_QUEUE, Exchange(_QUEUE), routing_key=_QUEUE)
        for number, priority in [(0, 5), (1, 5), (2, 0), (3, 0)]:
            producer.publish(
                {"n": number}, exchange=queue.exchange, routing_key=_QUEUE, declare=[queue], priority=priority
            )
    found: list[int] = []

    with consuming(redis_url, [_QUEUE], 2, taking(found), **options) as connection:
        drain(connection, lambda: len(found) == 4)
    assert found == [2, 3, 0, 1]


def test_lists_may_outnumber_the_connections(redis_url: str) -> None:
    """More lists than connections are allowed for commands: four for each of three queues, as kombu has it unasked."""
    found: list[int] = []
    queues = ["one", "two", "three"]
    with consuming(redis_url, queues, 8, taking(found), transport_options={"max_connections": 2}) as connection:
        drain(connection, lambda: True)
        for number, queue in enumerate(queues):
            put(redis_url, queue, 1, first=number)
        drain(connection, lambda: sorted(found) == [0, 1, 2])


def test_prefix_is_put_before_every_key(redis_url: str, server: redis.Redis) -> None:
    """A broker that is shared by a prefix sees no key without it."""
    options: dict[str, Any] = {"transport_options": {"global_keyprefix": "mine:"}}
    put(redis_url, _QUEUE, 20, **options)
    messages: list[Any] = []
    with consuming(redis_url, [_QUEUE], 8, lambda _, message: messages.append(message), **options) as connection:
        drain(connection, lambda: len(messages) == 8)
        keys: Any = server.keys()
        assert {"mine:unacked", "mine:unacked_index", f"mine:{_QUEUE}"} <= set(keys)
        assert all(key.startswith("mine:") for key in keys)
        for message in messages:
            message.ack()
        drain(connection, lambda: len(messages) == 16)
    assert server.llen(f"mine:{_QUEUE}") == 12
    assert not server.exists("mine:unacked")


def test_acknowledgements_go_where_the_message_came_from(redis_url: str, server: redis.Redis) -> None:
    """Of two consumers of one Redis, each with a prefix of its own, neither tells the other's acknowledgements."""
    prefixes: list[dict[str, Any]] = [{"transport_options": {"global_keyprefix": name}} for name in ("a:", "b:")]
    messages: list[Any] = []

    def keep(_: Any, message: Any) -> None:
        messages.append(message)

    for options in prefixes:
        put(redis_url, _QUEUE, 1, **options)
    with (
        consuming(redis_url, [_QUEUE], 8, keep, **prefixes[0]) as first,
        consuming(redis_url, [_QUEUE], 8, keep, **prefixes[1]) as second,
    ):
        drain(first, lambda: len(messages) == 1)
        drain(second, lambda: len(messages) == 2)
        messages[0].ack()
        messages[1].channel.qos.flush()
        messages[0].channel.qos.flush()
        assert (server.exists("a:unacked"), server.exists("b:unacked")) == (0, 1)


def test_database_may_be_a_number(redis_port: int) -> None:
    """As it may be for kombu, where it is no part of a URL."""
    with Connection(f"redis://127.0.0.1:{redis_port}", virtual_host=1) as connection:
        assert connection.default_channel.client.connection_pool.connection_kwargs["db"] == 1


_CONSUMER = """
import sys
from kombu import Connection, Consumer, Exchange, Queue
from tasks import transport
transport.install()
with Connection(sys.argv[1]) as connection:
    channel = connection.channel()
    channel.basic_qos(0, 8, False)
    names = sys.argv[2:]
    queues = [Queue(name, Exchange(name), routing_key=name) for name in names]
    def take(body, message):
        message.ack()
        print(body["n"], flush=True)
    with Consumer(channel, queues, callbacks=[take]):
        while True:
            connection.drain_events()
"""


def test_killed_consumers_lose_nothing(redis_url: str, server: redis.Redis) -> None:
    """Ten consumers are killed at work, one after the other: every message was done, or is queued or recorded."""
    total = 4_000
    put(redis_url, _QUEUE, total)
    done: set[int] = set()
    for _ in range(10):
        argv = [sys.executable, "-c", _CONSUMER, redis_url, _QUEUE]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=parts.environment({})) as process:
            assert process.stdout is not None
            for _ in range(20):
                done.add(int(process.stdout.readline()))
            process.kill()
            done |= {int(line) for line in process.stdout.read().split("\n")[:-1] if line}
    queued: Any = server.lrange(_QUEUE, 0, -1)
    records: Any = server.hvals("unacked")
    left = [json.loads(one) for one in queued] + [json.loads(one)[0] for one in records]
    numbers = {json.loads(b64decode(one["body"]))["n"] for one in left}
    assert done | numbers == set(range(total))
