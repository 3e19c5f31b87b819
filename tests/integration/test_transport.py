"""The transport takes messages in batches, loses no message, and shares queues with kombu's own transport."""

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

from tasks.broker import client as broker_client
from tasks.broker import transport
from tests.integration import processes
from tests.waiting import PATIENCE, wait_for

_QUEUE = "transport-test"


@pytest.fixture(autouse=True)
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Install the transport, and yield a client of an empty Redis."""
    transport.install()
    with broker_client.client(redis_url) as client:
        client.flushall()
        yield client


def put(url: str, queue: str, count: int, first: int = 0, **options: Any) -> None:
    """Send this many messages to a queue. Each message is a number."""
    with Connection(url, **options) as connection, connection.SimpleQueue(queue) as simple:
        for number in range(first, first + count):
            simple.put({"n": number})


@contextmanager
def consuming(
    url: str, queues: list[str], prefetch: int, on_message: Callable[[Any, Any], None], **options: Any
) -> Iterator[Any]:
    """Consume from queues; give a connection whose ``drain_events`` delivers the messages."""
    with Connection(url, **options) as connection:
        channel = connection.channel()
        channel.basic_qos(0, prefetch, False)
        declared = [Queue(name, Exchange(name), routing_key=name) for name in queues]
        with Consumer(channel, declared, callbacks=[on_message]):
            yield connection


def drain(connection: Any, enough: Callable[[], bool]) -> None:
    """Deliver messages until the condition is true."""

    def deliver() -> bool:
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.2)
        return enough()

    wait_for(deliver)


def recording_consumer(found: list[int]) -> Callable[[Any, Any], None]:
    """Return a consumer that records each number and acknowledges it."""

    def take(body: Any, message: Any) -> None:
        found.append(body["n"])
        message.ack()

    return take


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+socket"])
def test_every_scheme_uses_our_transport(scheme: str) -> None:
    """Connections of all accepted schemes use this transport."""
    assert Connection(f"{scheme}://localhost/0").get_transport_cls() is transport.Transport


def test_delivers_every_message_once_and_acknowledges_it(redis_url: str, server: redis.Redis) -> None:
    """A hundred messages arrive in order, each message arrives once, and nothing is left behind."""
    put(redis_url, _QUEUE, 100)
    found: list[int] = []

    with consuming(redis_url, [_QUEUE], 10, recording_consumer(found)) as connection:
        drain(connection, lambda: len(found) == 100)
    assert found == list(range(100))
    assert not server.exists("unacked", "unacked_index", _QUEUE)


def test_takes_no_more_than_the_prefetch_count(redis_url: str, server: redis.Redis) -> None:
    """A consumer takes and records at most as many messages as its prefetch count. Other messages stay in the queue."""
    put(redis_url, _QUEUE, 100)
    taken: list[Any] = []
    with consuming(redis_url, [_QUEUE], 12, lambda _, message: taken.append(message)) as connection:
        drain(connection, lambda: len(taken) >= 12)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.3)
        assert (len(taken), server.llen(_QUEUE)) == (12, 88)
        recorded: Any = server.hkeys("unacked")
        assert set(recorded) == {message.delivery_tag for message in taken}


def test_countdowns_leave_room_for_others(redis_url: str) -> None:
    """Messages with a countdown do not block a consumer, because each such message raises the prefetch count by one."""
    put(redis_url, _QUEUE, 108)
    taken: list[Any] = []

    def hold(_: Any, message: Any) -> None:
        taken.append(message)
        # Celery raises the prefetch count in this way for each message with a countdown.
        message.channel.basic_qos(0, 4 + min(len(taken), 100), False)

    with consuming(redis_url, [_QUEUE], 4, hold) as connection:
        drain(connection, lambda: len(taken) >= 104)
        for message in taken[100:104]:
            message.ack()
        drain(connection, lambda: len(taken) >= 108)


def test_kombu_redelivers_messages_of_a_dead_consumer(redis_url: str, server: redis.Redis) -> None:
    """Taken messages are in Redis in kombu's format, so kombu itself redelivers them."""
    put(redis_url, _QUEUE, 20)
    taken: list[Any] = []
    with consuming(redis_url, [_QUEUE], 20, lambda _, message: taken.append(message)) as connection:
        drain(connection, lambda: len(taken) == 20)
        records: Any = server.hgetall("unacked")
        # Let the closing connection requeue nothing, as after a SIGKILL of the process.
        taken[0].channel.qos._delivered.clear()
    assert {json.loads(record)[1] for record in records.values()} == {_QUEUE}
    for tag in records:
        server.zadd("unacked_index", {tag: 1})
    found: list[int] = []
    options = {"transport_options": {"visibility_timeout": 1, "unacked_restore_limit": 100}}
    with consuming(redis_url, [_QUEUE], 20, recording_consumer(found), **options) as connection:
        drain(connection, lambda: len(set(found)) == 20)
    assert not server.exists("unacked")


