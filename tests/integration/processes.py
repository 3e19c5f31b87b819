"""Start and stop the real programs of these tests, and wait for their effects."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pyarrow.parquet as pq
import redis
from celery import Celery
from celery.result import AsyncResult

from config.settings import REDIS_CONF
from tasks.broker import client as broker_client
from tasks.broker import requeue
from tasks.celery import app, use_broker
from tests.conftest import installed, redis_program, required
from tests.integration import warm_start

ROOT = Path(__file__).parents[2]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Completed:
    """The exit status and output of a finished command."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Return the one JSON object on the command's standard output."""
        assert self.code == 0, self.err
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def eventually(condition: Callable[[], _T], what: str, seconds: float = 30.0) -> _T:
    """Wait until a condition is true and return its value; fail the test after `seconds`."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.02)
    return found


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment, with imagefleet's settings removed and these changes applied.

    Commands write no report, because it takes longer than most runs of the tests.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEFLEET_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "IMAGEFLEET_REPORT": "off", **changes}


def command(arguments: Iterable[str | Path]) -> list[str]:
    """Return the argument list of a `producer` command."""
    return [sys.executable, "-m", "producer", *map(str, arguments)]


def producer(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    seconds: float = 60.0,
) -> Completed:
    """Run a `producer` command to its end; fail the test if it takes longer than `seconds`.

    If the test sets variables that are not imagefleet's, a new interpreter reads them. Other commands start in a fork.
    """
    changes = environment(env or {})
    if any(not name.startswith("IMAGEFLEET_") for name in env or {}):
        done = subprocess.run(
            command(arguments), env=changes, cwd=cwd, input=stdin, capture_output=True, timeout=seconds, check=False
        )
    else:
        done = warm_start.run([*map(str, arguments)], changes, cwd, stdin, seconds)
    return Completed(done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass(frozen=True)
class Background:
    """A program that runs beside the test, with its output in files."""

    process: subprocess.Popen[bytes]
    folder: Path
    name: str

    @property
    def out(self) -> str:
        """Return the program's standard output so far."""
        return (self.folder / f"{self.name}.out").read_text(errors="replace")

    @property
    def err(self) -> str:
        """Return the program's standard error so far."""
        return (self.folder / f"{self.name}.err").read_text(errors="replace")

    def first_line(self) -> str:
        """Wait for the program's first line on standard output, and return this line."""

        def line() -> str:
            assert self.process.poll() is None, f"{self.name} has ended: {self.err}"
            return self.out.partition("\n")[0] if "\n" in self.out else ""

        return eventually(line, f"the first line of {self.name}")

    def wait(self, seconds: float = 30.0) -> Completed:
        """Wait for the program to end."""
        return Completed(self.process.wait(seconds), self.out, self.err)

    def descendants(self) -> list[psutil.Process]:
        """Return the program's child processes and the descendants of these child processes."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def started(
    name: str,
    argv: Sequence[str],
    folder: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Background]:
    """Start a program in its own session, as a terminal does; end the program when the block is left."""
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        process = subprocess.Popen(
            argv, env=environment(env or {}), cwd=cwd, stdin=stdin, stdout=out, stderr=err, start_new_session=True
        )
    try:
        yield Background(process, folder, name)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass
class Screen:
    """A program on a terminal of 80 columns, and all output of the program."""

    process: subprocess.Popen[bytes]
    _terminal: int
    shown: bytearray = field(default_factory=bytearray)

    @property
    def text(self) -> str:
        """Return the output without terminal control codes; a redrawn line appears as a new line."""
        return _COMMANDS.sub("", self.shown.decode(errors="replace")).replace("\r", "\n")

    def type(self, keys: bytes) -> None:
        """Type keys, for example Ctrl-C."""
        os.write(self._terminal, keys)

    def read(self) -> None:
        """Read the output until the last program on the terminal has ended."""
        with suppress(OSError):
            while chunk := os.read(self._terminal, 4096):
                self.shown.extend(chunk)


@contextmanager
def terminal(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[Screen]:
    """Start a program on its own terminal; kill the program if it still runs when the block is left."""
    keyboard, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    # The first terminal that a new session opens becomes the session's controlling terminal, so Ctrl-C on this terminal
    # reaches the session.
    starter = [sys.executable, "-c", _ON_TERMINAL, os.ttyname(end), *argv]
    process = subprocess.Popen(
        starter, env=environment(env), cwd=ROOT, stdin=end, stdout=end, stderr=end, start_new_session=True
    )
    os.close(end)
    screen = Screen(process, keyboard)
    reader = threading.Thread(target=screen.read)
    reader.start()
    try:
        yield screen
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()
        os.close(keyboard)


_COMMANDS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ON_TERMINAL = "import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR)); os.execv(sys.argv[2], sys.argv[2:])"


def still_running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that still run; a zombie counts as ended."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if runs(process)]


def free_port() -> int:
    """Return a TCP port of loopback at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def redis_server(folder: Path, *options: str, port: int | None = None) -> Iterator[int]:
    """Start Redis at a TCP port of loopback with config/redis.conf and these extra options."""
    port = port or free_port()
    argv = [redis_program(), str(REDIS_CONF), "--bind", "127.0.0.1", "--port", str(port)]
    argv += ["--dir", str(folder), *options]
    with started("redis", argv, folder):
        eventually(lambda: _answers(port), "Redis")
        yield port


