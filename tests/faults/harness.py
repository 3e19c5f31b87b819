"""A place where faults strike: a Redis, workers and producers that can be killed, and the proof of what came of a run.

Workers are started again when they die, as Compose does it. Each URL is asked for once in a run without faults, so what
nginx has counted beyond that was fetched twice.
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
from tasks.celery import IMAGES, SHARDS
from tests.conftest import redis_program
from tests.faults import once, table
from tests.integration import parts

#: Pictures that nginx has; the lists name them again and again, each time with another query.
_PICTURES = 200
#: Bytes that a picture has at least: a delay is made by sending it slowly.
_SMALLEST = 3_000
#: What two runs have to agree in.
FACTS = ("key", "url", "status", "reason", "path", "width", "height", "format", "bytes", "sha256")
#: Only while a worker writes is there anything in this folder.
_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Site:
    """An nginx with pictures, and what it was asked for."""

    url: str
    folder: Path
    originals: list[bytes]

    def urls(self, count: int, run: str, rate: int = 0) -> list[str]:
        """Return so many URLs, all different, of a run with this name.

        Args:
            count: how many.
            run: tells them from those of other runs.
            rate: bytes a second at which each is sent; at half a picture it takes about a second. 0 for no bound.
        """
        return [f"{self.url}/{number % _PICTURES}.png?run={run}&n={number}&rate={rate}" for number in range(count)]

    def hits(self, run: str) -> Counter[str]:
        """Return how often each URL of a run was asked for."""
        asked = (self.folder / "requests.log").read_text().splitlines()
        return Counter(line for line in asked if f"?run={run}&" in line)


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Serve small pictures, all different, by an nginx that sends each as slowly as its URL asks for."""
    files = folder / "files"
    files.mkdir()
    originals = []
    noise = random.Random(1)
    for number in range(_PICTURES):
        path = files / f"{number}.png"
        Image.frombytes("RGB", (40, 30), noise.randbytes(40 * 30 * 3)).save(path)
        originals.append(path.read_bytes())
    assert min(map(len, originals)) > _SMALLEST
    with parts.nginx(folder, files, "limit_rate $arg_rate;") as port:
        yield Site(f"http://127.0.0.1:{port}", folder, originals)


