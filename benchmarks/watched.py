"""A fleet on this machine whose parts are watched: a Redis with a TCP port, workers, and producers one after another.

It is what the docs describe for several machines, on one: the settings of ``config/redis.conf``, plain Celery workers,
``producer run --broker``. A run's cost is told by part, so that each can be counted on for itself.
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
from benchmarks.traffic import Tap, Turn
from config.settings import REDIS_CONF
from producer.keeping import Keeping
from producer.local import server_binary, worker_argv

#: Seconds between two looks at memory.
_SAMPLE = 1.0
#: Seconds within which Redis and the workers have to answer.
_PATIENCE = 60.0
_GRACE = 5.0
PRODUCER, WORKERS, REDIS = "producer", "workers", "redis"


@dataclass(frozen=True)
class Taken:
    """What a run took of each part: the producer, the workers together, and Redis."""

    #: What the producer printed, and where its output is.
    report: dict[str, Any]
    out: Path
    #: CPU seconds, by part.
    cpu: dict[str, float]
    #: Bytes, by part: the unique set sizes, which would be free if its processes ended.
    peak_memory: dict[str, int]
    #: Bytes that Redis allocated at most since it began.
    peak_allocated: int
    #: Keys in Redis after the run, and connections of the workers.
    keys_left: int
    connections: int
    work: RedisWork


@dataclass(frozen=True)
class Size:
    """How many worker processes, and how many slots in each."""

    workers: int
    concurrency: int


class WatchedFleet:
    """A context manager: what it starts ends with it."""

    def __init__(
        self,
        size: Size,
        root: Path,
        url: str,
        pictures: int,
        include: Sequence[str] = (),
        redis_options: Sequence[str] = (),
        recorded: bool = False,
    ) -> None:
        """Take its size, the folder below which it writes, and a server with pictures.

        Args:
            url: of the server, which has ``/0.jpg``, ``/1.jpg`` and so on.
            pictures: how many it has.
            include: modules that the workers load besides their own.
            redis_options: what Redis is told besides ``config/redis.conf``.
            recorded: whether `turns` is to hold what workers and producers say to Redis.
        """
        self._size, self._root, self._url, self._pictures = size, root, url, pictures
        self._include, self._redis_options, self._recorded = include, redis_options, recorded
        self.turns: list[Turn] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._keeping = stack.enter_context(Keeping())
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.port = probe.getsockname()[1]
            self._server = stack.enter_context(redis.Redis(port=self.port, decode_responses=True))
            options = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._keeping.folder))
            argv = [server_binary(), str(REDIS_CONF), *options, *self._redis_options]
            self._keeping.start(REDIS, argv, {}, _GRACE)
            self._wait_for("Redis", self._answers)
            port = stack.enter_context(Tap(self.port, self.turns)).port if self._recorded else self.port
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
            # A worker waits for each of its two queues on a connection of its own.
            self._wait_for("a worker", lambda: self._waiting() == 2 * self._size.workers)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, images: int) -> Taken:
        """Run a list of so many images to its end and return what that took; the fleet's own start is not part of it.

        What it saved stays: before it gives away an inode, an ext4 looks through those that were deleted in the last
        minutes, so the next run would pay for the last one.

        Raises:
            RuntimeError: the run failed, or images of it did.
        """
        place = Path(tempfile.mkdtemp(dir=self._root))
        source, out = place / "urls.txt", place / "out"
        with source.open("w", encoding="utf-8") as lines:
            # The pictures are few; the queries make their URLs different.
            lines.writelines(f"{self._url}/{number % self._pictures}.jpg?n={number}\n" for number in range(images))
        argv = [sys.executable, "-m", "producer", "run", str(source), "--out", str(out), "--json"]
        argv += ["--broker", self._broker_url]
        work, cpu = RedisWork.so_far(self._server), self._cpu()
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
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
        return Taken(
            report=report,
            out=out,
            cpu={
                PRODUCER: used.ru_utime + used.ru_stime - ended.ru_utime - ended.ru_stime,
                **{role: now - cpu[role] for role, now in self._cpu().items()},
            },
            peak_memory=memory.peak,
            peak_allocated=int(self._memory()["used_memory_peak"]),
            keys_left=cast("int", self._server.dbsize()),
            connections=int(cast("dict[str, Any]", self._server.info("clients"))["connected_clients"]) - 1,
            work=RedisWork.so_far(self._server).since(work),
        )

    def allocated(self) -> int:
        """Return the bytes that Redis has allocated now."""
        return int(self._memory()["used_memory"])

    def _memory(self) -> dict[str, Any]:
        found: dict[str, Any] = self._server.info("memory")
        return found

    def _pids(self) -> dict[str, list[int]]:
        pids = self._keeping.pids
        return {REDIS: [pids[REDIS]], WORKERS: [pid for name, pid in pids.items() if name != REDIS]}

    def _cpu(self) -> dict[str, float]:
        """Return the CPU seconds of each part so far, with those of its children that have ended."""
        return {
            role: sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in pids) for role, pids in self._pids().items()
        }

    def _waiting(self) -> int:
        return int(cast("dict[str, Any]", self._server.info("clients"))["blocked_clients"])

    def _answers(self) -> bool:
        try:
            return bool(self._server.ping())
        except redis.ConnectionError:
            return False

    def _wait_for(self, what: str, ready: Callable[[], bool]) -> None:
        ends = time.monotonic() + _PATIENCE
        while not ready():
            self._keeping.check()
            if time.monotonic() > ends:
                raise RuntimeError(f"{what} did not answer within {_PATIENCE:.0f} s")
            time.sleep(0.05)


class _PeakMemory:
    """The peaks of memory of some processes, looked at once a second by a thread of its own."""

    def __init__(self, pids: dict[str, list[int]]) -> None:
        self.peak = dict.fromkeys(pids, 0)
        self._pids = pids
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory")
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE):
            for role, pids in self._pids.items():
                # The producer may have ended a moment ago.
                with suppress(psutil.Error):
                    used = sum(psutil.Process(pid).memory_full_info().uss for pid in pids)
                    self.peak[role] = max(self.peak[role], used)
