"""The supervisor of a local fleet: the process that starts its server and workers, and ends them when its owner is
gone.

It is started by ``producer.local_fleet.fleet`` in a session of its own, so that a terminal's Ctrl-C does not reach it
or what it keeps, and it is their parent, so that it can end them by an id that is surely theirs. Its standard input is
a pipe from the producer. However the producer ends, also by SIGKILL, the pipe closes; then the supervisor ends
everything, in the reverse order of starting, and removes what was left on the disk.

It is a script of the standard library alone: it is up in a few milliseconds.

Commands, one JSON object on a line of standard input::

    {"start": "worker-1", "argv": [...], "env": {...}, "cwd": "...", "log": "/path", "grace": 5.0, "core": 0,
     "restart": true}                           started again when it ends by itself
    {"remove": ["/path/of/a/folder", ...]}      folders to remove at the end; may be said again

Reports, one JSON object on a line of standard output::

    {"started": "worker-1", "pid": 4711}
    {"failed": "worker-1", "error": "..."}      it could not be started
    {"restarted": "worker-1", "pid": 4712, "code": -9}    it ended by itself, and was started again
    {"exited": "worker-1", "code": -9}          it ended by itself, and is not, or no more, started again
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
    """How often a process may be started again: so many times in so many seconds."""

    times: int
    seconds: float


#: Who was killed did nothing wrong itself: one bad image after the other may kill a dozen workers within a minute.
KILLED = RestartIntensity(100, 600.0)
#: Who exits by itself, as over a setting that is wrong, will most often do so again.
EXITED = RestartIntensity(3, 60.0)
#: Seconds before a process is started again: the first for one that had not ended for a minute, doubled with each end
#: since, up to the longest.
_FIRST_DELAY_SECONDS, _MAX_DELAY_SECONDS = 0.05, 1.0


@dataclass
class RestartPolicy:
    """How often a process has ended by itself lately, and so whether and when it is started again; times in seconds."""

    _ends: dict[RestartIntensity, list[float]] = field(default_factory=dict)

    def next_delay(self, code: int, now: float) -> float | None:
        """Return the seconds until a process that ended now with this code is started again; None if it is not.

        The code is as subprocess has it: of a process that was ended by a signal it is negative.
        """
        bound = KILLED if code < 0 else EXITED
        ends = [end for end in self._ends.get(bound, []) if now - end < bound.seconds]
        self._ends[bound] = [*ends, now]
        if len(ends) >= bound.times:
            return None
        recent = sum(now - end < 60.0 for some in self._ends.values() for end in some)
        return min(_FIRST_DELAY_SECONDS * 2.0 ** (recent - 1), _MAX_DELAY_SECONDS)


@dataclass
class Child:
    """A process that is kept, and how it was started."""

    command: dict[str, Any]
    process: subprocess.Popen[bytes]
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    #: When it is to be started again, by the monotonic clock; None while it runs.
    restart_at: float | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.command["start"])

    @property
    def grace(self) -> float:
        """The seconds it is given to end by itself once asked to."""
        return float(self.command.get("grace", 5.0))


class Supervisor:
    """What is kept, in the order of starting."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._folders: list[str] = []

    def handle_command(self, command: dict[str, Any]) -> None:
        """Carry one command out."""
        if "start" in command:
            process = _start_process(command)
            if process is not None:
                self._children.append(Child(command, process))
                _send_report({"started": command["start"], "pid": process.pid})
        if "remove" in command:
            self._folders.extend(command["remove"])

    def restart_exited(self) -> None:
        """Start again what has ended by itself and may be, and report once what may not."""
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
        """End every process, the last one first, and remove the folders."""
        # Workers go together: each may need its grace to finish what it is at.
        while self._children:
            grace = self._children[-1].grace
            together = [child for child in self._children if child.grace == grace]
            self._children = [child for child in self._children if child.grace != grace]
            _stop_processes(together, grace)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def _start_process(command: dict[str, Any]) -> subprocess.Popen[bytes] | None:
    """Start a process as a command says; where it can't be started, report that and return None."""
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
        # The threads that it starts from now on stay there with it. It works on any core, only slower.
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
    # The owner may be gone already; then nobody needs to know.
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Keep until standard input closes or a signal asks for the end."""
    supervisor = Supervisor()
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)
    source = sys.stdin.fileno()
    os.set_blocking(source, False)
    selector = selectors.DefaultSelector()
    selector.register(source, selectors.EVENT_READ)
    pending = b""
    while not asked:
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
