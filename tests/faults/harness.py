"""The harness of the fault tests: Redis, workers and producers that a test can kill, and checks of a finished run.

The harness restarts dead workers, as Compose does. A run without faults requests each URL once, so a further request in
nginx's log shows that an image was fetched twice.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from PIL import Image

from config.settings import REDIS_CONF
from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE
from tasks.throttle.keys import PARKED_HOSTS
from tests.conftest import redis_program
from tests.faults import once, table
from tests.integration import processes

#: Number of images on the nginx server. The lists repeat the URLs of these images, and each repetition has another
#: query.
_DIFFERENT_IMAGES = 200
#: Smallest size of an image in bytes. The tests delay images by sending them slowly, so images must not be too small.
_MIN_BYTES = 3_000
#: Manifest columns that must be equal in two runs over the same list.
FACTS = ("key", "url", "status", "reason", "path", "width", "height", "format", "bytes", "sha256")
#: This folder is empty unless a worker is writing.
_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Site:
    """An nginx that serves images, and nginx's log of requests."""

    url: str
    folder: Path
    originals: list[bytes]

    def urls(self, count: int, run: str, rate: int = 0) -> list[str]:
        """Return different URLs for a run.

        Args:
            count: number of URLs.
            run: name of the run, which makes its URLs unique.
            rate: bytes per second of each response, or 0 for no limit. At a rate of half an image per second, an image
                takes about a second.
        """
        return [
            f"{self.url}/{number % _DIFFERENT_IMAGES}.png?run={run}&n={number}&rate={rate}" for number in range(count)
        ]

    def hits(self, run: str) -> Counter[str]:
        """Return the number of requests for each URL of a run."""
        requests = (self.folder / "requests.log").read_text().splitlines()
        return Counter(line for line in requests if f"?run={run}&" in line)


@contextmanager
def serve_images(folder: Path) -> Iterator[Site]:
    """Serve small, different images with an nginx that sends each image at the rate given in its URL."""
    files = folder / "files"
    files.mkdir()
    originals = []
    noise = random.Random(1)
    for number in range(_DIFFERENT_IMAGES):
        path = files / f"{number}.png"
        Image.frombytes("RGB", (40, 30), noise.randbytes(40 * 30 * 3)).save(path)
        originals.append(path.read_bytes())
    assert min(map(len, originals)) > _MIN_BYTES
    with processes.nginx(folder, files, "limit_rate $arg_rate;") as port:
        yield Site(f"http://127.0.0.1:{port}", folder, originals)


