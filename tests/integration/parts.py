"""The real programs that these tests start and end, and how to wait for what they do."""

from __future__ import annotations

import fcntl
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
from kombu import pools

from config.settings import REDIS_CONF
from tasks import presence
from tasks.celery import app, use_broker
from tests.conftest import redis_program, required

ROOT = Path(__file__).parents[2]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON object that stands on its standard output."""
        assert self.code == 0, self.err
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def eventually(condition: Callable[[], _T], what: str, seconds: float = 30.0) -> _T:
    """Wait until a condition holds, and return what it returned; fail when it does not come true in time."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.02)
    return found


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of ours, and with the changes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEFLEET_")}
    return {**kept, "PYTHONPATH": str(ROOT), **changes}


def command(arguments: Iterable[str | Path]) -> list[str]:
    """The argument list of a `producer` command."""
    return [sys.executable, "-m", "producer", *map(str, arguments)]


def producer(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    seconds: float = 60.0,
) -> Ended:
    """Run a `producer` command to its end; one that does not end in time fails the test."""
    done = subprocess.run(
        command(arguments),
        env=environment(env or {}),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass(frozen=True)
class Background:
    """A program that runs beside the test; its output goes to files."""

    process: subprocess.Popen[bytes]
    folder: Path
    name: str

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return (self.folder / f"{self.name}.out").read_text(errors="replace")

    @property
    def err(self) -> str:
        """What it has said on standard error so far."""
        return (self.folder / f"{self.name}.err").read_text(errors="replace")

    def first_line(self) -> str:
        """Its first line on standard output, once it is there."""

        def line() -> str:
            assert self.process.poll() is None, f"{self.name} has ended: {self.err}"
            return self.out.partition("\n")[0] if "\n" in self.out else ""

        return eventually(line, f"the first line of {self.name}")

    def wait(self, seconds: float = 30.0) -> Ended:
        """Wait for its end."""
        return Ended(self.process.wait(seconds), self.out, self.err)

    def family(self) -> list[psutil.Process]:
        """All processes that it has started, and those that they have started."""
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
    """Start a program in a session of its own, as a terminal does; it is ended when the block is left."""
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
    """A program on a terminal of 80 columns, and all that it has shown."""

    process: subprocess.Popen[bytes]
    _terminal: int
    shown: bytearray = field(default_factory=bytearray)

    @property
    def text(self) -> str:
        """What was shown, without the commands to the terminal; what replaced a line stands on one of its own."""
        return _COMMANDS.sub("", self.shown.decode(errors="replace")).replace("\r", "\n")

    def type(self, keys: bytes) -> None:
        """Type keys; Ctrl-C is one."""
        os.write(self._terminal, keys)

    def read(self) -> None:
        """Read what is shown until the last program of the terminal has ended."""
        with suppress(OSError):
            while some := os.read(self._terminal, 4096):
                self.shown.extend(some)


@contextmanager
def terminal(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[Screen]:
    """Start a program on a terminal that is its own; it is killed if it has not ended when the block is left."""
    keyboard, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    # The terminal that a new session opens first is the one whose Ctrl-C it hears.
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


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that has ended and was not yet reaped does not."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if runs(process)]


def free_port() -> int:
    """A TCP port of loopback at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def redis_server(folder: Path, *options: str, port: int | None = None) -> Iterator[int]:
    """A Redis at a TCP port of loopback with the settings of config/redis.conf, and other options on top."""
    port = port or free_port()
    argv = [redis_program(), str(REDIS_CONF), "--bind", "127.0.0.1", "--port", str(port)]
    argv += ["--dir", str(folder), *options]
    with started("redis", argv, folder):
        eventually(lambda: _greets(port), "Redis")
        yield port


def _greets(port: int) -> bool:
    # Also a server that wants a password first answers.
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def set_up_redis(folder: Path, names: str) -> None:
    """Make in a folder what docs/many-machines.md makes on the host of Redis: its first commands, for other names."""
    required("openssl")
    commands = (ROOT / "docs" / "many-machines.md").read_text().split("```sh\n")[1].partition("```")[0]
    script = commands.replace("/etc/imagefleet", str(folder)).replace("DNS:redis.example.com", names)
    done = subprocess.run(["sh", "-eu", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def worker(
    name: str, folder: Path, broker_url: str, store_root: Path, allow: str, *arguments: str
) -> Iterator[Background]:
    """A worker, started by the plain Celery command."""
    settings = {
        "IMAGEFLEET_BROKER_URL": broker_url,
        "IMAGEFLEET_STORE_ROOTS": str(store_root),
        "IMAGEFLEET_ALLOW_NETWORKS": allow,
    }
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "worker", *arguments]
    with started(name, argv, folder, settings) as process:
        yield process


def worker_stats(broker_url: str) -> dict[str, dict[str, Any]]:
    """What each worker at a broker says of itself, by its name."""
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "inspect", "stats", "--json"]
    env = environment({"IMAGEFLEET_BROKER_URL": broker_url})
    done = subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, timeout=60, check=False)
    # Without any worker, it says so in words and fails.
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


@contextmanager
def nginx(folder: Path, files: Path, more: str = "") -> Iterator[int]:
    """An nginx that serves a folder at a port of loopback; ``more`` is what its server is told besides.

    It writes each path that was asked for into hits.log, and into requests.log with its query; answers.log has the
    status and the bytes of the body, too.
    """
    port = free_port()
    # Started by root, its workers would be another user, who may not read the tests' folders.
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

        def listens() -> bool:
            assert server.process.poll() is None, server.err
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens, "nginx")
        yield port


@contextmanager
def borrowed_app(broker_url: str | None = None) -> Iterator[None]:
    """Let this process's app use a Redis, by connections that are opened anew, and have it as it was at the end.

    A pool that was closed is never filled again, and the app would go on waiting at it.
    """
    before = app.conf.imagefleet_broker_url
    _forget_connections()
    if broker_url is not None:
        use_broker(broker_url)
    try:
        yield
    finally:
        _forget_connections()
        use_broker(before)


def _forget_connections() -> None:
    pools.reset()
    app._pool = app.amqp._producer_pool = None


def hits(demo_url: str, route: str) -> int:
    """How many requests a route of the demo server has had."""
    with urllib.request.urlopen(f"{demo_url}/stats", timeout=10) as answer:
        return int(json.load(answer).get(route, 0))


def connect(broker_url: str) -> redis.Redis:
    """A client for a broker; to be closed."""
    return redis.Redis.from_url(broker_url, decode_responses=True)


def held(server: redis.Redis) -> int:
    """How many messages are with workers, unacknowledged."""
    counts: list[Any] = [server.hlen(name) for name in presence.holders(server)]
    return sum(counts)


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows of all manifests of a run, in order."""
    manifests = sorted(out.glob("[0-9]*.parquet"))
    return [row for manifest in manifests for row in pq.read_table(manifest).to_pylist()]


def files_below(folder: Path) -> set[str]:
    """The files below a folder, by their relative paths."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def images_of(out: Path) -> set[str]:
    """The files in a run's shard folders, by their paths relative to the run's folder."""
    return {name for name in files_below(out) if "/" in name and not name.startswith(".plan/")}


def told(ended: Ended) -> tuple[str, str, str]:
    """The three parts of what a command says of its fault: what happened, why, and what to do.

    With ``--json``, the one object on its standard output says the same.
    """
    assert "Traceback" not in ended.err, ended.err
    # A long part goes on below itself; what was noted before the fault comes first.
    said = re.fullmatch(r"(?:.*\n)?Error:(.+)\nWhy:(.+)\nTo do:(.+)", _UNINDENTED.sub("\n", ended.err), re.DOTALL)
    assert said is not None, ended.err
    what, why, todo = (" ".join(part.split()) for part in said.groups())
    assert what, ended.err
    assert why, ended.err
    assert todo, ended.err
    if ended.out:
        assert ended.out.count("\n") == 1
        error = json.loads(ended.out)["error"]
        assert error.pop("exit_code") == ended.code
        # A word that is too long for a line of the text is broken there.
        assert [_unspaced(error[name]) for name in ("what", "why", "todo")] == [*map(_unspaced, (what, why, todo))]
    return what, why, todo


def _unspaced(text: str) -> str:
    return "".join(text.split())


#: The labels of the three parts may be set to the right or to the left of their column.
_UNINDENTED = re.compile(r"\n +(?=Why:|To do:)")


def emptied(folder: Path) -> bool:
    """Whether a folder is not there, or has nothing in it."""
    return not folder.exists() or not any(folder.iterdir())


def remove(folder: Path) -> None:
    """Remove a folder that a test is done with: thousands of images would stay until the next runs."""
    shutil.rmtree(folder)