def _answers(port: int) -> bool:
    # A server with a password also answers, with the error -NOAUTH.
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def set_up_redis(folder: Path, names: str) -> None:
    """Run the documented commands for the Redis host, with this folder and these names."""
    required("openssl")
    page = ROOT / "docs" / "how-to" / "add-a-second-machine.md"
    commands = page.read_text().split("cd imagefleet\n")[1].partition("```")[0]
    script = commands.replace("/etc/imagefleet", str(folder)).replace("DNS:redis.example.com", names)
    done = subprocess.run(["sh", "-eu", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def worker(
    name: str, folder: Path, broker_url: str, store_root: Path | str, allow: str, *arguments: str
) -> Iterator[Background]:
    """Start a worker by the plain Celery command."""
    settings = {
        "IMAGEFLEET_BROKER_URL": broker_url,
        "IMAGEFLEET_STORE_ROOTS": str(store_root),
        "IMAGEFLEET_ALLOW_NETWORKS": allow,
    }
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "worker", *arguments]
    with started(name, argv, folder, settings) as process:
        yield process


def worker_stats(broker_url: str) -> dict[str, dict[str, Any]]:
    """Return the `inspect stats` answer of each worker at a broker, by worker name."""
    with Celery(set_as_current=False, broker=broker_client.celery_url(broker_url)) as asking:
        return dict(asking.control.inspect().stats() or {})


@contextmanager
def nginx(folder: Path, files: Path, more: str = "") -> Iterator[int]:
    """Start an nginx that serves a folder at a port of loopback.

    Each request is logged three times: hits.log has the path, requests.log has the path and query, and answers.log has
    the path, status and body size in bytes.

    Args:
        folder: the folder for the configuration and logs of nginx.
        files: the folder to serve.
        more: further directives for the server block.
    """
    port = free_port()
    # As root, nginx would run its workers as another user without access to the tests' folders.
    user = "user root;" if os.geteuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (folder / "nginx.conf").write_text(
        f"""
        {user} worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
        events {{ worker_connections 1024; }}
        http {{
            {" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)}
            log_format hits "$uri"; access_log {folder}/hits.log hits;
            log_format requests "$request_uri"; access_log {folder}/requests.log requests;
            log_format answers "$uri $status $body_bytes_sent"; access_log {folder}/answers.log answers;
            server {{ listen 127.0.0.1:{port}; root {files}; {more} }}
        }}
        """
    )
    argv = [required("nginx"), "-p", str(folder), "-e", str(folder / "nginx.log"), "-c", str(folder / "nginx.conf")]
    with started("nginx", argv, folder) as server:
        eventually(lambda: listens(server, port), "nginx")
        yield port


@contextmanager
def file_server(folder: Path, files: Path) -> Iterator[int]:
    """Serve a folder at a port of loopback by nginx or, where nginx is not installed, by `tests/file_server.py`.

    Both programs write the same logs; see `nginx`.
    """
    if installed("nginx"):
        with nginx(folder, files) as port:
            yield port
        return
    port = free_port()
    argv = [sys.executable, "-m", "tests.file_server", str(files), str(folder), str(port)]
    with started("file-server", argv, folder) as server:
        eventually(lambda: listens(server, port), "the file server")
        yield port


@contextmanager
def tls_proxy(folder: Path, target: int, certificate: Path, key: Path, port: int) -> Iterator[None]:
    """Accept TLS at a port of loopback, for a server that listens without TLS at the port `target`."""
    argv = [sys.executable, "-m", "tests.tls_proxy", str(port), str(target), str(certificate), str(key)]
    with started("tls-proxy", argv, folder) as proxy:
        eventually(lambda: listens(proxy, port), "the TLS proxy")
        yield


def listens(server: Background, port: int) -> bool:
    """Return whether a server listens at a port of loopback; fail if the server has ended."""
    assert server.process.poll() is None, server.err
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def app_with_broker(broker_url: str | None = None) -> Iterator[None]:
    """Connect this process's app to a Redis by new connections, and restore the app afterwards."""
    before = app.conf.imagefleet_broker_url
    use_broker(broker_url or before)
    try:
        yield
    finally:
        # Celery's results unsubscribe when they are deleted, and the Redis may have ended by then.
        for found in gc.get_objects():
            if isinstance(found, AsyncResult):
                found.backend = None
        use_broker(before)


def request_count(demo_url: str, route: str) -> int:
    """Return the number of requests for a route of the demo server."""
    with urllib.request.urlopen(f"{demo_url}/stats", timeout=10) as answer:
        return int(json.load(answer).get(route, 0))


def connect(broker_url: str) -> redis.Redis:
    """Return a client for a broker; the caller closes it."""
    return redis.Redis.from_url(broker_url, decode_responses=True)


def unacked_count(server: redis.Redis) -> int:
    """Return the number of unacknowledged messages of all workers."""
    counts: list[Any] = [server.hlen(name) for name in requeue.unacked_hashes(server)]
    return sum(counts)


def rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all manifests of a run, in order."""
    manifests = sorted(out.glob("[0-9]*.parquet"))
    return [row for manifest in manifests for row in pq.read_table(manifest).to_pylist()]


def files_below(folder: Path) -> set[str]:
    """Return the relative paths of the files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def image_files(out: Path) -> set[str]:
    """Return the files in a run's shard folders, relative to the run's folder."""
    return {name for name in files_below(out) if "/" in name and not name.startswith(".plan/")}


def error_parts(ended: Completed) -> tuple[str, str, str]:
    """Return the three parts of a command's error message: what happened, why, and what to do.

    If the command ran with ``--json``, make sure that its one object on standard output has the same three parts.
    """
    assert "Traceback" not in ended.err, ended.err
    # Log lines may come before the error, and a long part continues on indented lines.
    match = re.fullmatch(r"(?:.*\n)?Error:(.+)\nWhy:(.+)\nTo do:(.+)", _UNINDENTED.sub("\n", ended.err), re.DOTALL)
    assert match is not None, ended.err
    what, why, todo = (" ".join(part.split()) for part in match.groups())
    assert what, ended.err
    assert why, ended.err
    assert todo, ended.err
    if ended.out:
        assert ended.out.count("\n") == 1
        error = json.loads(ended.out)["error"]
        assert error.pop("exit_code") == ended.code
        # The message breaks a word that is longer than a line.
        assert [_unspaced(error[name]) for name in ("what", "why", "todo")] == [*map(_unspaced, (what, why, todo))]
    return what, why, todo


def _unspaced(text: str) -> str:
    return "".join(text.split())


#: The labels may be aligned to the right or to the left of their column.
_UNINDENTED = re.compile(r"\n +(?=Why:|To do:)")


def missing_or_empty(folder: Path) -> bool:
    """Return whether a folder does not exist or is empty."""
    return not folder.exists() or not any(folder.iterdir())


def remove(folder: Path) -> None:
    """Remove a folder after its test, because pytest would keep its thousands of images until later sessions."""
    shutil.rmtree(folder)
