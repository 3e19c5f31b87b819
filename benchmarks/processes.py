"""What a command and all its descendants take: CPU by role, and the peak of their memory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import psutil

#: Seconds between two looks at the processes that are known.
_SAMPLE = 0.1
#: Looks between two at who is there, which is dear.
_ROUND = 10
#: Unique memory takes milliseconds to add up: it is read when resident memory has grown by so much, and once in so many
#: looks, because pages that are shared at first become a process's own.
_GROWTH, _FULL = 1.02, 50
#: The roles of processes. What is none of the last three is the command itself.
COMMAND, REDIS, WORKERS, FLOWER = "producer", "redis", "workers", "flower"
#: The CPU that no look saw: of processes that ended soon after they began, and of all others' last tenth of a second.
UNSEEN = "unseen"


@dataclass(frozen=True)
class Measured:
    """What a command took, from its start to its exit.

    ``cpu`` is in seconds by role; all together are what the system itself counted. ``peak_memory`` is in bytes: the sum
    of the processes' unique set sizes, which would be free if they ended.
    """

    seconds: float
    cpu: Mapping[str, float]
    peak_memory: int
    output: str


def measure(
    argv: Sequence[str], env: Mapping[str, str], look: Callable[[str, psutil.Process], None] | None = None
) -> Measured:
    """Run a command to its end and return what its process tree took.

    Args:
        argv: the command.
        env: what it is told besides this process's environment.
        look: called about once a second with the role of each process and the process.

    Raises:
        RuntimeError: the command failed.
    """
    before = _children_cpu()
    started = time.monotonic()
    process = subprocess.Popen(
        argv, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    watcher = _Watcher(process.pid, look)
    try:
        with watcher:
            output, errors = process.communicate()
            seconds = time.monotonic() - started
    except BaseException:
        # As Ctrl-C on a terminal: the command ends what it has started.
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed with {process.returncode}:\n{errors[-2000:]}")
    cpu = watcher.cpu()
    cpu[UNSEEN] = max(0.0, _children_cpu() - before - sum(cpu.values()))
    return Measured(seconds, cpu, watcher.peak_memory, output)


class _Watcher:
    """A thread that looks at a process tree; a context manager."""

    def __init__(self, pid: int, look: Callable[[str, psutil.Process], None] | None) -> None:
        self._pid, self._look = pid, look
        self._members: dict[psutil.Process, str] = {}
        self._used: dict[psutil.Process, float] = {}
        self._resident = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")
        self.peak_memory = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds that were seen, by role."""
        found: dict[str, float] = {}
        for member, seconds in self._used.items():
            role = self._members[member]
            found[role] = found.get(role, 0.0) + seconds
        return found

    def _watch(self) -> None:
        for look in count():
            if self._done.wait(_SAMPLE):
                return
            if look % _ROUND == 0:
                self._find_members()
            resident = 0
            for member in self._members:
                with suppress(psutil.Error):
                    times = member.cpu_times()
                    self._used[member] = times.user + times.system
                    resident += member.memory_info().rss
            if look % _FULL == 0 or resident > self._resident * _GROWTH:
                self._resident = max(self._resident, resident)
                self._add_up()

    def _find_members(self) -> None:
        try:
            root = psutil.Process(self._pid)
            present = [root, *root.children(recursive=True)]
        except psutil.Error:
            return
        for member in present:
            with suppress(psutil.Error):
                # A process may become another program after it was first seen, and one that ends has no arguments left.
                role = COMMAND if member == root else _role(member.cmdline()) or self._members.get(member, COMMAND)
                self._members[member] = role
                if self._look is not None:
                    self._look(role, member)

    def _add_up(self) -> None:
        unique = 0
        for member in self._members:
            with suppress(psutil.Error):
                unique += member.memory_full_info().uss
        self.peak_memory = max(self.peak_memory, unique)


def _role(argv: Sequence[str]) -> str | None:
    """Return the role of a process by its arguments, or None without any."""
    if not argv:
        return None
    words = " ".join(argv[:6])
    if "flower" in words:
        return FLOWER
    if "celery" in words:
        return WORKERS
    if "redis-server" in words or "valkey-server" in words:
        return REDIS
    return COMMAND


def _children_cpu() -> float:
    """Return the CPU seconds of all descendants that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