class Server:
    """A Redis with its append-only file, at a port that it keeps."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Take a folder for its data, and options on top of ours."""
        self.port = parts.free_port()
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
        """Start it, with what it held when it was killed; wait until it takes commands, unless told otherwise."""
        self._data.mkdir(exist_ok=True)
        conf = self._data / "redis.conf"
        if not conf.exists():
            # A copy: Sentinels have the servers that they watch write what they know into it.
            shutil.copy(REDIS_CONF, conf)
        argv = [redis_program(), str(conf), "--bind", "127.0.0.1", "--port", str(self.port)]
        argv += ["--dir", str(self._data), *self._options]
        with (self._data / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        if wait:
            parts.eventually(self._answers, "Redis")

    def kill(self, forget: bool = False) -> None:
        """Kill it; with ``forget``, take what it held away."""
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

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class Fleet:
    """Plain Celery workers, each of which is started again when it dies."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        """Take the folder below which they may write, and their broker."""
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
            thread = threading.Thread(target=self._keep, args=[name, argv], name=name)
            self._threads.append(thread)
            thread.start()

    def kill_one(self) -> None:
        """Kill one of them, whichever."""
        with self._lock:
            living = [process for process in self._processes.values() if process.poll() is None]
            if living:
                random.choice(living).kill()

    def end(self, grace: float = 15.0) -> None:
        """End all of them; others may be added after."""
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

    def said(self) -> str:
        """Return what all of them have logged."""
        return "".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("worker-*.log")))

    def _keep(self, name: str, argv: Sequence[str]) -> None:
        env = parts.environment(
            {
                "IMAGEFLEET_BROKER_URL": self._broker_url,
                "IMAGEFLEET_STORE_ROOTS": str(self._folder),
                "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1",
                "IMAGEFLEET_TASK_EVENTS": "off",
                once.SETTING: str(self._folder / "once"),
            }
        )
        with (self._folder / f"{name}.log").open("ab") as log:
            while not self._over.is_set():
                with self._lock:
                    process = subprocess.Popen(
                        argv, env=env, cwd=parts.ROOT, stdout=log, stderr=log, start_new_session=True
                    )
                    self._processes[name] = process
                process.wait()
                self.deaths += process.returncode != 0


@dataclass
class Arena:
    """One run and what it is done by; a context manager that ends all of it."""

    folder: Path
    site: Site
    #: What Redis is told besides our settings.
    redis_options: tuple[str, ...] = ()
    #: The module that is the `producer` command.
    module: str = "producer"
    _stack: ExitStack = field(default_factory=ExitStack)
    #: How often the fault struck, and when it did last.
    _struck: int = 0
    _last: float = 0.0

    def __enter__(self) -> Self:
        self.anew(self.folder.name)
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

    def anew(self, name: str) -> None:
        """Make room for another run, of another name, by the same Redis and workers."""
        self.name, self.out = name, self.folder / f"out-{name}"
        self._struck, self._last = 0, 0.0

    def list(self, count: int, rate: int = 0) -> Path:
        """Write a list of so many images; see `Site.urls`."""
        self.urls = self.site.urls(count, self.name, rate)
        source = self.folder / "list.txt"
        source.write_text("".join(f"{url}\n" for url in self.urls))
        return source

    def run(
        self, source: Path | str, *arguments: str, name: str = "run", stdin: int = subprocess.DEVNULL
    ) -> AbstractContextManager[parts.Background]:
        """Start a run; to be entered."""
        return self._started(name, ["run", source, "--out", self.out, *arguments], stdin)

    def resumed(self) -> AbstractContextManager[parts.Background]:
        """Go on with the run; to be entered."""
        return self._started("resume", ["resume", self.out], subprocess.DEVNULL)

    def resume(self) -> parts.Completed:
        """Go on with the run, to its end."""
        with self.resumed() as running:
            return running.wait(240)

    def _started(
        self, name: str, arguments: Sequence[str | Path], stdin: int
    ) -> AbstractContextManager[parts.Background]:
        argv = [sys.executable, "-m", self.module, *map(str, arguments), "--broker", self.server.url, "--json"]
        return parts.started(name, argv, self.folder, stdin=stdin)

    def strike(self) -> None:
        """Note that the fault strikes now."""
        self._struck += 1
        self._last = time.monotonic()

    def is_idle(self) -> bool:
        """Tell whether nothing is under way: no message waits, and none is in a worker's hands."""
        client = self.server.client
        return not (client.llen(IMAGES) or client.llen(SHARDS) or parts.unacked_count(client))

    def saved(self) -> int:
        """Return how many images are on the disk."""
        shards = self.out.glob("[0-9]*[0-9]/")
        return sum(sum(1 for _ in os.scandir(shard)) for shard in shards)

    def until_saved(self, count: int, running: parts.Background | None = None, seconds: float = 120.0) -> None:
        """Wait until so many images are on the disk."""

        def there() -> bool:
            assert running is None or running.process.poll() is None, running.err
            return self.saved() >= count

        parts.eventually(there, f"{count} images", seconds)

    def proven(self, fault: str | None, success: int | None = None, state: str = "complete") -> Verdict:
        """Prove what came of the run, and put it into the table.

        Args:
            fault: what the table calls it; None to keep it out.
            success: how many images are saved; None for all.
            state: what the run's record says.
        """
        recovered = time.monotonic() - self._last if self._last else 0.0
        found = verdict(self.out, self.site, self.urls)
        assert json.loads((self.out / "run.json").read_text())["state"] == state
        twice = sum(times - 1 for times in self.site.hits(self.name).values())
        lost = len(self.urls) - found.outcomes + found.lost
        if fault is not None:
            row = table.Row(fault, self._struck, len(self.urls), found.outcomes, lost, twice, recovered)
            table.rows.append(row)
        assert lost == 0
        assert found.success == (len(self.urls) if success is None else success), found.reasons
        return found

    def proven_answer(self, error: str, workers: str, producer: str) -> None:
        """Prove what came of a run whose Redis answered with an error, and put it into the table of those."""
        found = self.proven(None)
        twice = sum(times - 1 for times in self.site.hits(self.name).values())
        lost = len(self.urls) - found.outcomes + found.lost
        table.answers.append(table.Answer(error, workers, producer, len(self.urls), found.outcomes, lost, twice))


@dataclass(frozen=True)
class Verdict:
    """What is proven of a finished run."""

    rows: list[dict[str, Any]]
    reasons: Counter[str]

    @property
    def outcomes(self) -> int:
        """How many Outcomes it has."""
        return len(self.rows)

    @property
    def success(self) -> int:
        """How many images are saved."""
        return self.outcomes - self.reasons.total()

    @property
    def lost(self) -> int:
        """How many were given up."""
        return self.reasons["lost"]

    def facts(self, *but: str) -> list[tuple[Any, ...]]:
        """Return what two runs over the same list have to agree in, without what tells their URLs apart."""
        names = [name for name in FACTS if name not in but]
        return [tuple(_unmarked(row[name]) if name == "url" else row[name] for name in names) for row in self.rows]


def verdict(out: Path, site: Site, urls: Sequence[str]) -> Verdict:
    """Prove that a run is whole: each request has one Outcome, in its place; each file is whole, and named by one."""
    rows = parts.rows(out)
    assert [row["url"] for row in rows] == list(urls)
    assert len({row["key"] for row in rows}) == len(rows)
    for number, row in enumerate(rows):
        assert (row["status"] == "success") == (row["reason"] is None) == (row["path"] is not None), row
        if row["path"] is None:
            continue
        body = (out / row["path"]).read_bytes()
        assert (len(body), sha256(body).hexdigest()) == (row["bytes"], row["sha256"]), row
        if urls[number].startswith(site.url):
            assert body == site.originals[number % _PICTURES], row
    assert parts.image_files(out) - _temporary(out) == {row["path"] for row in rows if row["path"] is not None}
    assert not _temporary(out)
    return Verdict(rows, Counter(row["reason"] for row in rows if row["reason"] is not None))


def _temporary(out: Path) -> set[str]:
    return {f"{_TEMPORARY}/{name}" for name in parts.files_below(out / _TEMPORARY)}


def _unmarked(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2] + "?" + url.partition("&")[2].partition("&")[0]
