"""Fixtures of the integration tests: servers that are started once, and one fleet of plain Celery workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import redis

from tasks.broker import client as broker_client
from tasks.throttle import hosts
from tests.conftest import installed, lacking, redis_program, required
from tests.integration import processes
from tests.waiting import wait_for

_numbers = count(1)
_RESOLVER = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Give the TCP port of a Redis for the whole session. The fleet uses database 0 of this Redis."""
    with processes.redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(autouse=True)
def _rested_hosts(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test, end the rests of all hosts at the session's Redis, because other tests use the same hosts."""
    yield
    if "redis_port" in request.fixturenames:
        with processes.connect(f"redis://127.0.0.1:{request.getfixturevalue('redis_port')}/0") as server:
            for host in hosts.list_hosts(server):
                if host.rests:
                    hosts.lift(server, host.key)


@pytest.fixture(scope="session")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder below which the shared fleet may write."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def out(store_root: Path) -> Path:
    """Give the path of a separate output folder below the fleet's store root. The folder does not exist yet."""
    return store_root / f"out-{next(_numbers)}"


@pytest.fixture(scope="session")
def fleet(redis_port: int, store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a broker with two workers. The plain Celery command without options starts the first worker."""
    url = f"redis://127.0.0.1:{redis_port}/0"
    folder = tmp_path_factory.mktemp("workers")
    with (
        processes.worker("first", folder, url, store_root, "127.0.0.1"),
        processes.worker("second", folder, url, store_root, "127.0.0.1", "--hostname", "second@%h"),
    ):
        processes.eventually(lambda: len(processes.worker_stats(url)) == 2, "two workers")
        yield url


@pytest.fixture(scope="session")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a demo server with small images. It has no latency, unless a URL sets a latency."""
    argv = [sys.executable, "-m", "producer.demo", "--port", "0", "--width", "80", "--height", "40"]
    with processes.started("demo", argv, tmp_path_factory.mktemp("demo")) as server:
        yield server.first_line()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Give the broker URL of a real Redis on a Unix socket. If Redis is missing, skip the test; in CI, fail."""
    program = redis_program()
    # The paths of pytest's own folders are too long for a Unix socket.
    folder = Path(tempfile.mkdtemp(prefix="imagefleet-test-"))
    path = folder / "redis.sock"
    argv = [program, "--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", ""]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        wait_for(path.exists)
        with broker_client.client(f"redis+socket://{path}") as server:
            wait_for(server.ping)
        yield f"redis+socket://{path}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Give a client of an empty Redis."""
    with broker_client.client(redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="module")
def possible_namespace(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """Give the beginning of a command that runs in a new network namespace, or the reason why this is impossible.

    The namespace has its own resolver. The command does not need to run as root if the system lets every user create
    namespaces.
    """
    missing = [program for program in ("ip", "unshare") if installed(program) is None]
    if missing:
        return [], f"{' and '.join(missing)} not installed"
    resolver = tmp_path_factory.mktemp("namespace") / "resolv.conf"
    resolver.write_text(_RESOLVER)
    options = ["--net", "--mount"] if os.geteuid() == 0 else ["--net", "--mount", "--user", "--map-root-user"]
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    command = [required("unshare"), *options, "sh", "-c", script, str(resolver)]
    created = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    return (command, "") if created.returncode == 0 else ([], created.stderr.strip())


@pytest.fixture(scope="module")
def namespace(possible_namespace: tuple[list[str], str]) -> list[str]:
    """Give the beginning of a command that runs in a new network namespace."""
    command, reason = possible_namespace
    if not command:
        lacking(f"can't create a network namespace: {reason}")
    return command
