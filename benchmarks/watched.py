"""Measure each part of a fleet on this machine: a Redis that has a TCP port, workers, and one producer after another.

The fleet is set up as the docs describe for several machines, although it runs on one. It uses the settings of
``config/redis.conf``, plain Celery workers, and ``producer run --broker``. The cost of a run is measured for each part,
so that each part can be planned separately.
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import psutil
import redis

from benchmarks.redis_work import RedisWork
from benchmarks.traffic import Batch, Recorder
from config.settings import REDIS_CONF
from producer.local_fleet.fleet import server_binary, worker_argv
from producer.local_fleet.supervisor_client import SupervisorClient

#: Seconds between two samples of memory.
_SAMPLE = 1.0
#: Seconds within which Redis and the workers must answer.
_TIMEOUT = 60.0
_GRACE = 5.0
PRODUCER, WORKERS, REDIS = "producer", "workers", "redis"


@dataclass(frozen=True)
class RunUsage:
    """The resources that a run used, for each part: the producer, all workers together, and Redis."""

    #: The producer's JSON, and the output folder.
    report: dict[str, Any]
    out: Path
    #: CPU seconds, by part.
    cpu: dict[str, float]
    #: Bytes of memory, by part: the sum of the unique set sizes of its processes. This much memory would become free if
    #: the processes ended.
    peak_memory: dict[str, int]
    #: The largest number of bytes that Redis had allocated since its start.
    peak_allocated: int
    #: The number of keys in Redis after the run, and the number of the workers' connections.
    remaining_keys: int
    connections: int
    work: RedisWork


@dataclass(frozen=True)
class Size:
    """The number of worker processes, and the number of slots in each process."""

    workers: int
    concurrency: int


class MeasuredFleet:
    """A Redis server and workers. This context manager ends these processes at its exit."""

    def __init__(
        self,
        size: Size,
        root: Path,
        url: str,
        image_count: int,
        include: Sequence[str] = (),
        redis_options: Sequence[str] = (),
        record: bool = False,
    ) -> None:
        """Prepare a fleet. Its processes start when the context manager is entered.

        Args:
            size: number of workers and slots.
            root: folder for all files of the fleet.
            url: web server with the images ``/0.jpg``, ``/1.jpg`` and so on.
            image_count: number of images on that server.
            include: additional modules that the workers load.
            redis_options: options for Redis on top of ``config/redis.conf``.
            record: whether to keep in `batches` the commands that workers and producers send to Redis.
        """
        self._size, self._root, self._url, self._image_count = size, root, url, image_count
        self._include, self._redis_options, self._record = include, redis_options, record
        self.batches: list[Batch] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._keeping = stack.enter_context(SupervisorClient())
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.port = probe.getsockname()[1]
            self._server = stack.enter_context(redis.Redis(port=self.port, decode_responses=True))
            options = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._keeping.folder))
            argv = [server_binary(), str(REDIS_CONF), *options, *self._redis_options]
            self._keeping.start(REDIS, argv, {}, _GRACE)
            self._wait_for("Redis", self._is_ready)
            port = stack.enter_context(Recorder(self.port, self.batches)).port if self._record else self.port
            self._broker_url = f"redis://127.0.0.1:{port}/0"
            env = {
                "IMAGEFLEET_BROKER_URL": self._broker_url,
                "IMAGEFLEET_STORE_ROOTS": str(self._root),
                "IMAGEFLEET_ALLOW_NETWORKS": self._url.removeprefix("http://"),
                "IMAGEFLEET_TASK_EVENTS": "off",
            }
            for number in range(self._size.workers):
                worker = worker_argv(f"worker-{number}@%h", self._size.concurrency)
                for module in self._include:
                    worker += ["--include", module]
                self._keeping.start(f"worker-{number}", worker, env, _GRACE)
            # A worker waits for each of its two queues on a separate connection.
            self._wait_for("a worker", lambda: self._blocked_clients() == 2 * self._size.workers)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, images: int) -> RunUsage:
        """Download a list of ``images`` images and return the used resources.

        The resources for the fleet's startup are not included.

        The saved files are not deleted. Before ext4 allocates an inode, it searches the inodes deleted in the last
        minutes, so a deletion would slow down the next run.

        Raises:
            RuntimeError: the run or an image failed.
        """
        place = Path(tempfile.mkdtemp(dir=self._root))
        source, out = place / "urls.txt", place / "out"
        with source.open("w", encoding="utf-8") as lines:
            # There are only a few different images. The queries make the URLs unique.
            lines.writelines(f"{self._url}/{number % self._image_count}.jpg?n={number}\n" for number in range(images))
        argv = [sys.executable, "-m", "producer", "run", str(source), "--out", str(out), "--json"]
        argv += ["--broker", self._broker_url]
        work, cpu = RedisWork.read(self._server), self._cpu()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        ) as producer:
            memory = _PeakMemory({PRODUCER: [producer.pid], **self._pids()})
            output, errors = producer.communicate()
            memory.stop()
        if producer.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)} failed with {producer.returncode}:\n{errors[-2000:]}")
        report = json.loads(output)
        if report["failed"]:
            raise RuntimeError(f"{report['failed']} images failed: {report['reasons']}")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return RunUsage(
            report=report,
            out=out,
            cpu={
                PRODUCER: used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
                **{role: now - cpu[role] for role, now in self._cpu().items()},
            },
            peak_memory=memory.peak,
            peak_allocated=int(self._memory()["used_memory_peak"]),
            remaining_keys=cast("int", self._server.dbsize()),
            connections=int(cast("dict[str, Any]", self._server.info("clients"))["connected_clients"]) - 1,
            work=RedisWork.read(self._server).since(work),
        )

    def allocated(self) -> int:
        """Return the bytes allocated by Redis now."""
        return int(self._memory()["used_memory"])

    def _memory(self) -> dict[str, Any]:
        found: dict[str, Any] = self._server.info("memory")
        return found

    def _pids(self) -> dict[str, list[int]]:
        pids = self._keeping.pids
        return {REDIS: [pids[REDIS]], WORKERS: [pid for name, pid in pids.items() if name != REDIS]}

    def _cpu(self) -> dict[str, float]:
        """Return the CPU seconds of each part so far. Child processes that have ended are included."""
        return {
            role: sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in pids) for role, pids in self._pids().items()
        }

    def _blocked_clients(self) -> int:
        return int(cast("dict[str, Any]", self._server.info("clients"))["blocked_clients"])

    def _is_ready(self) -> bool:
        try:
            return bool(self._server.ping())
        except redis.ConnectionError:
            return False

    def _wait_for(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while not is_ready():
            self._keeping.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not answer within {_TIMEOUT:.0f} s")
            time.sleep(0.05)


class _PeakMemory:
    """The peak memory of some processes, by part. A thread samples the memory once a second."""

    def __init__(self, pids: dict[str, list[int]]) -> None:
        self.peak = dict.fromkeys(pids, 0)
        self._pids = pids
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory")
        self._thread.start()

    def stop(self) -> None:
        """End the sampling."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(_SAMPLE):
            for role, pids in self._pids.items():
                # The producer may have just ended.
                with suppress(psutil.Error):
                    used = sum(psutil.Process(pid).memory_full_info().uss for pid in pids)
                    self.peak[role] = max(self.peak[role], used)