class Server:
    """A Redis with an append-only file and a fixed port."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Take a folder for the data of Redis, and options in addition to our settings."""
        self.port = processes.free_port()
        self.client = redis.Redis(port=self.port, decode_responses=True)
        self._data, self._options = folder / "redis", options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, wait: bool = True) -> None:
        """Start Redis with its previous data. If ``wait`` is true, wait until Redis accepts commands."""
        self._data.mkdir(exist_ok=True)
        conf = self._data / "redis.conf"
        if not conf.exists():
            # The server gets a copy of the configuration file, because a server that Sentinels monitor writes its state
            # into this file.
            shutil.copy(REDIS_CONF, conf)
        argv = [redis_program(), str(conf), "--bind", "127.0.0.1", "--port", str(self.port)]
        argv += ["--dir", str(self._data), *self._options]
        with (self._data / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        if wait:
            processes.eventually(self._is_ready, "Redis")

    def kill(self, forget: bool = False) -> None:
        """Kill Redis; if ``forget`` is true, delete its data too."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        if forget:
            shutil.rmtree(self._data)

    def close(self) -> None:
        """End it."""
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _is_ready(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class Fleet:
    """Plain Celery workers that are restarted when they die."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        """Take the output folder and the broker of the workers."""
        self._folder, self._broker_url = folder, broker_url
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.deaths = 0

    def add(self, count: int, *arguments: str, app: str = "tasks", slots: int = 8) -> None:
        """Start more workers."""
        for _ in range(count):
            name = f"worker-{len(self._threads)}"
            argv = [sys.executable, "-m", "celery", "-A", app, "worker", "-P", "threads", "-c", str(slots)]
            argv += ["-n", f"{name}@%h", "-l", "WARNING", "--without-gossip", "--without-mingle", *arguments]
            thread = threading.Thread(target=self._supervise, args=[name, argv], name=name)
            self._threads.append(thread)
            thread.start()

    def kill_one(self) -> None:
        """Kill a random worker."""
        with self._lock:
            running = [process for process in self._processes.values() if process.poll() is None]
            if running:
                random.choice(running).kill()

    def end(self, grace: float = 15.0) -> None:
        """End all workers. New workers can be added afterwards."""
        self._over.set()
        with self._lock:
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM if grace else signal.SIGKILL)
        for thread in self._threads:
            thread.join(grace or None)
        with self._lock:
            for process in self._processes.values():
                process.kill()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._processes.clear()
        self._over.clear()

    def logs(self) -> str:
        """Return the logs of all workers."""
        return "".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("worker-*.log")))

    def _supervise(self, name: str, argv: Sequence[str]) -> None:
        env = processes.environment(
            {
                "IMAGEFLEET_BROKER_URL": self._broker_url,
                "IMAGEFLEET_STORE_ROOTS": str(self._folder),
                "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1",
                "IMAGEFLEET_TASK_EVENTS": "off",
                once.VARIABLE: str(self._folder / "once"),
            }
        )
        with (self._folder / f"{name}.log").open("ab") as log:
            while not self._over.is_set():
                with self._lock:
                    process = subprocess.Popen(
                        argv, env=env, cwd=processes.ROOT, stdout=log, stderr=log, start_new_session=True
                    )
                    self._processes[name] = process
                process.wait()
                self.deaths += process.returncode != 0


@dataclass
class Arena:
    """One run with its Redis and workers. This context manager ends all processes."""

    folder: Path
    site: Site
    #: Options for Redis in addition to our settings.
    redis_options: tuple[str, ...] = ()
    #: Module to run as the `producer` command.
    module: str = "producer"
    _stack: ExitStack = field(default_factory=ExitStack)
    #: Number of faults so far, and the time of the last fault.
    _faults: int = 0
    _last_fault: float = 0.0

    def __enter__(self) -> Self:
        self.prepare_run(self.folder.name)
        self.server = Server(self.folder, *self.redis_options)
        self._stack.callback(self.server.close)
        self.server.start()
        self.fleet = Fleet(self.folder, self.server.url)
        self._stack.callback(self.fleet.end, 0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def prepare_run(self, name: str) -> None:
        """Prepare another run, which has another name and uses the same Redis and workers."""
        self.name, self.out = name, self.folder / f"out-{name}"
        self._faults, self._last_fault = 0, 0.0

    def list(self, count: int, rate: int = 0) -> Path:
        """Write a list of ``count`` images; see `Site.urls`."""
        self.urls = self.site.urls(count, self.name, rate)
        source = self.folder / "list.txt"
        source.write_text("".join(f"{url}\n" for url in self.urls))
        return source

    def run(
        self, source: Path | str, *arguments: str, name: str = "run", stdin: int = subprocess.DEVNULL
    ) -> AbstractContextManager[processes.Background]:
        """Return a context manager for a new run."""
        return self._start(name, ["run", source, "--out", self.out, *arguments], stdin)

    def start_resume(self) -> AbstractContextManager[processes.Background]:
        """Return a context manager for the resumed run."""
        return self._start("resume", ["resume", self.out], subprocess.DEVNULL)

    def resume(self) -> processes.Completed:
        """Resume the run, and wait for its end."""
        with self.start_resume() as running:
            return running.wait(240)

    def _start(
        self, name: str, arguments: Sequence[str | Path], stdin: int
    ) -> AbstractContextManager[processes.Background]:
        argv = [sys.executable, "-m", self.module, *map(str, arguments), "--broker", self.server.url, "--json"]
        return processes.started(name, argv, self.folder, stdin=stdin)

    def count_fault(self) -> None:
        """Record a fault now."""
        self._faults += 1
        self._last_fault = time.monotonic()

    def is_idle(self) -> bool:
        """Return whether nothing is in flight: no message is queued, parked or unacknowledged."""
        client = self.server.client
        waiting = client.llen(IMAGE_QUEUE) or client.llen(SHARD_QUEUE) or client.scard(PARKED_HOSTS)
        return not (waiting or processes.unacked_count(client))

    def saved(self) -> int:
        """Return the number of images on disk."""
        shards = self.out.glob("[0-9]*[0-9]/")
        return sum(sum(1 for _ in os.scandir(shard)) for shard in shards)

    def wait_until_saved(self, count: int, running: processes.Background | None = None, seconds: float = 120.0) -> None:
        """Wait until ``count`` images are on disk."""

        def are_saved() -> bool:
            assert running is None or running.process.poll() is None, running.err
            return self.saved() >= count

        processes.eventually(are_saved, f"{count} images", seconds)

    def verify(self, fault: str | None, success: int | None = None, state: str = "complete") -> Results:
        """Verify the output of the run, and add it to the table.

        Args:
            fault: label in the table; None adds no row.
            success: expected number of saved images; None for all.
            state: expected state in the run's record.
        """
        recovered = time.monotonic() - self._last_fault if self._last_fault else 0.0
        found = verify_output(self.out, self.site, self.urls)
        assert json.loads((self.out / "run.json").read_text())["state"] == state
        twice = sum(times - 1 for times in self.site.hits(self.name).values())
        lost = len(self.urls) - found.outcomes + found.lost
        if fault is not None:
            row = table.Row(fault, self._faults, len(self.urls), found.outcomes, lost, twice, recovered)
            table.rows.append(row)
        assert lost == 0
        assert found.success == (len(self.urls) if success is None else success), found.reasons
        return found

    def verify_redis_error(self, error: str, workers: str, producer: str) -> None:
        """Verify the output of a run with a Redis error, and add it to the table of Redis errors."""
        found = self.verify(None)
        twice = sum(times - 1 for times in self.site.hits(self.name).values())
        lost = len(self.urls) - found.outcomes + found.lost
        table.answers.append(table.Answer(error, workers, producer, len(self.urls), found.outcomes, lost, twice))


@dataclass(frozen=True)
class Results:
    """The verified manifest rows of a finished run."""

    rows: list[dict[str, Any]]
    reasons: Counter[str]

    @property
    def outcomes(self) -> int:
        """Number of Outcomes."""
        return len(self.rows)

    @property
    def success(self) -> int:
        """Number of saved images."""
        return self.outcomes - self.reasons.total()

    @property
    def lost(self) -> int:
        """Number of images given up as lost."""
        return self.reasons["lost"]

    def facts(self, *but: str) -> list[tuple[Any, ...]]:
        """Return the columns that must be equal in two runs over the same list. The URLs are without the run's name."""
        names = [name for name in FACTS if name not in but]
        return [tuple(_without_run(row[name]) if name == "url" else row[name] for name in names) for row in self.rows]


def verify_output(out: Path, site: Site, urls: Sequence[str]) -> Results:
    """Verify that a run has one Outcome per request, in the right place, and one complete file per saved image."""
    rows = processes.rows(out)
    assert [row["url"] for row in rows] == list(urls)
    assert len({row["key"] for row in rows}) == len(rows)
    for number, row in enumerate(rows):
        assert (row["status"] == "success") == (row["reason"] is None) == (row["path"] is not None), row
        if row["path"] is None:
            continue
        body = (out / row["path"]).read_bytes()
        assert (len(body), sha256(body).hexdigest()) == (row["bytes"], row["sha256"]), row
        if urls[number].startswith(site.url):
            assert body == site.originals[number % _DIFFERENT_IMAGES], row
    assert processes.image_files(out) - _temporary(out) == {row["path"] for row in rows if row["path"] is not None}
    assert not _temporary(out)
    return Results(rows, Counter(row["reason"] for row in rows if row["reason"] is not None))


def _temporary(out: Path) -> set[str]:
    return {f"{_TEMPORARY}/{name}" for name in processes.files_below(out / _TEMPORARY)}


def _without_run(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2] + "?" + url.partition("&")[2].partition("&")[0]
