"""The supervisor of a local fleet: it starts the server and the workers, and ends them after the producer's end.

``producer.local_fleet.supervisor_client`` starts the supervisor in a new session, so that Ctrl-C on the terminal
reaches neither the supervisor nor its child processes. Because the supervisor is the parent of these processes, its
signals always reach the right ones. Its standard input is a pipe from the producer. The pipe closes when the producer
ends, even if SIGKILL ends it. Then the supervisor ends all processes, in reverse order of their start, and removes
their folders.

This script uses only the standard library, so it starts in a few milliseconds.

A command is a line of standard input with one JSON object::

    {"start": "worker-1", "argv": [...], "env": {...}, "cwd": "...", "log": "/path", "grace": 5.0, "core": 0,
     "restart": true}                           restart it if it ends unexpectedly
    {"remove": ["/path/of/a/folder", ...]}      folders to remove at the end; repeatable

A report is a line of standard output with one JSON object::

    {"started": "worker-1", "pid": 4711}
    {"failed": "worker-1", "error": "..."}      it could not be started
    {"restarted": "worker-1", "pid": 4712, "code": -9}    it ended unexpectedly, and was restarted
    {"exited": "worker-1", "code": -9}          it ended unexpectedly, and is not restarted (any more)
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class RestartIntensity:
    """A limit for restarts: at most ``times`` restarts within ``seconds`` seconds."""

    times: int
    seconds: float


#: The limit for killed processes. The cause is often outside the process: a few bad images may kill a dozen workers
#: within a minute.
KILLED = RestartIntensity(100, 600.0)
#: The limit for processes that exit with a status. Such processes will most likely exit again, for example because of a
#: wrong setting.
EXITED = RestartIntensity(3, 60.0)
#: The shortest and the longest delay before a restart, in seconds. The delay doubles for each earlier end of the
#: process in the last minute.
_FIRST_DELAY_SECONDS, _MAX_DELAY_SECONDS = 0.05, 1.0


@dataclass
class RestartPolicy:
    """Decides whether and when to restart a process, from its recent unexpected ends; times are in seconds."""

    _ends: dict[RestartIntensity, list[float]] = field(default_factory=dict)

    def next_delay(self, code: int, now: float) -> float | None:
        """Return the seconds to wait before the restart of a process that ended with this code; None for no restart.

        ``code`` is subprocess's return code, negative for a signal; ``now`` is the time of the end in seconds.
        """
        intensity = KILLED if code < 0 else EXITED
        ends = [end for end in self._ends.get(intensity, []) if now - end < intensity.seconds]
        self._ends[intensity] = [*ends, now]
        if len(ends) >= intensity.times:
            return None
        recent = sum(now - end < 60.0 for times in self._ends.values() for end in times)
        return min(_FIRST_DELAY_SECONDS * 2.0 ** (recent - 1), _MAX_DELAY_SECONDS)


@dataclass
class Child:
    """A supervised process, and the command that started it."""

    command: dict[str, Any]
    process: subprocess.Popen[bytes]
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    #: The time at which to restart the process, by the monotonic clock; None while the process runs.
    restart_at: float | None = None

    @property
    def name(self) -> str:
        """The name of the process."""
        return str(self.command["start"])

    @property
    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return float(self.command.get("grace", 5.0))


class Supervisor:
    """The supervised processes in their starting order, and the folders to remove at the end."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._folders: list[str] = []

    def handle_command(self, command: dict[str, Any]) -> None:
        """Execute one command."""
        if "start" in command:
            process = _start_process(command)
            if process is not None:
                self._children.append(Child(command, process))
                _send_report({"started": command["start"], "pid": process.pid})
        if "remove" in command:
            self._folders.extend(command["remove"])

    def restart_exited(self) -> None:
        """Restart the processes that ended unexpectedly. If a process must not be restarted, report its end once."""
        now = time.monotonic()
        for child in list(self._children):
            code = child.process.poll()
            if code is None:
                continue
            if child.restart_at is None:
                pause = child.policy.next_delay(code, now) if child.command.get("restart") else None
                if pause is None:
                    self._children.remove(child)
                    _send_report({"exited": child.name, "code": code})
                    continue
                child.restart_at = now + pause
            if now >= child.restart_at:
                self._start_again(child, code)

    def _start_again(self, child: Child, code: int) -> None:
        process = _start_process(child.command)
        if process is None:
            self._children.remove(child)
            return
        child.process, child.restart_at = process, None
        _send_report({"restarted": child.name, "pid": process.pid, "code": code})

    def stop_all(self) -> None:
        """End all processes, the last one first, and remove the folders."""
        # Stop the workers together, because each may need its whole grace period for its running tasks.
        while self._children:
            grace = self._children[-1].grace
            together = [child for child in self._children if child.grace == grace]
            self._children = [child for child in self._children if child.grace != grace]
            _stop_processes(together, grace)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def _start_process(command: dict[str, Any]) -> subprocess.Popen[bytes] | None:
    """Start the process of a command. If that fails, report it and return None."""
    try:
        with Path(command["log"]).open("ab") as log:
            process = subprocess.Popen(
                command["argv"],
                env={**os.environ, **command.get("env", {})},
                cwd=command.get("cwd"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    except OSError as error:
        _send_report({"failed": command["start"], "error": str(error)})
        return None
    core = command.get("core")
    if core is not None:
        # Future threads of the process inherit the core. If pinning fails, the process only runs slower.
        with suppress(OSError):
            os.sched_setaffinity(process.pid, {core})
    return process


def _stop_processes(together: list[Child], grace: float) -> None:
    for child in together:
        with suppress(ProcessLookupError):
            child.process.terminate()
    ends = time.monotonic() + grace
    for child in together:
        try:
            child.process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()


def _send_report(report: dict[str, Any]) -> None:
    # The producer may have ended already. Then nobody needs the report.
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Supervise until standard input closes, or SIGTERM, SIGINT or SIGHUP arrives."""
    supervisor = Supervisor()
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    source = sys.stdin.fileno()
    os.set_blocking(source, False)
    selector = selectors.DefaultSelector()
    selector.register(source, selectors.EVENT_READ)
    pending = b""
    while not stopping:
        if selector.select(_POLL_SECONDS):
            block = os.read(source, 65536)
            if not block:
                break
            *lines, pending = (pending + block).split(b"\n")
            for line in lines:
                supervisor.handle_command(json.loads(line))
        supervisor.restart_exited()
    supervisor.stop_all()


if __name__ == "__main__":
    main()
