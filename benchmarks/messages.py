"""How many messages a run sent and how many were delivered, told by the append-only file of the run's own Redis.

The file holds every change of that Redis, so nothing is asked of it while it is measured: the file is opened when the
server is first seen, and read when the run is over, though the server has removed it by then. Redis 7 or newer: older
ones write it in another form.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import hiredis
import psutil

from benchmarks import processes
from tasks.celery import IMAGES

_BLOCK = 1 << 20


class Ledger:
    """The append-only files of a run's Redis; a context manager that keeps them open."""

    def __init__(self) -> None:
        self._files: dict[Path, IO[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def look(self, role: str, process: psutil.Process) -> None:
        """Open what a Redis has begun to write since the last look; `processes.measure` calls this."""
        if role != processes.REDIS:
            return
        # A Redis goes to its folder, and writes a title over its arguments.
        folder = Path(process.cwd()) / "appendonlydir"
        # It begins a new one when it has rewritten what the last ones say, and then removes those.
        for path in folder.glob("*.incr.aof"):
            if path not in self._files:
                with suppress(FileNotFoundError):
                    self._files[path] = path.open("rb")

    @property
    def seen(self) -> bool:
        """Whether there was a Redis with such a file."""
        return bool(self._files)

    def messages(self) -> tuple[Counter[str], Counter[str]]:
        """Return how often each image's task was put into the queue, and how often it was handed to a worker."""
        sent: Counter[str] = Counter()
        delivered: Counter[str] = Counter()
        for command in self._commands():
            match command:
                case [b"LPUSH" | b"RPUSH", queue, *values] if queue == IMAGES.encode():
                    sent.update(_task(json.loads(value)) for value in values)
                # kombu's own name, or a worker's.
                case [b"HSET", key, *pairs] if key.partition(b":")[0] == b"unacked":
                    records = [json.loads(record) for record in pairs[1::2]]
                    delivered.update(_task(message) for message, _, route in records if route == IMAGES)
        return sent, delivered

    def _commands(self) -> Iterator[list[Any]]:
        for file in self._files.values():
            file.seek(0)
            reader = hiredis.Reader()
            while block := file.read(_BLOCK):
                reader.feed(block)
                while isinstance(command := reader.gets(), list):
                    yield [command[0].upper(), *command[1:]]


def _task(message: dict[str, Any]) -> str:
    return str(message["headers"]["id"])
