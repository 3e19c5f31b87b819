"""A broker is accepted only if its URL has a safe form and its server never evicts keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.broker import client as broker_client
from tasks.errors import CommandError, UsageError
from tasks.redaction import redacted
from tests.integration import processes

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
    "nothing": ("", "can't be used: its scheme is not one of redis://"),
    "no scheme": ("localhost:6379", "can't be used"),
    "AMQP": ("amqp://user:secret@rabbit.example//", "can't be used"),
    "no master": ("sentinel://:secret@one.example:26379/0", "does not name exactly one master"),
    "two masters": (
        "sentinel://one.example/0?master_name=a;sentinel://two.example/0?master_name=b",
        "exactly one master",
    ),
    "no Sentinel": (
        "sentinel://one.example:26379/0;redis://:secret@two.example:6379/0",
        "each part between semicolons",
    ),
    "two databases": ("sentinel://one.example/0;sentinel://two.example/1?master_name=a", "the same db in all"),
    "Sentinels with TLS": ("sentinel://one.example/0?master_name=a&ssl_cert_reqs=required", "TLS is not supported"),
    "TLS without verification": ("rediss://:secret@redis.example/0", "would not be verified: without ssl_cert_reqs"),
    "TLS verification off": ("rediss://:secret@redis.example/0?ssl_cert_reqs=none", "would not be verified"),
    "TLS verified once": ("rediss://redis.example/?ssl_cert_reqs=required&ssl_cert_reqs=none", "not be verified"),
    "optional TLS": ("rediss://redis.example/0?ssl_cert_reqs=optional", "would not be verified"),
    "port not a number": ("redis://:secret@redis.example:port/0", "can't be used"),
    "IPv6 without its end": ("redis://:secret@[::1:6379/0", "can't be used"),
    "database not a number": ("redis://:secret@redis.example:6379/first", "can't be used"),
}


@pytest.mark.parametrize("url", _GOOD)
def test_accepts_documented_urls(url: str) -> None:
    """The documented forms are accepted unchanged."""
    assert broker_client.check_url(url) == url


@pytest.mark.parametrize(("url", "message"), _BAD.values(), ids=_BAD)
def test_refuses_other_urls(url: str, message: str) -> None:
    """Other forms, and TLS without verification, are refused before anything is sent. Passwords stay hidden."""
    with pytest.raises(UsageError) as caught:
        broker_client.check_url(url)
    assert message in str(caught.value)
    assert "secret" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint.endswith(".")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://user:wo%40rd@h.example:7/3", {"host": "h.example", "port": 7, "db": 3, "password": "wo@rd"}),
        ("redis+socket:///run/redis.sock?virtual_host=2", {"path": "/run/redis.sock", "db": 2}),
        ("redis+socket:///run/redis.sock", {"path": "/run/redis.sock", "db": 0}),
        ("redis+socket://user:wo%40rd@/run/redis.sock", {"username": "user", "password": "wo@rd"}),
    ],
)
def test_client_uses_the_url(url: str, expected: dict[str, object]) -> None:
    """A client has the address, the database and the credentials of its URL."""
    options = broker_client.client(url).connection_pool.connection_kwargs
    assert {name: options.get(name) for name in expected} == expected
    assert options["socket_timeout"]


def test_client_of_sentinels() -> None:
    """The client sends the Sentinels' password to each Sentinel, and the URL's password to the master."""
    url = "sentinel://user:wo%40rd@one.example:7/2;sentinel://two.example/2?master_name=main&sentinel_password=other"
    pool: Any = broker_client.client(url).connection_pool
    assert (pool.service_name, pool.is_master) == ("main", True)
    known = pool.connection_kwargs
    assert (known["db"], known["username"], known["password"], known["decode_responses"]) == (2, "user", "wo@rd", True)
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"], one["password"]) for one in asked] == [
        ("one.example", 7, "other"),
        ("two.example", 26379, "other"),
    ]


def test_celery_gets_urls_it_understands() -> None:
    """Our own parameters are removed from the URL, because kombu would mistake them for its own options."""
    url = "sentinel://one.example:7/2?master_name=main;sentinel://two.example/2?sentinel_password=other"
    assert broker_client.celery_url(url) == "sentinel://one.example:7/2;sentinel://two.example/2"
    assert broker_client.master_name(url) == "main"
    assert [broker_client.celery_url(url) for url in _GOOD[:8]] == _GOOD[:8]
    assert "other" not in redacted(url)


@contextmanager
def impatient(url: str) -> Iterator[redis.Redis]:
    """Give a client that does not retry, so that errors come at once."""
    with broker_client.client(url) as client:
        client.set_retry(Retry(NoBackoff(), 0))
        yield client


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Give a client of a server, and restore the server's settings at the end."""
    with broker_client.client(redis_url) as client:
        yield client
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("requirepass", "")


def test_accepts_a_good_server(server: redis.Redis, redis_url: str) -> None:
    """A server is accepted if it responds and has the policy noeviction."""
    broker_client.check_server(server, redis_url)
    assert server.ping()


def test_refuses_an_evicting_server(server: redis.Redis, redis_url: str) -> None:
    """An evicting server is refused, because it could lose a queue. The error names the setting to change."""
    server.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(CommandError, match="its maxmemory-policy is allkeys-lru") as caught:
        broker_client.check_server(server, redis_url)
    assert "maxmemory-policy noeviction" in caught.value.hint


def test_reports_a_missing_or_wrong_password(server: redis.Redis, redis_url: str) -> None:
    """If the password is missing or wrong, the error gives this as the cause. The password is never shown."""
    server.config_set("requirepass", "right")
    path = redis_url.removeprefix("redis+socket://")
    for url in (redis_url, f"redis+socket://:secret@{path}"):
        with impatient(url) as other, pytest.raises(CommandError, match="refuses us") as caught:
            broker_client.check_server(other, url)
        assert "secret" not in str(caught.value)
        assert "password" in caught.value.hint
    with impatient(f"redis+socket://:right@{path}") as other:
        broker_client.check_server(other, redis_url)
        assert other.config_set("requirepass", "")


def test_reports_an_error_of_redis(server: redis.Redis, redis_url: str) -> None:
    """Redis's error message is reported with advice."""
    server.acl_setuser("default", enabled=True, commands=["-info"])
    try:
        with pytest.raises(CommandError, match="refuses us: NOPERM") as caught:
            broker_client.check_server(server, redis_url)
    finally:
        server.acl_setuser("default", enabled=True, commands=["+info"])
    assert "config/users.acl" in caught.value.hint


def test_unreachable_sentinels_end_the_command_soon() -> None:
    """If the Sentinels are unreachable, the error names the requested master and says how to fix the URL."""
    url = f"sentinel://127.0.0.1:{processes.free_port()}/0?master_name=mymaster"
    with (
        broker_client.client(url, retry=False) as client,
        pytest.raises(CommandError, match="can't be used now") as caught,
    ):
        broker_client.check_server(client, url)
    assert "No master found for 'mymaster'" in str(caught.value)
    assert "master_name" in caught.value.hint


def test_unreachable_server_is_named_without_its_password(tmp_path: Path) -> None:
    """The error for an unreachable server has the URL with a redacted password."""
    url = f"redis+socket://:secret@{tmp_path}/redis.sock"
    with impatient(url) as client, pytest.raises(CommandError, match="can't be reached") as caught:
        broker_client.check_server(client, url)
    assert str(tmp_path) in str(caught.value)
    assert "secret" not in str(caught.value)
