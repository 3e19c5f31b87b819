"""A run waits until temporary Redis errors are over. Lasting errors end the run, and the run can be resumed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tests.faults import answers
from tests.faults.answers import LASTING, TEMPORARY, Target
from tests.faults.harness import Arena
from tests.integration import processes

#: Duration of an error in seconds: longer than the producer's check interval and two heartbeats of a worker.
_DURATION = 6.0
_ADMIN = "administrator"


@pytest.fixture(params=["plain workers", "local fleet"])
def workers(request: pytest.FixtureRequest) -> str:
    """Return the kind of workers to test."""
    return str(request.param)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("error", TEMPORARY)
def test_run_waits_for_the_end_of_a_temporary_error(arena: Arena, long: bool, workers: str, error: str) -> None:
    """The run pauses during the error and then completes. No image is lost, and no worker dies."""
    # The run is long. A short run would end before the server is full, because filling the server takes a second.
    images = 4_000 if long or error == "LOADING" else 400
    with _start_run(arena, workers, images) as (run, target):
        arena.wait_until_saved(images // 4, run)
        arena.count_fault()
        with TEMPORARY[error](target):
            answers.let_last(_DURATION)
        arena.count_fault()
        ended = run.wait(240)
        assert ended.json()["success"] == images
        if workers == "plain workers":
            assert arena.fleet.deaths == 0
            arena.fleet.end(0.0)
    arena.verify_redis_error(error, workers, "waits")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("error", LASTING)
def test_lasting_error_ends_the_run(arena: Arena, long: bool, workers: str, error: str) -> None:
    """The producer reports the error with a hint and exits. The workers keep running. A resume completes the run."""
    images = 4_000 if long else 400
    with _start_run(arena, workers, images) as (run, target):
        arena.wait_until_saved(images // 4, run)
        arena.count_fault()
        with LASTING[error](target):
            ended = run.wait(60)
            what, why, todo = processes.error_parts(ended)
        assert ended.code == 1
        assert what == "Redis refuses a command"
        assert error in why
        assert "producer resume" in todo
        arena.count_fault()
        arguments = ["resume", arena.out, "--json", *(_local() if workers == "local fleet" else _plain(arena))]
        with processes.started(
            "resume", [sys.executable, "-m", "producer", *map(str, arguments)], arena.folder, _ENV
        ) as two:
            assert two.wait(240).json()["success"] == images
        if workers == "plain workers":
            assert arena.fleet.deaths == 0
            arena.fleet.end(0.0)
    arena.verify_redis_error(error, workers, "ends, and is resumed")


_ENV = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}


def _local() -> list[str]:
    return ["--workers", "2", "--concurrency", "16"]


def _plain(arena: Arena) -> list[str]:
    return ["--broker", arena.server.url]


@contextmanager
def _start_run(arena: Arena, workers: str, images: int) -> Iterator[tuple[processes.Background, Target]]:
    """Start a run with plain workers or a local fleet; yield the run and its server."""
    source = arena.list(images, rate=20_000)
    local = workers == "local fleet"
    if not local:
        arena.fleet.add(2, slots=16)
    arguments = ["run", source, "--out", arena.out, "--shard-size", "250", "--json"]
    arguments += _local() if local else _plain(arena)
    argv = [sys.executable, "-m", "producer", *map(str, arguments)]
    with (
        processes.started("run", argv, arena.folder, _ENV) as run,
        _target_of_fleet(arena, run) if local else _target_of_arena(arena) as target,
    ):
        yield run, target


@contextmanager
def _target_of_arena(arena: Arena) -> Iterator[Target]:
    def restart() -> None:
        arena.server.kill()
        arena.server.start(wait=False)

    client = arena.server.client
    assert _admit(client)
    admin = redis.Redis(port=arena.server.port, username=_ADMIN, password=_ADMIN, decode_responses=True)
    with admin:
        yield Target(admin, arena.folder / "redis", restart, lambda: _admit(client), lambda: _run_id(arena.out))


@contextmanager
def _target_of_fleet(arena: Arena, run: processes.Background) -> Iterator[Target]:
    found = processes.eventually(lambda: _server_of(run), "the fleet's Redis")
    assert found is not None
    pid, folder = found
    socket = str(folder / "redis.sock")
    client = redis.Redis(unix_socket_path=socket)
    processes.eventually(lambda: _admit(client), "the fleet's Redis")
    admin = redis.Redis(unix_socket_path=socket, username=_ADMIN, password=_ADMIN, decode_responses=True)
    with client, admin:
        yield Target(
            admin, folder, lambda: os.kill(pid, signal.SIGKILL), lambda: _admit(client), lambda: _run_id(arena.out)
        )


def _server_of(run: processes.Background) -> tuple[int, Path] | None:
    """Return the process id and the folder of a local fleet's server, or None until the server listens."""
    for process in run.descendants():
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith(("redis-server", "valkey-server")):
                # The server changes to its data folder only some time after its start.
                folder = Path(process.cwd())
                return (process.pid, folder) if (folder / "redis.sock").exists() else None
    return None


def _admit(client: Any) -> bool:
    """Add a Redis user that is unaffected by errors of the default user; return whether the server answers."""
    try:
        client.execute_command("ACL", "SETUSER", _ADMIN, "on", f">{_ADMIN}", "~*", "&*", "+@all")
    except redis.RedisError:
        return False
    return True


def _run_id(out: Path) -> str:
    return str(json.loads((out / "run.json").read_text())["id"])
