"""Connect to the Redis server of a broker URL, and check that the server can hold a run.

Celery and kombu parse the same URL with their own code. Celery, kombu and this module support these forms:
``redis://[user:password@]host:port/db``, ``rediss://…?ssl_cert_reqs=required&ssl_ca_certs=FILE``,
``redis+socket:///path``, and, for a set of Sentinels, ``sentinel://host:26379/db;sentinel://…?master_name=NAME``.
Celery takes the master's name from its transport options: see `celery_url` and `master_name`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from tasks.broker.redis_errors import redis_problem
from tasks.errors import CommandError, UsageError
from tasks.redaction import redacted

_SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")
_SENTINEL_PORT = 26379
_SENTINEL_PARAMETERS = ("master_name", "sentinel_password")
_CONNECT_HINT = (
    "Start Redis there, or check the address (rediss:// for a server with TLS). Without --broker, a local Redis is "
    "started for you."
)
_TLS_HINT = (
    "Start Redis there, or check the address. The server must use TLS, with a certificate for this host name, signed "
    "by the CA in IMAGEFLEET_BROKER_CA_FILE or ssl_ca_certs."
)
_SOCKET_HINT = (
    "Check that the fleet or the Redis there is still running. A local fleet restarts its Redis within seconds, so try "
    "again."
)
_HINTS = {"rediss": _TLS_HINT, "redis+socket": _SOCKET_HINT}
#: Three numbers of connections: the maximum for a producer, the maximum for a worker, and the number that a worker adds
#: when it starts to work.
PRODUCER_CONNECTIONS, WORKER_CONNECTIONS, MORE_CONNECTIONS = 12, 24, 8
#: The hint for a server with too few free connections.
MORE_CLIENTS_HINT = "Raise that Redis's `maxclients` and its limit of open files, or stop some of its clients."
#: Timeout for one command, in seconds. A blocking command gets its own blocking time in addition.
_TIMEOUT_SECONDS = 10.0
#: Timeout for one Sentinel, in seconds.
_SENTINEL_TIMEOUT_SECONDS = 2.0


def check_url(url: str) -> str:
    """Return the URL if it is valid and safe.

    Raises:
        UsageError: the scheme is unknown, or TLS would not be verified.
    """
    if is_sentinel(url):
        return _check_sentinels(url)
    try:
        parts = urlsplit(url)
        _ = parts.port, _database(url)
    except ValueError as error:
        raise UsageError(
            "The broker URL can't be used",
            "its host, port or database is not valid",
            "Give the URL of a Redis server, such as redis://localhost:6379/0.",
        ) from error
    if parts.scheme not in _SCHEMES:
        raise UsageError(
            f"The broker URL {redacted(url)} can't be used",
            f"its scheme is not one of {', '.join(name + '://' for name in _SCHEMES)}",
            "Give the URL of a Redis server, such as redis://localhost:6379/0.",
        )
    query = parse_qs(parts.query)
    if parts.scheme == "rediss" and query.get("ssl_cert_reqs") not in (["required"], ["CERT_REQUIRED"]):
        raise UsageError(
            f"The broker at {redacted(url)} would not be verified",
            "without ssl_cert_reqs=required, any server's certificate is accepted",
            "Add ?ssl_cert_reqs=required to the URL (and ssl_ca_certs=FILE for a CA of your own).",
        )
    if query.get("ssl_check_hostname", ["true"]) != ["true"]:
        raise UsageError(
            f"The broker at {redacted(url)} would not be verified",
            "without a check of the host name, any other host's certificate is accepted",
            "Remove ssl_check_hostname from the URL, and give the server a certificate for its host name.",
        )
    return url


def is_sentinel(url: str) -> bool:
    """Return whether a URL names Sentinels, which know the master's address."""
    return url.startswith("sentinel:")


def master_name(url: str) -> str | None:
    """Return the master's name in a Sentinel URL; None for a URL without Sentinels."""
    return _parameter(url, "master_name") if is_sentinel(url) else None


