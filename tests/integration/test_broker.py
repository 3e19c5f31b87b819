"""A broker URL is one of the forms that can be used safely, and a server is one that keeps what is queued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks import broker
from tasks.errors import Fault, UsageFault
from tasks.urls import masked
from tests.integration import parts

_GOOD = [
    "redis://localhost",
    "redis://localhost:6379/0",
    "redis://user:word@redis.example:6379/3",
    "redis://:word@[::1]:6379/0",
    "rediss://redis.example:6379/0?ssl_cert_reqs=required",
    "rediss://redis.example:6379/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/ca.pem",
    "redis+socket:///run/redis.sock",
    "redis+socket:///run/redis.sock?virtual_host=2",
    "sentinel://one.example:26379/0?master_name=mymaster",
    "sentinel://user:word@one.example:26379/2;sentinel://two.example/2?master_name=mymaster&sentinel_password=other",
]
_BAD = {
    "nothing": ("", "can't be used: its scheme is none of redis://"),
    "no scheme": ("localhost:6379", "can't be used"),
    "AMQP": ("amqp://user:secret@rabbit.example//", "can't be used"),
    "no master": ("sentinel://:secret@one.example:26379/0", "does not say which master"),
    "two masters": ("sentinel://one.example/0?master_name=a;sentinel://two.example/0?master_name=b", "which master"),
    "no Sentinel": (
        "sentinel://one.example:26379/0;redis://:secret@two.example:6379/0",
        "each part between semicolons",
    ),
    "two databases": ("sentinel://one.example/0;sentinel://two.example/1?master_name=a", "db the same in all"),
    "Sentinels with TLS": ("sentinel://one.example/0?master_name=a&ssl_cert_reqs=required", "TLS is not supported"),
    "TLS that is not verified": ("rediss://:secret@redis.example/0", "would not be verified: without ssl_cert_reqs"),
    "TLS that is switched off": ("rediss://:secret@redis.example/0?ssl_cert_reqs=none", "would not be verified"),
    "TLS verified once": ("rediss://redis.example/?ssl_cert_reqs=required&ssl_cert_reqs=none", "not be verified"),
    "TLS that is optional": ("rediss://redis.example/0?ssl_cert_reqs=optional", "would not be verified"),
    "port that is no number": ("redis://:secret@redis.example:port/0", "can't be used"),
    "IPv6 without its end": ("redis://:secret@[::1:6379/0", "can't be used"),
    "database that is no number": ("redis://:secret@redis.example:6379/first", "can't be used"),
}


@pytest.mark.parametrize("url", _GOOD)
def test_url_that_can_be_used(url: str) -> None:
    """The documented forms are taken as they are."""
    assert broker.check_url(url) == url


@pytest.mark.parametrize(("url", "message"), _BAD.values(), ids=_BAD)
def test_url_that_can_not_be_used(url: str, message: str) -> None:
    """Other forms, and TLS that verifies nobody, are refused before anything is sent; no password is told."""
    with pytest.raises(UsageFault) as caught:
        broker.check_url(url)
    assert message in str(caught.value)
    assert "secret" not in f"{caught.value} {caught.value.todo}"
    assert caught.value.todo.endswith(".")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://user:wo%40rd@h.example:7/3", {"host": "h.example", "port": 7, "db": 3, "password": "wo@rd"}),
        ("redis+socket:///run/redis.sock?virtual_host=2", {"path": "/run/redis.sock", "db": 2}),
        ("redis+socket:///run/redis.sock", {"path": "/run/redis.sock", "db": 0}),
        ("redis+socket://user:wo%40rd@/run/redis.sock", {"username": "user", "password": "wo@rd"}),
    ],
)
def test_client_is_for_the_url(url: str, expected: dict[str, object]) -> None:
    """A client has the address, the database and the credentials of its URL."""
    options = broker.client(url).connection_pool.connection_kwargs
    assert {name: options.get(name) for name in expected} == expected
    assert options["socket_timeout"]


def test_client_of_sentinels() -> None:
    """It asks each Sentinel with their own password, and the master with that of the URL."""
    url = "sentinel://user:wo%40rd@one.example:7/2;sentinel://two.example/2?master_name=main&sentinel_password=other"
    pool: Any = broker.client(url).connection_pool
    assert (pool.service_name, pool.is_master) == ("main", True)
    known = pool.connection_kwargs
    assert (known["db"], known["username"], known["password"], known["decode_responses"]) == (2, "user", "wo@rd", True)
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"], one["password"]) for one in asked] == [
        ("one.example", 7, "other"),
        ("two.example", 26379, "other"),
    ]


def test_celery_is_given_urls_that_it_reads() -> None:
    """kombu would take a parameter for an option of its own."""
    url = "sentinel://one.example:7/2?master_name=main;sentinel://two.example/2?sentinel_password=other"
    assert broker.celery_url(url) == "sentinel://one.example:7/2;sentinel://two.example/2"
    assert broker.master_name(url) == "main"
    assert [broker.celery_url(url) for url in _GOOD[:8]] == _GOOD[:8]
    assert "other" not in masked(url)


@contextmanager
def impatient(url: str) -> Iterator[redis.Redis]:
    """A client that tries once: what is tested is what it says, not for how long it tries."""
    with broker.client(url) as client:
        client.set_retry(Retry(NoBackoff(), 0))
        yield client


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """A client whose server's settings are put back at the end."""
    with broker.client(redis_url) as client:
        yield client
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("requirepass", "")


