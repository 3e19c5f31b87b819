"""Provoke Redis errors in a running server.

Each function is a context manager. Inside the manager's block, the server replies with the error. A `Target` is a
server that is used by plain workers or by a local fleet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.integration import processes
from tests.waiting import wait_for

#: The number of commands in the append-only file. Redis needs seconds to load so many commands. Each script writes
#: `_BATCH` commands, because one script for all commands would make Redis reply BUSY.
_COMMANDS, _BATCH = 1_000_000, 50_000
_FILLER = "filler"
_PASSWORD = "changed"


@dataclass(frozen=True)
class Target:
    """A server in which tests provoke errors.

    A target has an administrator's client, the server's data folder, and functions to control the server.
    """

    #: Untyped: redis-py has no types for most of the methods called here.
    admin: Any
    folder: Path
    restart: Callable[[], None]
    #: Creates the administrator's account again, because the append-only file does not contain this account. Returns
    #: false while the server does not answer.
    admit: Callable[[], bool]
    #: Returns the id of the run on this server.
    run_id: Callable[[], str]


Provocation = Callable[[Target], AbstractContextManager[None]]


def setting(name: str, value: int) -> Provocation:
    """Return a provocation that sets a Redis option to a value, and resets the option to 0 at the end."""

    @contextmanager
    def change(target: Target) -> Iterator[None]:
        target.admin.config_set(name, value)
        yield
        target.admin.config_set(name, 0)

    return change


@contextmanager
def cannot_save(target: Target) -> Iterator[None]:
    """MISCONF: a snapshot failed, because a folder has the name of the snapshot's file."""
    obstacle = target.folder / "dump.rdb"
    obstacle.mkdir()
    target.admin.config_set("save", "3600 100000000")
    _snapshot(target, "err")
    yield
    obstacle.rmdir()
    _snapshot(target, "ok")
    target.admin.config_set("save", "")


def _snapshot(target: Target, status: str) -> None:
    target.admin.bgsave()
    wait_for(lambda: target.admin.info("persistence")["rdb_last_bgsave_status"] == status, 60)


@contextmanager
def read_only(target: Target) -> Iterator[None]:
    """READONLY: the server is a replica of a missing master."""
    target.admin.replicaof("127.0.0.1", processes.free_port())
    yield
    target.admin.replicaof("NO", "ONE")


@contextmanager
def master_down(target: Target) -> Iterator[None]:
    """MASTERDOWN: the server is a replica and refuses commands without its master."""
    target.admin.config_set("replica-serve-stale-data", "no")
    with read_only(target):
        yield


@contextmanager
def loading(target: Target) -> Iterator[None]:
    """LOADING: the server restarts with a large append-only file."""
    for _ in range(_COMMANDS // _BATCH):
        target.admin.eval(f"for i = 1, {_BATCH} do redis.call('LPUSH', KEYS[1], i) end", 1, _FILLER)
    target.restart()
    yield
    wait_for(target.admit, 120)
    target.admin.delete(_FILLER)


@contextmanager
def busy(target: Target) -> Iterator[None]:
    """BUSY: a script runs forever."""
    target.admin.config_set("busy-reply-threshold", 100)

    def run() -> None:
        with suppress(redis.RedisError):
            target.admin.eval("while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    wait_for(lambda: _end_script(target.admin), 60)
    thread.join()


def _end_script(admin: Any) -> bool:
    """Kill the running script.

    Return false if a script still runs afterwards. A client may have sent the script again.
    """
    with suppress(redis.ResponseError):
        admin.script_kill()
    try:
        admin.config_set("busy-reply-threshold", 5000)
    except redis.ResponseError:
        return False
    return True


@contextmanager
def unblocked(target: Target) -> Iterator[None]:
    """UNBLOCKED: the server repeatedly ends all blocking commands with an error."""
    with _repeat(lambda: _unblock(target.admin)):
        yield


def _unblock(admin: Any) -> None:
    for client in admin.client_list():
        if "b" in client["flags"]:
            admin.client_unblock(client["id"], error=True)


@contextmanager
def scripts_flushed(target: Target) -> Iterator[None]:
    """NOSCRIPT: the server repeatedly forgets its scripts."""
    with _repeat(target.admin.script_flush):
        yield


@contextmanager
def too_many_clients(target: Target) -> Iterator[None]:
    """ERR max number of clients reached: all connections are closed, and new ones are refused."""
    target.admin.config_set("maxclients", 1)
    target.admin.client_kill_filter(_type="normal", skipme=True)
    yield
    target.admin.config_set("maxclients", 10000)


@contextmanager
def silent(target: Target) -> Iterator[None]:
    """Timeout: the server sends no reply for longer than the timeout of a command."""
    target.admin.execute_command("CLIENT", "PAUSE", 12_000, "ALL")
    yield
    wait_for(lambda: _is_ready(target.admin), 120)


@contextmanager
def no_permission(target: Target) -> Iterator[None]:
    """NOPERM: the Redis user loses the permission to write."""
    target.admin.execute_command("ACL", "SETUSER", "default", "-@write")
    yield
    with _ignore_ended_server():
        target.admin.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def password_changed(target: Target) -> Iterator[None]:
    """NOAUTH: the server gets a password, and closes all connections."""
    target.admin.execute_command("ACL", "SETUSER", "default", "resetpass", f">{_PASSWORD}")
    target.admin.client_kill_filter(_type="normal", skipme=True)
    yield
    with _ignore_ended_server():
        target.admin.execute_command("ACL", "SETUSER", "default", "nopass")


@contextmanager
def key_of_another_program(target: Target) -> Iterator[None]:
    """WRONGTYPE: another program has overwritten one of our keys."""
    key = f"imagefleet:done:{target.run_id()}"
    target.admin.set(key, "something else")
    yield
    with _ignore_ended_server():
        target.admin.delete(key)


def _ignore_ended_server() -> AbstractContextManager[None]:
    """Ignore that the server has ended, because a local fleet's server ends together with the run."""
    return suppress(redis.ConnectionError)


@contextmanager
def _repeat(step: Callable[[], object]) -> Iterator[None]:
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.05):
            with _ignore_ended_server():
                step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_ready(admin: Any) -> bool:
    try:
        return bool(admin.ping())
    except redis.RedisError:
        return False


def let_last(seconds: float) -> None:
    """Let a fault last for some time. The test sleeps, because there is no condition to wait for."""
    time.sleep(seconds)


#: The errors during which a run waits, by the error's name in the table.
TEMPORARY: dict[str, Provocation] = {
    "OOM": setting("maxmemory", 1),
    "MISCONF": cannot_save,
    "READONLY": read_only,
    "MASTERDOWN": master_down,
    "LOADING": loading,
    "BUSY": busy,
    "NOREPLICAS": setting("min-replicas-to-write", 1),
    "UNBLOCKED": unblocked,
    "NOSCRIPT": scripts_flushed,
    "max number of clients reached": too_many_clients,
    "no answer for 12 s": silent,
}
#: Errors ending a run.
LASTING: dict[str, Provocation] = {
    "NOPERM": no_permission,
    "NOAUTH": password_changed,
    "WRONGTYPE": key_of_another_program,
}