@pytest.mark.parametrize(("sender", "taker"), [("ours", "theirs"), ("theirs", "ours"), ("theirs", "theirs")])
def test_both_transports_share_a_queue(
    redis_url: str, server: redis.Redis, monkeypatch: pytest.MonkeyPatch, sender: str, taker: str
) -> None:
    """Our transport and kombu's transport take each other's messages. Unacknowledged messages have kombu's format."""
    aliases = {"ours": "tasks.broker.transport:Transport", "theirs": "kombu.transport.redis:Transport"}
    monkeypatch.setitem(TRANSPORT_ALIASES, "redis", aliases[sender])
    put(redis_url, _QUEUE, 3)
    monkeypatch.setitem(TRANSPORT_ALIASES, "redis", aliases[taker])
    taken: list[Any] = []
    with consuming(redis_url, [_QUEUE], 8, lambda _, message: taken.append(message)) as connection:
        drain(connection, lambda: len(taken) == 3)
        stored: Any = server.hgetall("unacked")
    for tag, record in stored.items():
        message, exchange, key = json.loads(record)
        assert message["properties"]["delivery_tag"] == tag
        assert (exchange, key) == (_QUEUE, _QUEUE)


def test_a_busy_queue_blocks_no_other(redis_url: str) -> None:
    """A queue that is always full does not delay the messages of a second queue."""
    put(redis_url, "busy", 200)
    put(redis_url, "quiet", 5, first=1000)
    found: list[int] = []

    with consuming(redis_url, ["busy", "quiet"], 8, recording_consumer(found)) as connection:
        drain(connection, lambda: len(found) == 205)
    assert max(found.index(number) for number in range(1000, 1005)) < 40


@pytest.mark.parametrize("foreign", ["{broken", "{}", "[]", "5", '{"properties": {}}'])
def test_foreign_message_goes_to_the_dead_letter_list(redis_url: str, server: redis.Redis, foreign: str) -> None:
    """A message that kombu did not write goes to a separate list, and the messages after it are delivered."""
    put(redis_url, _QUEUE, 1)
    server.lpush(_QUEUE, foreign)
    put(redis_url, _QUEUE, 2, first=1)
    found: list[int] = []

    with consuming(redis_url, [_QUEUE], 2, recording_consumer(found)) as connection:
        drain(connection, lambda: len(found) == 3)
    assert server.lrange("unacked_dead_letter", 0, -1) == [foreign]


def test_failed_delivery_loses_no_other_message(redis_url: str, server: redis.Redis) -> None:
    """If a consumer fails at a message, no message of the same batch is lost."""
    put(redis_url, _QUEUE, 10)
    received: list[int] = []

    def fail(body: Any, _: Any) -> None:
        received.append(body["n"])
        if body["n"] == 4:
            raise RuntimeError("refused by the test")

    with (
        consuming(redis_url, [_QUEUE], 20, fail) as connection,
        pytest.raises(RuntimeError, match="refused by the test"),
    ):
        drain(connection, lambda: len(received) == 10)
    queued: Any = server.llen(_QUEUE)
    unacked: Any = server.hlen("unacked")
    assert queued + unacked == 10


