"""Servers for failover tests: a master with a replica, and Sentinels monitoring them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.conftest import redis_program
from tests.faults.harness import Server
from tests.integration import processes
from tests.waiting import wait_for

MASTER = "mymaster"
_COUNT = 3
#: The silence after which a Sentinel considers a server dead, and the timeout of a failover, both in milliseconds.
_DEAD_AFTER, _FAILOVER = 1_000, 6_000


@contextmanager
def replica_of(server: Server, folder: Path, port: int | None = None) -> Iterator[Server]:
    """Start a replica of a server, and wait until the replica is in sync.

    ``port`` is the port under which the replica reaches the server, if it is not the server's own port.
    """
    folder.mkdir()
    other = Server(folder, "--replicaof", f"127.0.0.1 {port or server.port}", "--repl-diskless-sync-delay", "0")
    other.start()
    try:
        wait_for(lambda: other.client.info("replication").get("master_link_status") == "up", 60)
        yield other
    finally:
        other.close()


@contextmanager
def sentinels(folder: Path, server: Server) -> Iterator[str]:
    """Start Sentinels that monitor a server and its replica; yield the broker URL."""
    program = redis_program()
    ports = [processes.free_port() for _ in range(_COUNT)]
    with ExitStack() as stack:
        for port in ports:
            path = folder / f"sentinel-{port}.conf"
            path.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor {MASTER} 127.0.0.1 {server.port} 2\n"
                f"sentinel down-after-milliseconds {MASTER} {_DEAD_AFTER}\n"
                f"sentinel failover-timeout {MASTER} {_FAILOVER}\n"
            )
            with (folder / f"sentinel-{port}.log").open("ab") as log:
                process = subprocess.Popen([program, str(path), "--sentinel"], stdout=log, stderr=log)
            stack.callback(_end, process)
        for port in ports:
            processes.eventually(lambda port=port: _is_ready(port), "the Sentinels")  # type: ignore[misc]
        yield ";".join(f"sentinel://127.0.0.1:{port}/0" for port in ports) + f"?master_name={MASTER}"


def master_port(url: str) -> int:
    """Return the master's port that the first Sentinel of a URL reports."""
    with redis.Redis(port=_port(url), decode_responses=True) as sentinel:
        return int(_master(sentinel)["port"])


def fail_over(url: str) -> None:
    """Make the Sentinels promote the replica while the master is alive."""
    sentinel: Any = redis.Redis(port=_port(url), decode_responses=True)
    with sentinel:
        sentinel.execute_command("SENTINEL", "FAILOVER", MASTER)


def _port(url: str) -> int:
    return int(url.partition("127.0.0.1:")[2].partition("/")[0])


def _master(sentinel: Any) -> dict[str, Any]:
    return dict(sentinel.sentinel_masters()[MASTER])


def _is_ready(port: int) -> bool:
    try:
        with redis.Redis(port=port, decode_responses=True) as sentinel:
            master = _master(sentinel)
    except (redis.RedisError, KeyError):
        return False
    return int(master["num-other-sentinels"]) == _COUNT - 1 and int(master["num-slaves"]) >= 1


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
