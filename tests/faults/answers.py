"""Redis errors, each provoked in a real server for a while: the server answers with them, and is there.

Each function is a context manager: inside the block the server answers so. A `Target` is the server of plain workers or
that of a local fleet.
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

from tests.conditions import wait_for
from tests.integration import parts

#: Commands in the append-only file that a server takes seconds to read; a script that writes all of them is BUSY.
_BIG, _AT_ONCE = 1_000_000, 50_000
_FILLER = "filler"
_PASSWORD = "changed"


@dataclass(frozen=True)
class Target:
    """A server that errors are provoked in: an administrator's client, its data folder, and how it is restarted."""

    #: Untyped: redis-py has no types for most of what is called here.
    admin: Any
    folder: Path
    restart: Callable[[], None]
    #: Lets the administrator in again, who is not in the append-only file; false while the server does not answer.
    admit: Callable[[], bool]
    #: Tells the id of the run at it.
    run_id: Callable[[], str]


Provocation = Callable[[Target], AbstractContextManager[None]]


@contextmanager
def out_of_memory(target: Target) -> Iterator[None]:
    """OOM: maxmemory is below what is used."""
    target.admin.config_set("maxmemory", 1)
    yield
    target.admin.config_set("maxmemory", 0)


@contextmanager
def cannot_save(target: Target) -> Iterator[None]:
    """MISCONF: a snapshot failed, because a folder has the name of its file."""
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
    """READONLY: the server is a replica, of a master that is not there."""
    target.admin.replicaof("127.0.0.1", parts.free_port())
    yield
    target.admin.replicaof("NO", "ONE")


@contextmanager
def master_down(target: Target) -> Iterator[None]:
    """MASTERDOWN: the server is a replica that answers nothing without its master."""
    target.admin.config_set("replica-serve-stale-data", "no")
    with read_only(target):
        yield


@contextmanager
def loading(target: Target) -> Iterator[None]:
    """LOADING: the server restarts, with a big append-only file."""
    for _ in range(_BIG // _AT_ONCE):
        target.admin.eval(f"for i = 1, {_AT_ONCE} do redis.call('LPUSH', KEYS[1], i) end", 1, _FILLER)
    target.restart()
    yield
    wait_for(target.admit, 120)
    target.admin.delete(_FILLER)


@contextmanager
def busy(target: Target) -> Iterator[None]:
    """BUSY: a script runs without an end."""
    target.admin.config_set("busy-reply-threshold", 100)

    def run() -> None:
        with suppress(redis.RedisError):
            target.admin.eval("while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    wait_for(lambda: _ends_scripts(target.admin), 60)
    thread.join()


def _ends_scripts(admin: Any) -> bool:
    """End the script that runs; false while another one does, because a client may have sent it again."""
    with suppress(redis.ResponseError):
        admin.script_kill()
    try:
        admin.config_set("busy-reply-threshold", 5000)
    except redis.ResponseError:
        return False
    return True


@contextmanager
def no_replicas(target: Target) -> Iterator[None]:
    """NOREPLICAS: the server wants a replica, and has none."""
    target.admin.config_set("min-replicas-to-write", 1)
    yield
    target.admin.config_set("min-replicas-to-write", 0)


@contextmanager
def unblocked(target: Target) -> Iterator[None]:
    """UNBLOCKED: whatever waits at the server is ended with an error, again and again."""
    with _repeated(lambda: _unblock(target.admin)):
        yield


def _unblock(admin: Any) -> None:
    for client in admin.client_list():
        if "b" in client["flags"]:
            admin.client_unblock(client["id"], error=True)


@contextmanager
def scripts_flushed(target: Target) -> Iterator[None]:
    """NOSCRIPT: the server forgets its scripts, again and again."""
    with _repeated(target.admin.script_flush):
        yield


@contextmanager
def too_many_clients(target: Target) -> Iterator[None]:
    """ERR max number of clients reached: all connections are closed, and no new one is let in."""
    target.admin.config_set("maxclients", 1)
    target.admin.client_kill_filter(_type="normal", skipme=True)
    yield
    target.admin.config_set("maxclients", 10000)


@contextmanager
def silent(target: Target) -> Iterator[None]:
    """A timeout: the server answers nothing, for longer than a command waits."""
    target.admin.execute_command("CLIENT", "PAUSE", 12_000, "ALL")
    yield
    wait_for(lambda: _answers(target.admin), 120)


@contextmanager
def no_permission(target: Target) -> Iterator[None]:
    """NOPERM: the user may write nothing any more."""
    target.admin.execute_command("ACL", "SETUSER", "default", "-@write")
    yield
    with _while_it_lives():
        target.admin.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def password_changed(target: Target) -> Iterator[None]:
    """NOAUTH: the server has a password by now, and all connections are new."""
    target.admin.execute_command("ACL", "SETUSER", "default", "resetpass", f">{_PASSWORD}")
    target.admin.client_kill_filter(_type="normal", skipme=True)
    yield
    with _while_it_lives():
        target.admin.execute_command("ACL", "SETUSER", "default", "nopass")


@contextmanager
def key_of_another_program(target: Target) -> Iterator[None]:
    """WRONGTYPE: another program has written to a key of ours."""
    key = f"imagefleet:done:{target.run_id()}"
    target.admin.set(key, "something else")
    yield
    with _while_it_lives():
        target.admin.delete(key)


def _while_it_lives() -> AbstractContextManager[None]:
    """Pass over a server that is gone: that of a local fleet ends with the run."""
    return suppress(redis.ConnectionError)


@contextmanager
def _repeated(step: Callable[[], object]) -> Iterator[None]:
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.05):
            with _while_it_lives():
                step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _answers(admin: Any) -> bool:
    try:
        return bool(admin.ping())
    except redis.RedisError:
        return False


def hold(seconds: float) -> None:
    """Let a fault last: what is waited for here is that time passes."""
    time.sleep(seconds)


#: The errors that are waited for, by what the table calls them.
TEMPORARY: dict[str, Provocation] = {
    "OOM": out_of_memory,
    "MISCONF": cannot_save,
    "READONLY": read_only,
    "MASTERDOWN": master_down,
    "LOADING": loading,
    "BUSY": busy,
    "NOREPLICAS": no_replicas,
    "UNBLOCKED": unblocked,
    "NOSCRIPT": scripts_flushed,
    "max number of clients reached": too_many_clients,
    "no answer for 12 s": silent,
}
#: The errors that end a run early.
LASTING: dict[str, Provocation] = {
    "NOPERM": no_permission,
    "NOAUTH": password_changed,
    "WRONGTYPE": key_of_another_program,
}