def test_channel_renews_its_client_with_its_pool(redis_url: str) -> None:
    """A channel uses one client for all commands.

    After a reconnect has replaced the pool, the channel uses a new client.
    """
    with Connection(redis_url) as connection:
        channel: Any = connection.default_channel
        before = channel._create_client()
        assert channel._create_client() is before
        channel._disconnect_pools()
        after = channel._create_client()
        assert after is not before
        assert after.ping()


def test_running_task_is_acknowledged_over_the_next_connection(redis_url: str, server: redis.Redis) -> None:
    """A closing connection requeues tasks that have not started.

    Running tasks are acknowledged later, each exactly once.
    """
    running: list[str] = []
    transport.install(lambda: running)
    messages: list[Any] = []
    put(redis_url, _QUEUE, 4)
    with consuming(redis_url, [_QUEUE], 4, lambda _, message: messages.append(message)) as connection:
        drain(connection, lambda: len(messages) == 4)
        for number, message in enumerate(messages):
            message.headers["id"] = str(number)
        running += ["0", "1"]
    assert (server.llen(_QUEUE), server.hlen("unacked")) == (2, 2)
    for message in messages[:2]:
        message.ack()
    found: list[int] = []

    with consuming(redis_url, [_QUEUE], 4, recording_consumer(found)) as connection:
        drain(connection, lambda: len(found) == 2)
    assert sorted(found) == [2, 3]
    assert server.hlen("unacked") == 0


def test_waiting_takes_no_message(redis_url: str, server: redis.Redis) -> None:
    """A message stays in its queue until a waiting consumer can take it. Then, the consumer fetches it at once."""
    found: list[int] = []

    with consuming(redis_url, ["other", _QUEUE], 8, recording_consumer(found)) as connection:
        for _ in range(3):
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.05)
        # No one calls `drain_events` now, so the reply for the waiting consumer stays in its socket.
        put(redis_url, _QUEUE, 1)
        time.sleep(0.2)
        assert server.llen(_QUEUE) == 1
        drain(connection, lambda: found == [0])


def test_draining_ends_with_a_message_or_in_time(redis_url: str) -> None:
    """`drain_events` on an empty queue lasts until its timeout, whatever Redis replies to the waiting listeners."""
    with consuming(redis_url, ["one", "two"], 8, lambda *_: None) as connection:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=1.5)
        assert time.monotonic() - started >= 1.5


def only_listener(connection: Any) -> Any:
    """Return the queue listener of a connection that consumes from one list."""
    ((listener,),) = [channel.listeners() for channel in connection.transport.channels if channel.active_queues]
    return listener


_ONE_LIST: dict[str, Any] = {"transport_options": {"priority_steps": [0]}}


def test_unread_reply_does_not_count_as_missing(redis_url: str, server: redis.Redis) -> None:
    """After a process was stopped for a minute, it receives the messages that it had requested."""
    put(redis_url, _QUEUE, 3)
    found: list[int] = []
    with consuming(redis_url, [_QUEUE], 8, recording_consumer(found), **_ONE_LIST) as connection:
        cycle, listener = connection.transport.cycle, only_listener(connection)
        cycle.on_poll_start()
        assert select.select([listener.client.connection._sock], [], [], PATIENCE)[0]
        listener._sent_at -= 60
        cycle.flush_and_close_dead()
        drain(connection, lambda: found == [0, 1, 2])
    assert not server.exists("unacked")


def test_gives_up_a_silent_connection(redis_url: str) -> None:
    """A connection without replies is closed. The next connection delivers the messages that were queued since then."""
    found: list[int] = []
    with consuming(redis_url, [_QUEUE], 8, recording_consumer(found), **_ONE_LIST) as connection:
        drain(connection, lambda: True)
        cycle, listener = connection.transport.cycle, only_listener(connection)
        cycle.on_poll_start()
        before = listener.client.connection._sock
        listener._sent_at -= 60
        cycle.flush_and_close_dead()
        assert listener.client.connection._sock is None
        put(redis_url, _QUEUE, 1)
        drain(connection, lambda: found == [0])
        assert listener.client.connection._sock is not before