def celery_url(url: str) -> str:
    """Return the URL for Celery. A Sentinel URL loses its query, because kombu would read the query as options."""
    if not is_sentinel(url):
        return url
    return ";".join(urlsplit(part)._replace(query="").geturl() for part in url.split(";"))


def sentinel_options(url: str) -> dict[str, Any]:
    """Return the client options for a URL's Sentinels. The clients do not retry, so that a dead Sentinel is skipped."""
    password = _parameter(url, "sentinel_password")
    return {
        "socket_timeout": _SENTINEL_TIMEOUT_SECONDS,
        "socket_connect_timeout": _SENTINEL_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        **({"password": password} if password else {}),
    }


def tls(url: str) -> dict[str, str] | None:
    """Return a URL's TLS options under redis-py's names; None for a URL without TLS options."""
    return {name: value for name, value in parse_qsl(urlsplit(url).query) if name.startswith("ssl_")} or None


def client(url: str, retry: bool = True) -> redis.Redis:
    """Return a client for a broker URL's server. The client connects when its first command is called.

    Args:
        url: the broker's URL.
        retry: whether a command to an unreachable server is retried for some seconds before it fails.

    Raises:
        UsageError: the URL is not valid or not safe, or its certificate file can't be read.
    """
    parts = urlsplit(check_url(url))
    trusted = (tls(url) or {}).get("ssl_ca_certs")
    if trusted is not None and not os.access(trusted, os.R_OK):
        raise UsageError(
            f"The broker {redacted(url)} can't be verified",
            f"the certificate file {trusted} does not exist or can't be read",
            "Put the CA's PEM file at this path, and let this user read it. The path comes from "
            "IMAGEFLEET_BROKER_CA_FILE or from the URL.",
        )
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": _TIMEOUT_SECONDS,
        "health_check_interval": 30,
        # When a server becomes a replica, it refuses writes but keeps its connections open. So retry on a new
        # connection, which may lead to the new master.
        "retry_on_error": [redis.exceptions.ReadOnlyError],
    }
    if not retry:
        options["retry"] = Retry(NoBackoff(), 0)
    if is_sentinel(url):
        return _master_client(url, options)
    if parts.scheme == "redis+socket":
        return redis.Redis(
            unix_socket_path=parts.path,
            db=_database(url),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            **options,
        )
    return redis.Redis.from_url(url, socket_connect_timeout=_TIMEOUT_SECONDS, **options)


def check_server(server: redis.Redis, url: str) -> None:
    """Check that the server answers and never evicts keys.

    Raises:
        CommandError: the server is unreachable, refuses the password, or may evict queued tasks.
    """
    with translate_errors(url):
        policy = server.info("memory").get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise CommandError(
            f"The broker {redacted(url)} may drop queued images",
            f"its maxmemory-policy is {policy}, which evicts keys when memory is short",
            "Set `maxmemory-policy noeviction` (config/redis.conf has the recommended settings).",
        )


def free_connections(info: Mapping[str, Any]) -> int | None:
    """Return the server's number of free connections from its INFO reply; None if the reply lacks this number."""
    if "maxclients" not in info or "connected_clients" not in info:
        return None
    return int(info["maxclients"]) - int(info["connected_clients"])


def check_connections(server: redis.Redis, url: str, workers: int) -> None:
    """Check that the server has enough free connections for a producer and for its workers during a run.

    Raises:
        CommandError: the server is unreachable, or has too few free connections.
    """
    with translate_errors(url):
        try:
            free = free_connections(server.info("clients"))
        except redis.exceptions.NoPermissionError:
            return
    needed = PRODUCER_CONNECTIONS + workers * MORE_CONNECTIONS
    if free is not None and free < needed:
        raise CommandError(
            f"The broker {redacted(url)} has too few free connections",
            f"the number of free connections is {free}, but this run needs about {needed}",
            MORE_CLIENTS_HINT,
        )


