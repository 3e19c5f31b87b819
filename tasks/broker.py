"""The Redis server behind a broker URL: a client for our own keys, and whether it is fit to hold a run.

Celery and kombu read the same URL for themselves. The forms that both sides know are
``redis://[user:password@]host:port/db``, ``rediss://…?ssl_cert_reqs=required&ssl_ca_certs=FILE`` and
``redis+socket:///path``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.errors import Fault, UsageFault
from tasks.urls import masked

_SCHEMES = ("redis", "rediss", "redis+socket")
_MEND = (
    "Start Redis there, or check the address (rediss:// for a server that speaks TLS); without --broker a local one is "
    "started for you."
)
_MEND_TLS = (
    "Start Redis there, or check the address. The server has to speak TLS, with a certificate that names this host and "
    "is signed by what IMAGEFLEET_BROKER_CA_FILE or ssl_ca_certs holds."
)
#: Seconds for one command of ours; those that wait on purpose add their own wait.
_TIMEOUT = 10.0


def check_url(url: str) -> str:
    """Return the URL if it is one that we can use safely.

    Raises:
        UsageFault: an unknown scheme, or TLS that would not be verified.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port, _database(url)
    except ValueError as error:
        raise UsageFault(
            "The broker URL can't be used",
            "its host, port or database is not written as it has to be",
            "Give the URL of a Redis server, such as redis://localhost:6379/0.",
        ) from error
    if parts.scheme not in _SCHEMES:
        raise UsageFault(
            f"The broker URL {masked(url)} can't be used",
            f"its scheme is none of {', '.join(name + '://' for name in _SCHEMES)}",
            "Give the URL of a Redis server, such as redis://localhost:6379/0.",
        )
    query = parse_qs(parts.query)
    if parts.scheme == "rediss" and query.get("ssl_cert_reqs") not in (["required"], ["CERT_REQUIRED"]):
        raise UsageFault(
            f"The broker URL {masked(url)} would not be verified",
            "without ssl_cert_reqs=required any server's certificate is accepted",
            "Add ?ssl_cert_reqs=required to the URL (and ssl_ca_certs=FILE for a CA of your own).",
        )
    if query.get("ssl_check_hostname", ["true"]) != ["true"]:
        raise UsageFault(
            f"The broker URL {masked(url)} would not be verified",
            "without its host name, the certificate of any other host is accepted",
            "Take ssl_check_hostname out of the URL, and give the server a certificate that names its host.",
        )
    return url


def tls(url: str) -> dict[str, str] | None:
    """Return what a URL says of TLS, by redis-py's names; none for a URL without it."""
    return {name: value for name, value in parse_qsl(urlsplit(url).query) if name.startswith("ssl_")} or None


def client(url: str, patient: bool = True) -> redis.Redis:
    """Return a client for the server behind a broker URL; it connects at the first command.

    Args:
        url: the broker's.
        patient: whether a server that is away is tried again for some seconds before a command fails.

    Raises:
        UsageFault: the URL is not one that can be used safely, or the certificates that it names can't be read.
    """
    parts = urlsplit(check_url(url))
    trusted = (tls(url) or {}).get("ssl_ca_certs")
    if trusted is not None and not os.access(trusted, os.R_OK):
        raise UsageFault(
            f"The broker {masked(url)} can't be verified",
            f"the file of certificates {trusted} is not there, or can't be read",
            "Put the PEM file of the CA there, readable for this user; IMAGEFLEET_BROKER_CA_FILE or the URL names it.",
        )
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": _TIMEOUT,
        "health_check_interval": 30,
        # A server that became a replica keeps its connections, and the address may lead to the new master by now.
        "retry_on_error": [redis.exceptions.ReadOnlyError],
    }
    if not patient:
        options["retry"] = Retry(NoBackoff(), 0)
    if parts.scheme == "redis+socket":
        return redis.Redis(
            unix_socket_path=parts.path,
            db=_database(url),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            **options,
        )
    return redis.Redis.from_url(url, socket_connect_timeout=_TIMEOUT, **options)


def check_server(server: redis.Redis, url: str) -> None:
    """Make sure that the server answers and never evicts a key.

    Raises:
        Fault: it can't be reached, refuses the password, or may evict what is queued.
    """
    with translated(url):
        policy = server.info("memory").get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise Fault(
            f"The broker {masked(url)} may drop queued images",
            f"its maxmemory-policy is {policy}, which evicts keys when memory is short",
            "Set `maxmemory-policy noeviction` (config/redis.conf has the settings that imagefleet is run with).",
        )


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Make faults of what goes wrong between us and the server behind a broker URL.

    Raises:
        Fault: it can't be reached, refuses us, or is no Redis.
    """
    shown = masked(url)
    try:
        yield
    except redis.AuthenticationError as error:
        raise _refused(shown, error) from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Fault(
            f"The broker {shown} can't be reached",
            str(error) or "no answer",
            _MEND_TLS if url.startswith("rediss:") else _MEND,
        ) from error
    except redis.ResponseError as error:
        raise _refused(shown, error) from error
    except redis.RedisError as error:
        raise Fault(
            f"What answers at {shown} is no Redis", str(error), "Check the host and the port in the URL."
        ) from error


def _database(url: str) -> int:
    """Return the number of the database, which a Unix socket's URL has in its query.

    Raises:
        ValueError: it is no number.
    """
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        return int(parse_qs(parts.query).get("virtual_host", ["0"])[0])
    return int(parts.path.strip("/") or 0)


def _refused(shown: str, error: Exception) -> Fault:
    return Fault(
        f"The broker {shown} refuses us",
        str(error),
        "Check the user and the password, which stand in the URL before the host, as user:password@.",
    )