@pytest.mark.parametrize("option", [{"polling_interval": 0}, {"health_check_interval": 0}])
def test_tolerates_silence_without_a_bound(redis_url: str, option: dict[str, int]) -> None:
    """A connection without replies is kept if Redis is allowed to wait without a limit, or if health checks are off."""
    options = {"transport_options": {"priority_steps": [0], **option}}
    with consuming(redis_url, [_QUEUE], 8, lambda *_: None, **options) as connection:
        drain(connection, lambda: only_listener(connection)._reserving is None)
        cycle, listener = connection.transport.cycle, only_listener(connection)
        cycle.on_poll_start()
        before = listener.client.connection._sock
        listener._sent_at -= 3600
        cycle.flush_and_close_dead()
        assert listener.client.connection._sock is before


@pytest.mark.parametrize("event", [READ, ERR], ids=["read", "error"])
def test_server_may_close_an_idle_connection(redis_url: str, server: redis.Redis, event: int) -> None:
    """If Redis closes the connection of a full consumer, the consumer opens another one when it has room again."""
    put(redis_url, _QUEUE, 2)
    messages: list[Any] = []
    with consuming(redis_url, [_QUEUE], 1, lambda _, message: messages.append(message), **_ONE_LIST) as connection:
        drain(connection, lambda: len(messages) == 1)
        listener = only_listener(connection)
        connected = listener.client.connection._sock
        server.client_kill_filter(_type="normal", skipme=True)
        assert select.select([connected], [], [], PATIENCE)[0]
        with suppress(Empty):
            connection.transport.cycle.handle_event(connected.fileno(), event)
        assert listener.client.connection._sock is None
        messages[0].ack()
        drain(connection, lambda: len(messages) == 2)


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_messages_after_the_end_are_requeued(redis_url: str, server: redis.Redis, end: str) -> None:
    """If requested messages arrive after their consumer has ended, they are requeued."""
    put(redis_url, _QUEUE, 3)
    found: list[int] = []
    with Connection(redis_url, **_ONE_LIST) as connection:
        channel: Any = connection.channel()
        queue = Queue(_QUEUE, Exchange(_QUEUE), routing_key=_QUEUE)
        with Consumer(channel, [queue], callbacks=[recording_consumer(found)]):
            connection.transport.cycle.on_poll_start()
            assert select.select([only_listener(connection).client.connection._sock], [], [], PATIENCE)[0]
        if end == "close":
            channel.close()
        else:
            drain(connection, lambda: bool(server.llen(_QUEUE)))
        assert server.llen(_QUEUE) == 3
    assert found == []
    assert not server.exists("unacked")


def test_full_channel_blocks_no_other(redis_url: str) -> None:
    """A channel never waits for another channel of its connection, whether that channel is full or has room again."""
    put(redis_url, "one", 2)
    taken: list[Any] = []
    found: list[int] = []
    with consuming(redis_url, ["one"], 1, lambda _, message: taken.append(message), **_ONE_LIST) as connection:
        drain(connection, lambda: len(taken) == 1)
        other = connection.channel()
        with Consumer(other, [Queue("two", Exchange("two"), routing_key="two")], callbacks=[recording_consumer(found)]):
            put(redis_url, "two", 3, first=10)
            drain(connection, lambda: found == [10, 11, 12])
            assert len(taken) == 1
            taken[0].ack()
            drain(connection, lambda: len(taken) == 2)


