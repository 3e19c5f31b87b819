"""Start `producer` commands in forks of a process that has already imported the libraries.

Importing the libraries takes most of the time of a short command. The project's own modules are imported by each
command, because some of them read the environment.

A command gets its own environment, folder and standard streams, and it ends as any other Python process does. But
environment variables that Python or a library has read before the fork have no effect.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
_LIBRARIES = (
    *("celery.app.base", "celery.app.amqp", "celery.app.control", "celery.app.task", "celery.backends.redis"),
    *("celery.canvas", "celery.result", "kombu.transport.redis", "redis.sentinel"),
    *("PIL.Image", "ada_url", "click", "orjson", "pyarrow.compute", "pyarrow.parquet", "pydantic_settings"),
    *("requests", "rich.console", "rich.progress", "rich.table"),
)
#: The largest request: the arguments and the environment.
_REQUEST_BYTES = 1024 * 1024


class _Server:
    """The process that has imported the libraries."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-m", "tests.integration.warm_start", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                argv, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        atexit.register(self._end)

    def run(self, request: bytes, stdin: bytes, streams: Sequence[int], seconds: float) -> int:
        """Run a command, and return its exit status as `subprocess` does."""
        read, write = os.pipe()
        with self._lock, os.fdopen(write, "wb") as pipe:
            socket.send_fds(self._ours, [request], [read, *streams])
            os.close(read)
            has_ended = False
            try:
                with suppress(BrokenPipeError):
                    pipe.write(stdin)
                    pipe.close()
                has_ended = bool(select.select([self._ours], [], [], seconds)[0])
            finally:
                if not has_ended:
                    for child in psutil.Process(self._process.pid).children():
                        child.kill()
                status = int(self._ours.recv(100))
        if not has_ended:
            raise subprocess.TimeoutExpired("producer", seconds)
        return status

    def _end(self) -> None:
        self._ours.close()
        self._process.wait()


_server = cache(_Server)


def run(
    arguments: Sequence[str], env: Mapping[str, str], cwd: Path | None, stdin: bytes, seconds: float
) -> subprocess.CompletedProcess[bytes]:
    """Run a `producer` command to its end.

    Raises:
        subprocess.TimeoutExpired: the command takes longer than `seconds`.
    """
    request = json.dumps({"arguments": arguments, "env": dict(env), "cwd": str(cwd or Path.cwd())}).encode()
    with TemporaryFile() as out, TemporaryFile() as err:
        code = _server().run(request, stdin, [out.fileno(), err.fileno()], seconds)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def _serve(server: socket.socket) -> None:
    """Start a fork for each request. Return in the forks, and at the end of the last client."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    while True:
        message, streams, _, _ = socket.recv_fds(server, _REQUEST_BYTES, 3)
        if not message:
            return
        if (child := os.fork()) == 0:
            server.close()
            _become(json.loads(message), streams)
            return
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        server.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Take over the arguments, the environment, the folder and the standard streams of a command."""
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv[1:] = request["arguments"]


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        sys.argv[1:] = []
        _serve(given)
    if sys.argv[1:]:
        runpy.run_module("producer", run_name="__main__", alter_sys=True)