def test_fit_server(server: redis.Redis, redis_url: str) -> None:
    """A server that answers and evicts nothing may hold a run."""
    broker.check_server(server, redis_url)
    assert server.ping()


def test_server_that_evicts_is_refused(server: redis.Redis, redis_url: str) -> None:
    """A server that may drop a queue is refused, with the setting to change."""
    server.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(Fault, match="its maxmemory-policy is allkeys-lru") as caught:
        broker.check_server(server, redis_url)
    assert "maxmemory-policy noeviction" in caught.value.todo


def test_password_is_asked_for(server: redis.Redis, redis_url: str) -> None:
    """A server that wants a password says so, and a wrong one is not told to anybody."""
    server.config_set("requirepass", "right")
    path = redis_url.removeprefix("redis+socket://")
    for url in (redis_url, f"redis+socket://:secret@{path}"):
        with impatient(url) as other, pytest.raises(Fault, match="refuses us") as caught:
            broker.check_server(other, url)
        assert "secret" not in str(caught.value)
        assert "password" in caught.value.todo
    with impatient(f"redis+socket://:right@{path}") as other:
        broker.check_server(other, redis_url)
        assert other.config_set("requirepass", "")


def test_server_that_answers_with_an_error(server: redis.Redis, redis_url: str) -> None:
    """What Redis says is told, with what to do about it."""
    server.acl_setuser("default", enabled=True, commands=["-info"])
    try:
        with pytest.raises(Fault, match="refuses us: NOPERM") as caught:
            broker.check_server(server, redis_url)
    finally:
        server.acl_setuser("default", enabled=True, commands=["+info"])
    assert "config/users.acl" in caught.value.todo


def test_sentinels_that_are_not_there() -> None:
    """A command ends soon, and says what the Sentinels of its URL were asked for."""
    url = f"sentinel://127.0.0.1:{parts.free_port()}/0?master_name=mymaster"
    with broker.client(url, patient=False) as client, pytest.raises(Fault, match="can't be used now") as caught:
        broker.check_server(client, url)
    assert "No master found for 'mymaster'" in str(caught.value)
    assert "master_name" in caught.value.todo


def test_server_that_is_not_there(tmp_path: Path) -> None:
    """A server that can't be reached is a fault with the URL, masked."""
    url = f"redis+socket://:secret@{tmp_path}/redis.sock"
    with impatient(url) as client, pytest.raises(Fault, match="can't be reached") as caught:
        broker.check_server(client, url)
    assert str(tmp_path) in str(caught.value)
    assert "secret" not in str(caught.value)