def test_event_loop_follows_a_new_connection(redis_url: str) -> None:
    """redis-py can replace a connection between two ticks of a worker's event loop.

    Each connection is registered once.
    """
    found: list[int] = []
    hub = Hub()
    registered: list[int] = []
    add_reader = hub.add_reader

    def add(place: int, *callback: Any) -> None:
        registered.append(place)
        add_reader(place, *callback)

    hub.add_reader = add

    def tick_once() -> bool:
        for tick in list(hub.on_tick):
            tick()
        for place, _ in hub.poller.poll(0.05):
            callback, arguments = hub.readers[place]
            with suppress(Empty):
                callback(*arguments)
        return bool(found)

    try:
        with consuming(redis_url, [_QUEUE], 8, recording_consumer(found), **_ONE_LIST) as connection:
            connection.register_with_event_loop(hub)
            for number in range(3):
                tick_once()
                only_listener(connection).client.connection.disconnect()
                only_listener(connection).client.connection.connect()
                put(redis_url, _QUEUE, 1, first=number)
                wait_for(tick_once)
                assert found == [number]
                found.clear()
        assert len(registered) == 4
    finally:
        hub.close()


def test_waiting_is_not_polling(redis_url: str, server: redis.Redis) -> None:
    """While the queues of a consumer are empty, it sends one command a second for each queue."""

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


def test_higher_priorities_come_first(redis_url: str) -> None:
    """If priorities are configured, a message overtakes all messages of lower priority. Priority 0 is the highest."""
    options: dict[str, Any] = {"transport_options": {"priority_steps": [0, 5]}}
    with Connection(redis_url, **options) as connection:
        producer = connection.Producer()
        queue = Queue(_QUEUE, Exchange(_QUEUE), routing_key=_QUEUE)
        for number, priority in [(0, 5), (1, 5), (2, 0), (3, 0)]:
            producer.publish(
                {"n": number}, exchange=queue.exchange, routing_key=_QUEUE, declare=[queue], priority=priority
            )
    found: list[int] = []

    with consuming(redis_url, [_QUEUE], 2, recording_consumer(found), **options) as connection:
        drain(connection, lambda: len(found) == 4)
    assert found == [2, 3, 0, 1]


def test_lists_may_outnumber_the_connections(redis_url: str) -> None:
    """A consumer may have more lists than command connections, because kombu's default is four lists for each queue."""
    found: list[int] = []
    queues = ["one", "two", "three"]
    with consuming(
        redis_url, queues, 8, recording_consumer(found), transport_options={"max_connections": 2}
    ) as connection:
        drain(connection, lambda: True)
        for number, queue in enumerate(queues):
            put(redis_url, queue, 1, first=number)
        drain(connection, lambda: sorted(found) == [0, 1, 2])


def test_prefix_is_put_before_every_key(redis_url: str, server: redis.Redis) -> None:
    """If a key prefix is configured, every key in the broker has this prefix."""
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


def test_acknowledges_where_the_message_came_from(redis_url: str, server: redis.Redis) -> None:
    """If two consumers in one Redis have different prefixes, each consumer sends only its own acknowledgements."""
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
    """If a URL names no database, the database can be given as a number, because kombu allows this."""
    with Connection(f"redis://127.0.0.1:{redis_port}", virtual_host=1) as connection:
        assert connection.default_channel.client.connection_pool.connection_kwargs["db"] == 1


_CONSUMER = """
import sys
from kombu import Connection, Consumer, Exchange, Queue
from tasks.broker import transport
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
    """After ten consumers were killed during work, every message is done, queued or recorded as unacknowledged."""
    total = 4_000
    put(redis_url, _QUEUE, total)
    done: set[int] = set()
    for _ in range(10):
        argv = [sys.executable, "-c", _CONSUMER, redis_url, _QUEUE]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=processes.environment({})) as process:
            assert process.stdout is not None
            for _ in range(20):
                done.add(int(process.stdout.readline()))
            process.kill()
            done |= {int(line) for line in process.stdout.read().split("\n")[:-1] if line}
    queued: Any = server.lrange(_QUEUE, 0, -1)
    records: Any = server.hvals("unacked")
    remaining = [json.loads(one) for one in queued] + [json.loads(one)[0] for one in records]
    numbers = {json.loads(b64decode(one["body"]))["n"] for one in remaining}
    assert done | numbers == set(range(total))
