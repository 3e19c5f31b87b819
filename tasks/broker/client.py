"""The Redis server behind a broker URL: a client for our own keys, and whether it is fit to hold a run.

Celery and kombu read the same URL for themselves. The forms that both sides know are
``redis://[user:password@]host:port/db``, ``rediss://…?ssl_cert_reqs=required&ssl_ca_certs=FILE``,
``redis+socket:///path``, and, for a set of Sentinels, ``sentinel://host:26379/db;sentinel://…?master_name=NAME``.
Celery takes the name of the master from its transport options: see `celery_url` and `master_name`.
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
    "Start Redis there, or check the address (rediss:// for a server that speaks TLS); without --broker a local one is "
    "started for you."
)
_TLS_HINT = (
    "Start Redis there, or check the address. The server has to speak TLS, with a certificate that names this host and "
    "is signed by what IMAGEFLEET_BROKER_CA_FILE or ssl_ca_certs holds."
)
#: Connections that a producer has open at most, that a worker has, and that it opens when it begins to work.
PRODUCER_CONNECTIONS, WORKER_CONNECTIONS, MORE_CONNECTIONS = 12, 24, 8
#: What to do about a server that takes too few.
MORE_CLIENTS_HINT = "Raise `maxclients` of that Redis, and its limit of open files, or stop some of its clients."
#: Seconds for one command of ours; those that wait on purpose add their own wait.
_TIMEOUT_SECONDS = 10.0
#: Seconds for one Sentinel to answer.
_SENTINEL_TIMEOUT_SECONDS = 2.0


def check_url(url: str) -> str:
    """Return the URL if it is one that we can use safely.

    Raises:
        UsageError: an unknown scheme, or TLS that would not be verified.
    """
    if is_sentinel(url):
        return _check_sentinels(url)
    try:
        parts = urlsplit(url)
        _ = parts.port, _database(url)
    except ValueError as error:
        raise UsageError(
            "The broker URL can't be used",
            "its host, port or database is not written as it has to be",
            "Give the URL of a Redis server, such as redis://localhost:6379/0.",
        ) from error
    if parts.scheme not in _SCHEMES:
        raise UsageError(
            f"The broker URL {redacted(url)} can't be used",
            f"its scheme is none of {', '.join(name + '://' for name in _SCHEMES)}",
            "Give the URL of a Redis server, such as redis://localhost:6379/0.",
        )
    query = parse_qs(parts.query)
    if parts.scheme == "rediss" and query.get("ssl_cert_reqs") not in (["required"], ["CERT_REQUIRED"]):
        raise UsageError(
            f"The broker URL {redacted(url)} would not be verified",
            "without ssl_cert_reqs=required any server's certificate is accepted",
            "Add ?ssl_cert_reqs=required to the URL (and ssl_ca_certs=FILE for a CA of your own).",
        )
    if query.get("ssl_check_hostname", ["true"]) != ["true"]:
        raise UsageError(
            f"The broker URL {redacted(url)} would not be verified",
            "without its host name, the certificate of any other host is accepted",
            "Take ssl_check_hostname out of the URL, and give the server a certificate that names its host.",
        )
    return url


def is_sentinel(url: str) -> bool:
    """Tell whether a URL names Sentinels, which know where the master is."""
    return url.startswith("sentinel:")


def master_name(url: str) -> str | None:
    """Return what the Sentinels of a URL call their master; None for a URL without Sentinels."""
    return _parameter(url, "master_name") if is_sentinel(url) else None


def celery_url(url: str) -> str:
    """Return a URL as Celery reads it: kombu takes a query for options of its own, which Sentinels have none of."""
    if not is_sentinel(url):
        return url
    return ";".join(urlsplit(part)._replace(query="").geturl() for part in url.split(";"))


def sentinel_options(url: str) -> dict[str, Any]:
    """Return how the Sentinels of a URL are asked for their master; a dead one is left for the next one at once."""
    password = _parameter(url, "sentinel_password")
    return {
        "socket_timeout": _SENTINEL_TIMEOUT_SECONDS,
        "socket_connect_timeout": _SENTINEL_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        **({"password": password} if password else {}),
    }


def tls(url: str) -> dict[str, str] | None:
    """Return what a URL says of TLS, by redis-py's names; none for a URL without it."""
    return {name: value for name, value in parse_qsl(urlsplit(url).query) if name.startswith("ssl_")} or None


