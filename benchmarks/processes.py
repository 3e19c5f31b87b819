"""Measure a command and all its descendants: the CPU time for each role, and the peak memory."""

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

#: Seconds between two samples of the known processes.
_SAMPLE = 0.1
#: The number of samples between two searches for new processes. A search is expensive.
_SEARCH_EVERY = 10
#: Reading the unique memory of all processes takes milliseconds. So it is read only when resident memory has grown by
#: the factor `_GROWTH`, and at every `_FULL`th sample. Some pages are shared at first and later become private to a
#: process. Without these regular readings, such pages would be missed.
_GROWTH, _FULL = 1.02, 50
#: The roles of processes. Every process other than Redis, workers and Flower counts as the command itself.
COMMAND, REDIS, WORKERS, FLOWER = "producer", "redis", "workers", "flower"
#: The role for CPU time that the samples missed. This is the time of short-lived processes, and the last tenth of a
#: second of every other process.
UNSEEN = "unseen"


@dataclass(frozen=True)
class Measured:
    """A command's time, CPU and memory from its start to its exit, and its output.

    ``cpu`` is in seconds by role. The roles add up to the total that the operating system counted. ``peak_memory`` is
    the sum of the processes' unique set sizes, in bytes. This much memory would become free if the processes ended.
    """

    seconds: float
    cpu: Mapping[str, float]
    peak_memory: int
    output: str


def measure(
    argv: Sequence[str], env: Mapping[str, str], inspect: Callable[[str, psutil.Process], None] | None = None
) -> Measured:
    """Run a command to its end and return the CPU time and memory of its process tree.

    Args:
        argv: the command.
        env: variables to add to this process's environment.
        inspect: called about once a second for each process, with its role and the process.

    Raises:
        RuntimeError: the command failed.
    """
    before = _children_cpu()
    started = time.monotonic()
    process = subprocess.Popen(
        argv, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    sampler = _Sampler(process.pid, inspect)
    try:
        with sampler:
            output, errors = process.communicate()
            seconds = time.monotonic() - started
    except BaseException:
        # The command gets the signal of Ctrl-C, so that the command ends its own children.
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed with {process.returncode}:\n{errors[-2000:]}")
    cpu = sampler.cpu()
    cpu[UNSEEN] = max(0.0, _children_cpu() - before - sum(cpu.values()))
    return Measured(seconds, cpu, sampler.peak_memory, output)


class _Sampler:
    """A context manager that samples a process tree in a thread."""

    def __init__(self, pid: int, inspect: Callable[[str, psutil.Process], None] | None) -> None:
        self._pid, self._inspect = pid, inspect
        self._members: dict[psutil.Process, str] = {}
        self._used: dict[psutil.Process, float] = {}
        self._resident = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")
        self.peak_memory = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def cpu(self) -> dict[str, float]:
        """Return the sampled CPU seconds by role."""
        found: dict[str, float] = {}
        for member, seconds in self._used.items():
            role = self._members[member]
            found[role] = found.get(role, 0.0) + seconds
        return found

    def _run(self) -> None:
        for sample in count():
            if self._done.wait(_SAMPLE):
                return
            if sample % _SEARCH_EVERY == 0:
                self._find_members()
            resident = 0
            for member in self._members:
                with suppress(psutil.Error):
                    times = member.cpu_times()
                    self._used[member] = times.user + times.system
                    resident += member.memory_info().rss
            if sample % _FULL == 0 or resident > self._resident * _GROWTH:
                self._resident = max(self._resident, resident)
                self._update_peak()

    def _find_members(self) -> None:
        try:
            root = psutil.Process(self._pid)
            present = [root, *root.children(recursive=True)]
        except psutil.Error:
            return
        for member in present:
            with suppress(psutil.Error):
                # Read the role again for each sample, because a process may execute another program later. A process
                # that has ended keeps its role, because its arguments can't be read any more.
                role = COMMAND if member == root else _role(member.cmdline()) or self._members.get(member, COMMAND)
                self._members[member] = role
                if self._inspect is not None:
                    self._inspect(role, member)

    def _update_peak(self) -> None:
        unique = 0
        for member in self._members:
            with suppress(psutil.Error):
                unique += member.memory_full_info().uss
        self.peak_memory = max(self.peak_memory, unique)


def _role(argv: Sequence[str]) -> str | None:
    """Return the role of a process from its arguments, or None if it has no arguments."""
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
    """Return the CPU seconds of all descendants that have ended and been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
