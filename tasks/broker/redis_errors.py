"""Redis errors: which ones pass, which ones last, and what a person can do about each.

A temporary error is waited for as an outage is: the server is away, full, loading, busy, or in a failover. A lasting
error needs a person: the server refuses this user, or another program uses the same keys. The producer, the workers,
the transport, the backend and the doctor all ask `redis_problem`.

To add an error: a line in `_TEMPORARY` or `_PERMANENT`, under the code that Redis puts first, and a case in
``tests/unit/broker/test_redis_errors.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import redis

#: What an operation raises that Redis did not do, or may not have done.
REDIS_ERRORS = (redis.RedisError, OSError)
#: Errors that end without a change of ours: the code that Redis answers with, and what a person can do meanwhile.
_TEMPORARY = {
    "OOM": "Raise maxmemory of that Redis, or remove from it what is not needed.",
    "MISCONF": "That Redis can't save its data: make space on its disk, let it write to its `dir`, and see its log.",
    "READONLY": (
        "That Redis is a replica, as after a failover. Let the address lead to the master, or use a sentinel:// URL."
    ),
    "LOADING": "That Redis is still reading its data from disk; it needs time.",
    "BUSY": "A script blocks that Redis: wait for its end, or call SCRIPT KILL there.",
    "MASTERDOWN": "That Redis is a replica that has lost its master: let the address lead to the master.",
    "NOREPLICAS": "That Redis wants more replicas than it has: start them, or lower min-replicas-to-write.",
    "CLUSTERDOWN": "Use a Redis that is not a cluster: Celery does not support clusters.",
    "TRYAGAIN": "Use a Redis that is not a cluster: Celery does not support clusters.",
    "UNBLOCKED": "Somebody ended a wait there by CLIENT UNBLOCK, or a failover did; nothing needs to be done.",
    "NOSCRIPT": "Its scripts were removed by SCRIPT FLUSH or a failover; they are sent again.",
    "NOMASTER": "A failover may be under way; if it stays, check the Sentinels and master_name in the URL.",
    "MAXCLIENTS": "Raise maxclients of that Redis and its limit of open files, or stop some of its clients.",
}
_ACCESS = "Check the user and the password, which stand in the URL before the host, as user:password@."
_ALLOW = "Let that user do what config/users.acl allows."
_ALONE = "Give imagefleet a database, or a Redis, that no other program uses."
_NO_CLUSTER = _TEMPORARY["CLUSTERDOWN"]
#: Errors that stay until a person has changed something.
_PERMANENT = {
    "NOPERM": _ALLOW,
    "NOAUTH": _ACCESS,
    "WRONGPASS": _ACCESS,
    "DENIED": "Set a password or a bind address in that Redis: in protected mode it serves its own host alone.",
    "WRONGTYPE": _ALONE,
    "MOVED": _NO_CLUSTER,
    "ASK": _NO_CLUSTER,
    "CROSSSLOT": _NO_CLUSTER,
}
_RECONNECT = "Start Redis there, or check the address and the network."
_UNKNOWN = "Look at the log of that Redis."
#: redis-py drops some codes from the text and names the class instead.
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
#: Where the code stands: first, or behind what a transaction, or a script of an older server, puts before it.
_CODE = re.compile(rf"(?:^|: -?)({'|'.join([*_TEMPORARY, *_PERMANENT])})\s")
#: Ends what a pipeline puts before an error: the command, which may hold any text.
_PIPELINE = " of pipeline caused error: "
#: What Redis says instead of a code.
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
    """What keeps us from using Redis."""

    #: What Redis puts first, such as OOM; empty where it did not answer, or answered with nothing that is known here.
    code: str
    #: What Redis says, or what happened to the connection.
    text: str
    #: Whether it ends without a change of ours, so that waiting is right.
    temporary: bool
    #: Whether the server has answered, so that it is there, and the command was not done.
    answered: bool
    #: What a person can do.
    hint: str

    @property
    def note(self) -> str:
        """One line for a progress display or a log."""
        text = self.text.rstrip(".")
        said = f"Redis answers {text}" if self.answered else f"Redis does not answer ({text})"
        return f"{said}; waiting for it"


def redis_problem(error: BaseException) -> RedisProblem:
    """Return what an error of redis-py or kombu says about Redis.

    Args:
        error: as it was raised; what it was raised from counts, because kombu wraps the errors of redis-py.
    """
    errors = list(_cause_chain(error))
    for one in errors:
        if code := _code(one):
            hint = _TEMPORARY.get(code) or _PERMANENT[code]
            return RedisProblem(code, _text(one), code in _TEMPORARY, True, hint)
    # What kombu alone knows is a broken connection.
    last = next((one for one in reversed(errors) if isinstance(one, redis.RedisError)), errors[-1])
    text = _error_text(last) or type(last).__name__
    if isinstance(last, redis.AuthenticationError):
        return RedisProblem("WRONGPASS", text, False, True, _ACCESS)
    if isinstance(last, redis.RedisError) and not isinstance(last, redis.ConnectionError | redis.TimeoutError):
        return RedisProblem("", text, False, True, _UNKNOWN)
    return RedisProblem("", text, True, False, _RECONNECT)


def _cause_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, outermost first."""
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
    """Return what Redis says, with the code that redis-py takes off."""
    status = getattr(error, "status_code", None)
    return f"{status} {_error_text(error)}" if status else _error_text(error)
