"""Count a run's sent and delivered messages in the append-only file of the run's own Redis.

The file contains every change in Redis, so the measurement sends no commands to Redis. The measurement opens the file
when it first sees the server. So the measurement can still read the file after the run, even though the file has been
deleted. Needs Redis 7 or newer, because older versions use another format.
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
from tasks.celery import IMAGE_QUEUE

_BLOCK = 1 << 20


class MessageCounter:
    """Counts messages in the append-only files of a run's Redis.

    This context manager keeps the files open.
    """

    def __init__(self) -> None:
        self._files: dict[Path, IO[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def inspect(self, role: str, process: psutil.Process) -> None:
        """Open the files created by Redis since the last call; `processes.measure` calls this."""
        if role != processes.REDIS:
            return
        # The working directory of Redis is its data folder. The arguments of Redis don't show the folder, because Redis
        # overwrites them with a process title.
        folder = Path(process.cwd()) / "appendonlydir"
        # After a rewrite, Redis starts a new file and deletes the old ones.
        for path in folder.glob("*.incr.aof"):
            if path not in self._files:
                with suppress(FileNotFoundError):
                    self._files[path] = path.open("rb")

    @property
    def has_files(self) -> bool:
        """Whether a Redis with an append-only file was found."""
        return bool(self._files)

    def count(self) -> tuple[Counter[str], Counter[str]]:
        """Return how often each image's task was queued, and how often it was delivered to a worker."""
        sent: Counter[str] = Counter()
        delivered: Counter[str] = Counter()
        for command in self._commands():
            match command:
                case [b"LPUSH" | b"RPUSH", queue, *values] if queue == IMAGE_QUEUE.encode():
                    sent.update(_task(json.loads(value)) for value in values)
                # The hash of unacknowledged messages has either kombu's own name, or a name that belongs to one worker.
                case [b"HSET", key, *pairs] if key.partition(b":")[0] == b"unacked":
                    records = [json.loads(record) for record in pairs[1::2]]
                    delivered.update(_task(message) for message, _, route in records if route == IMAGE_QUEUE)
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