@contextmanager
def translate_errors(url: str) -> Iterator[None]:
    """Convert Redis errors of the block into CommandErrors that name the broker.

    Raises:
        CommandError: the broker is unreachable, refuses us, or is not a Redis.
    """
    shown = redacted(url)
    try:
        yield
    except redis.RedisError as error:
        problem = redis_problem(error)
        if problem.code:
            what = f"The broker {shown} can't be used now" if problem.temporary else f"The broker {shown} refuses us"
            raise CommandError(what, problem.text, problem.hint) from error
        if isinstance(error, redis.ConnectionError | redis.TimeoutError):
            hint = _HINTS.get(url.partition(":")[0], _CONNECT_HINT)
            raise CommandError(f"The broker {shown} can't be reached", str(error) or "no answer", hint) from error
        if isinstance(error, redis.ResponseError):
            raise CommandError(f"The broker {shown} refuses us", problem.text, problem.hint) from error
        raise CommandError(
            f"The server at {shown} is not a Redis server", str(error), "Check the host and the port in the URL."
        ) from error


def _check_sentinels(url: str) -> str:
    """Check the URL of Sentinels, and return it unchanged.

    Raises:
        UsageError: a part of the URL is not a Sentinel's URL, or the URL does not name exactly one master.
    """
    example = "sentinel://one.example:26379/0;sentinel://two.example:26379/0?master_name=mymaster"
    try:
        parts = [urlsplit(part) for part in url.split(";")]
        fit = all(part.scheme == "sentinel" and part.hostname and (part.port or True) for part in parts)
        databases = {int(part.path.strip("/") or 0) for part in parts}
    except ValueError:
        fit, databases = False, set()
    if not fit or len(databases) != 1:
        raise UsageError(
            "The broker URL can't be used",
            "each part between semicolons must be sentinel://host:port/db, with the same db in all parts",
            f"Write it as {example}.",
        )
    if any(name not in _SENTINEL_PARAMETERS for part in parts for name in parse_qs(part.query)):
        raise UsageError(
            f"The broker URL {redacted(url)} can't be used",
            f"a sentinel:// URL accepts only the parameters {' and '.join(_SENTINEL_PARAMETERS)}; TLS is not supported",
            f"Write it as {example}.",
        )
    if master_name(url) is None:
        raise UsageError(
            f"The broker URL {redacted(url)} can't be used",
            "it does not name exactly one master",
            f"Add `master_name` to the URL, with the name that `SENTINEL MASTERS` shows, as in {example}.",
        )
    return url


def _parameter(url: str, name: str) -> str | None:
    """Return a parameter from any part of a Sentinel URL; None if no part has it, or if two parts disagree."""
    values = {value for part in url.split(";") for value in parse_qs(urlsplit(part).query).get(name, ())}
    return values.pop() if len(values) == 1 else None


def _master_client(url: str, options: dict[str, Any]) -> redis.Redis:
    """Return a client that asks the Sentinels for the current master, because a failover changes the master."""
    parts = [urlsplit(part) for part in url.split(";")]
    hosts = [(part.hostname, part.port or _SENTINEL_PORT) for part in parts]
    first = parts[0]
    # redis-py has no type annotations for Sentinel.
    untyped: Any = Sentinel
    sentinel = untyped(hosts, sentinel_kwargs=sentinel_options(url))
    return cast(
        "redis.Redis",
        sentinel.master_for(
            master_name(url),
            db=int(first.path.strip("/") or 0),
            username=unquote(first.username) if first.username else None,
            password=unquote(first.password) if first.password else None,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            **options,
        ),
    )


def _database(url: str) -> int:
    """Return the database number, which a Unix socket's URL gives in its query.

    Raises:
        ValueError: the database is not a number.
    """
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        return int(parse_qs(parts.query).get("virtual_host", ["0"])[0])
    return int(parts.path.strip("/") or 0)
