"""Classify Redis errors as temporary or permanent, and say how to fix each error.

A temporary error is retried. The server may be unreachable, full, loading, busy, or in a failover. A permanent error
lasts until a person fixes it: the server refuses this user, or another program uses the same keys. The producer, the
workers, the transport, the backend and the doctor all call `redis_problem`.

To add an error, add a line to `_TEMPORARY` or `_PERMANENT`. The line's key is the code at the start of Redis's reply.
Add a case to ``tests/unit/broker/test_redis_errors.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import redis

#: After one of these exceptions, it is certain or possible that Redis has not executed the operation.
REDIS_ERRORS = (redis.RedisError, OSError)
#: Temporary errors, which end without a change to our settings. Each error code has a hint that says what the user can
#: do in the meantime.
_TEMPORARY = {
    "OOM": "Raise maxmemory of that Redis, or delete data from it.",
    "MISCONF": "That Redis can't save its data: free disk space, make its `dir` writable, and see its log.",
    "READONLY": (
        "That Redis is a replica, for instance after a failover. Use the master's address, or a sentinel:// URL."
    ),
    "LOADING": "That Redis is still loading its data from disk; wait until it has finished.",
    "BUSY": "A script blocks that Redis: wait until it ends, or run SCRIPT KILL there.",
    "MASTERDOWN": "That Redis is a replica without a connection to its master. Use the master's address.",
    "NOREPLICAS": "That Redis has too few replicas: start more, or lower min-replicas-to-write.",
    "CLUSTERDOWN": "Use a Redis that is not a cluster: Celery does not support clusters.",
    "TRYAGAIN": "Use a Redis that is not a cluster: Celery does not support clusters.",
    "UNBLOCKED": "CLIENT UNBLOCK or a failover ended a blocking command there; no action is needed.",
    "NOSCRIPT": "SCRIPT FLUSH or a failover removed that Redis's scripts; they are sent again.",
    "NOMASTER": "A failover may be in progress; if the error persists, check the Sentinels and master_name in the URL.",
    "MAXCLIENTS": "Raise that Redis's maxclients and its limit of open files, or stop some of its clients.",
}
_ACCESS = "Check the user and the password in the URL: user:password@ before the host."
_ALLOW = "Give that user the permissions in config/users.acl."
_ALONE = "Give imagefleet a database or a Redis of its own, not used by other programs."
_NO_CLUSTER = _TEMPORARY["CLUSTERDOWN"]
#: Permanent errors, which persist until a person fixes their cause.
_PERMANENT = {
    "NOPERM": _ALLOW,
    "NOAUTH": _ACCESS,
    "WRONGPASS": _ACCESS,
    "DENIED": "Set a password or a bind address in that Redis: in protected mode it accepts only local clients.",
    "WRONGTYPE": _ALONE,
    "MOVED": _NO_CLUSTER,
    "ASK": _NO_CLUSTER,
    "CROSSSLOT": _NO_CLUSTER,
}
_RECONNECT = "Start Redis there, or check the address and the network."
_UNKNOWN = "See that Redis's log."
#: redis-py strips some codes from the text, but has an exception class for each of these codes.
_CLASSES: tuple[tuple[type[Exception], str], ...] = (
    (redis.exceptions.OutOfMemoryError, "OOM"),
    (redis.exceptions.ReadOnlyError, "READONLY"),
    (redis.exceptions.BusyLoadingError, "LOADING"),
    (redis.exceptions.MasterDownError, "MASTERDOWN"),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN"),
    (redis.exceptions.TryAgainError, "TRYAGAIN"),
    (redis.exceptions.NoScriptError, "NOSCRIPT"),
    (redis.exceptions.NoPermissionError, "NOPERM"),
    (redis.exceptions.MovedError, "MOVED"),
    (redis.exceptions.AskError, "ASK"),
    (redis.exceptions.ClusterCrossSlotError, "CROSSSLOT"),
)
#: The code is at the start of the text or after a prefix. Transactions and the scripts of older servers add such a
#: prefix.
_CODE = re.compile(rf"(?:^|: -?)({'|'.join([*_TEMPORARY, *_PERMANENT])})\s")
#: The end of the prefix that redis-py puts before an error in a pipeline. The prefix may contain any text,
#: because it quotes the command.
_PIPELINE = " of pipeline caused error: "
#: Phrases of errors without a code.
_PHRASES = (
    ("max number of clients reached", "MAXCLIENTS"),
    ("The user executing the script can't", "NOPERM"),
    ("invalid username-password pair", "WRONGPASS"),
    ("invalid password", "WRONGPASS"),
    ("AUTH <password> called without any password", "WRONGPASS"),
    ("no password is set", "WRONGPASS"),
    ("previous master is now a slave", "READONLY"),
    ("No master found for", "NOMASTER"),
)


@dataclass(frozen=True, slots=True)
class RedisProblem:
    """A reason why Redis can't be used now."""

    #: Redis's error code, such as OOM; empty if Redis did not answer, or if the error is unknown here.
    code: str
    #: The text of the error from Redis, or of the connection error.
    text: str
    #: Whether the problem ends without a change to our settings, so that waiting can help.
    temporary: bool
    #: Whether the server has answered, even if only with an error. A server that has answered is reachable, but did not
    #: execute the command.
    answered: bool
    #: What the user can do.
    hint: str

    @property
    def note(self) -> str:
        """One line for a progress display or a log."""
        text = self.text.rstrip(".")
        problem = f"Redis answers {text}" if self.answered else f"Redis does not answer ({text})"
        return f"{problem}; waiting for it"


def redis_problem(error: BaseException) -> RedisProblem:
    """Return the problem behind an error of redis-py or kombu.

    Args:
        error: the exception as raised. The exception's causes are checked too, because kombu wraps redis-py's errors.
    """
    errors = list(_cause_chain(error))
    for one in errors:
        if code := _code(one):
            hint = _TEMPORARY.get(code) or _PERMANENT[code]
            return RedisProblem(code, _text(one), code in _TEMPORARY, True, hint)
    # An error of kombu without a redis-py error among its causes means that the connection is broken.
    last = next((one for one in reversed(errors) if isinstance(one, redis.RedisError)), errors[-1])
    text = _error_text(last) or type(last).__name__
    if isinstance(last, redis.AuthenticationError):
        return RedisProblem("WRONGPASS", text, False, True, _ACCESS)
    if isinstance(last, redis.RedisError) and not isinstance(last, redis.ConnectionError | redis.TimeoutError):
        return RedisProblem("", text, False, True, _UNKNOWN)
    return RedisProblem("", text, True, False, _RECONNECT)


def _cause_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, outermost first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__


def _code(error: BaseException) -> str:
    status = getattr(error, "status_code", None)
    if status in _TEMPORARY or status in _PERMANENT:
        return str(status)
    for kind, code in _CLASSES:
        if isinstance(error, kind):
            return code
    if not isinstance(error, redis.RedisError):
        return ""
    text = _error_text(error)
    if found := _CODE.search(text):
        return found[1]
    return next((code for phrase, code in _PHRASES if phrase in text), "")


def _error_text(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text.rpartition(_PIPELINE)[2]


def _text(error: BaseException) -> str:
    """Return Redis's error text. If redis-py stripped the error code, add it again."""
    status = getattr(error, "status_code", None)
    return f"{status} {_error_text(error)}" if status else _error_text(error)
