"""Redis errors are classified by whether waiting can help."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from celery.worker import state
from kombu.exceptions import BatchPublishError, OperationalError
from redis._parsers.base import BaseParser
from redis.sentinel import MasterNotFoundError

from tasks.broker import redis_retry
from tasks.broker.redis_errors import redis_problem

#: The exact error texts of Redis 6.2 to 8.
_TEMPORARY = {
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF": (
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands "
        "that may modify the data set are disabled."
    ),
    "READONLY": "READONLY You can't write against a read only replica.",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS": "NOREPLICAS Not enough good replicas to write.",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNBLOCKED": "UNBLOCKED client unblocked via CLIENT UNBLOCK",
    "NOSCRIPT": "NOSCRIPT No matching script. Please use EVAL.",
    "MAXCLIENTS": "ERR max number of clients reached",
}
_LASTING = {
    "NOPERM": "NOPERM this user has no permissions to run the 'lpush' command",
    "NOAUTH": "NOAUTH Authentication required.",
    "WRONGPASS": "WRONGPASS invalid username-password pair or user is disabled.",
    "DENIED": "DENIED Redis is running in protected mode because protected mode is enabled.",
    "WRONGTYPE": "WRONGTYPE Operation against a key holding the wrong kind of value",
    "MOVED": "MOVED 3999 127.0.0.1:6381",
    "ASK": "ASK 3999 127.0.0.1:6381",
    "CROSSSLOT": "CROSSSLOT Keys in request don't hash to the same slot",
}


def _parsed(answer: str) -> Exception:
    """Return the exception that redis-py makes of an error answer."""
    parse: Any = BaseParser.parse_error
    error = parse(answer)
    assert isinstance(error, Exception)
    return error


@pytest.mark.parametrize(("code", "answer"), [*_TEMPORARY.items(), *_LASTING.items()])
def test_error_has_code_text_and_hint(code: str, answer: str) -> None:
    """Each error is recognised, and our message quotes Redis's text.

    The text includes the part that redis-py strips.
    """
    problem = redis_problem(_parsed(answer))
    assert (problem.code, problem.temporary, problem.answered) == (code, code in _TEMPORARY, True)
    assert problem.text == answer
    assert problem.hint.endswith(".")
    assert answer.rstrip(".") in problem.note


@pytest.mark.parametrize("code", _TEMPORARY)
def test_recognises_wrapped_errors(code: str) -> None:
    """An error is recognised inside kombu's wrapper, a pipeline, a transaction, and a script of Redis 6.2."""
    answer = _TEMPORARY[code]
    pipeline: Any = _parsed(answer)
    message = pipeline.args[0]
    pipeline.args = (
        f"Command # 3 (LPUSH imagefleet.images {{NOPERM : WRONGTYPE x}}) of pipeline caused error: {message}",
    )
    for wrapper in (OperationalError, BatchPublishError):
        wrapped = wrapper("delivery is uncertain")
        wrapped.__cause__ = pipeline
        assert (redis_problem(wrapped).code, redis_problem(wrapped).text) == (code, answer)
    if code != "MAXCLIENTS":
        for text in (
            f"EXECABORT Transaction discarded because of: {answer}",
            f"ERR Error running script (call to f_5f2): @user_script:28: @user_script: 28: -{answer}",
        ):
            assert redis_problem(_parsed(text)).code == code


def test_recognises_a_script_without_permissions() -> None:
    """Redis 7 reports a script's missing permission without an error code."""
    text = "ERR The user executing the script can't run this command or subcommand script: cdc8, on @user_script:20."
    assert redis_problem(_parsed(text)).code == "NOPERM"


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        (redis.ConnectionError("Error 111 connecting to redis.example:6379. Connection refused."), True),
        (redis.TimeoutError("Timeout reading from socket"), True),
        (OperationalError("Connection closed by server."), True),
        (MasterNotFoundError("No master found for 'mymaster'"), True),
        (redis.AuthenticationError("refused"), False),
        (_parsed("ERR unknown command 'BLMOVE'"), False),
        (_parsed("EXECABORT Transaction discarded because of previous errors."), False),
        (redis.InvalidResponse("Protocol Error: b'HTTP/1.1 400'"), False),
    ],
)
def test_other_errors(error: Exception, temporary: bool) -> None:
    """A failed connection is temporary, but an unknown answer is not."""
    assert redis_problem(error).temporary == temporary


@pytest.mark.parametrize("code", [*_TEMPORARY, *_LASTING])
def test_worker_waits_for_redis(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker keeps its task and repeats the operation, even while Redis refuses its user."""
    monkeypatch.setattr("tasks.broker.redis_retry.time.sleep", lambda _: None)
    answers = iter([_parsed({**_TEMPORARY, **_LASTING}[code])] * 3)

    def step() -> str:
        for error in answers:
            raise error
        return "done"

    assert redis_retry.retry_until_redis_is_back(step) == "done"


def test_stopping_worker_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task stays unacknowledged, and goes to another worker."""
    monkeypatch.setattr(state, "should_stop", 0)

    def step() -> None:
        raise _parsed(_TEMPORARY["OOM"])

    with pytest.raises(redis.ResponseError):
        redis_retry.retry_until_redis_is_back(step)