def client(url: str, retry: bool = True) -> redis.Redis:
    """Return a client for the server behind a broker URL; it connects at the first command.

    Args:
        url: the broker's.
        retry: whether a server that is away is tried again for some seconds before a command fails.

    Raises:
        UsageError: the URL is not one that can be used safely, or the certificates that it names can't be read.
    """
    parts = urlsplit(check_url(url))
    trusted = (tls(url) or {}).get("ssl_ca_certs")
    if trusted is not None and not os.access(trusted, os.R_OK):
        raise UsageError(
            f"The broker {redacted(url)} can't be verified",
            f"the file of certificates {trusted} is not there, or can't be read",
            "Put the PEM file of the CA there, readable for this user; IMAGEFLEET_BROKER_CA_FILE or the URL names it.",
        )
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": _TIMEOUT_SECONDS,
        "health_check_interval": 30,
        # A server that became a replica keeps its connections, and the address may lead to the new master by now.
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
    """Make sure that the server answers and never evicts a key.

    Raises:
        CommandError: it can't be reached, refuses the password, or may evict what is queued.
    """
    with translate_errors(url):
        policy = server.info("memory").get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise CommandError(
            f"The broker {redacted(url)} may drop queued images",
            f"its maxmemory-policy is {policy}, which evicts keys when memory is short",
            "Set `maxmemory-policy noeviction` (config/redis.conf has the settings that imagefleet is run with).",
        )


def free_connections(info: Mapping[str, Any]) -> int | None:
    """Return how many more clients a server takes, by its INFO; None where it does not tell."""
    if "maxclients" not in info or "connected_clients" not in info:
        return None
    return int(info["maxclients"]) - int(info["connected_clients"])


def check_connections(server: redis.Redis, url: str, workers: int) -> None:
    """Make sure that a server takes the connections of a producer, and those that workers open during a run.

    Raises:
        CommandError: it can't be reached, or takes too few.
    """
    with translate_errors(url):
        try:
            free = free_connections(server.info("clients"))
        except redis.exceptions.NoPermissionError:
            return
    needed = PRODUCER_CONNECTIONS + workers * MORE_CONNECTIONS
    if free is not None and free < needed:
        raise CommandError(
            f"The broker {redacted(url)} takes too few connections",
            f"it takes {free} more, and this run needs about {needed}",
            MORE_CLIENTS_HINT,
        )


@contextmanager
def translate_errors(url: str) -> Iterator[None]:
    """Make faults of what goes wrong between us and the server behind a broker URL.

    Raises:
        CommandError: it can't be reached, refuses us, or is no Redis.
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
            todo = _TLS_HINT if url.startswith("rediss:") else _CONNECT_HINT
            raise CommandError(f"The broker {shown} can't be reached", str(error) or "no answer", todo) from error
        if isinstance(error, redis.ResponseError):
            raise CommandError(f"The broker {shown} refuses us", problem.text, problem.hint) from error
        raise CommandError(
            f"What answers at {shown} is no Redis", str(error), "Check the host and the port in the URL."
        ) from error


def _check_sentinels(url: str) -> str:
    """Return the URL of Sentinels if it can be used.

    Raises:
        UsageError: one of its parts is no Sentinel's, or it does not name one master.
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
            "each part between semicolons has to be sentinel://host:port/db, and db the same in all",
            f"Write it as {example}.",
        )
    if any(name not in _SENTINEL_PARAMETERS for part in parts for name in parse_qs(part.query)):
        raise UsageError(
            f"The broker URL {redacted(url)} can't be used",
            f"a sentinel:// URL has no parameters but {' and '.join(_SENTINEL_PARAMETERS)}; TLS is not supported there",
            f"Write it as {example}.",
        )
    if master_name(url) is None:
        raise UsageError(
            f"The broker URL {redacted(url)} can't be used",
            "it does not say which master to use",
            f"Add the name that the Sentinels know it by (`SENTINEL MASTERS` shows it), as in {example}.",
        )
    return url


def _parameter(url: str, name: str) -> str | None:
    """Return a parameter of a URL of Sentinels, which any of its parts may have; None without one, or with several."""
    values = {value for part in url.split(";") for value in parse_qs(urlsplit(part).query).get(name, ())}
    return values.pop() if len(values) == 1 else None


def _master_client(url: str, options: dict[str, Any]) -> redis.Redis:
    """Return a client for whichever server the Sentinels call the master, also after a failover."""
    parts = [urlsplit(part) for part in url.split(";")]
    hosts = [(part.hostname, part.port or _SENTINEL_PORT) for part in parts]
    first = parts[0]
    # redis-py has no types for these.
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
    """Return the number of the database, which a Unix socket's URL has in its query.

    Raises:
        ValueError: it is no number.
    """
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        return int(parse_qs(parts.query).get("virtual_host", ["0"])[0])
    return int(parts.path.strip("/") or 0)
