"""The keeper of a local fleet: the process that starts its server and workers, and ends them when its owner is gone.

It is started by ``producer.local`` in a session of its own, so that a terminal's Ctrl-C does not reach it or what it
keeps, and it is their parent, so that it can end them by an id that is surely theirs. Its standard input is a pipe from
the producer. However the producer ends, also by SIGKILL, the pipe closes; then the keeper ends everything, in the
reverse order of starting, and removes what was left on the disk.

It is a script of the standard library alone: it is up in a few milliseconds.

Commands, one JSON object on a line of standard input::

    {"start": "worker-1", "argv": [...], "env": {...}, "cwd": "...", "log": "/path", "grace": 5.0, "core": 0}
    {"remove": ["/path/of/a/folder", ...]}      folders to remove at the end; may be said again

Reports, one JSON object on a line of standard output::

    {"started": "worker-1", "pid": 4711}
    {"failed": "worker-1", "error": "..."}      it could not be started
    {"exited": "worker-1", "code": -9}          it ended by itself
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POLL = 0.1


@dataclass
class Kept:
    """A process that is kept, and the seconds it is given to end by itself once asked to."""

    name: str
    process: subprocess.Popen[bytes]
    grace: float


class Keeper:
    """What is kept, in the order of starting."""

    def __init__(self) -> None:
        self._kept: list[Kept] = []
        self._folders: list[str] = []

    def obey(self, command: dict[str, Any]) -> None:
        """Carry one command out."""
        if "start" in command:
            self._start(command)
        if "remove" in command:
            self._folders.extend(command["remove"])

    def report_exits(self) -> None:
        """Report what has ended by itself, once."""
        for kept in list(self._kept):
            if kept.process.poll() is not None:
                self._kept.remove(kept)
                _say({"exited": kept.name, "code": kept.process.returncode})

    def end_all(self) -> None:
        """End every process, the last one first, and remove the folders."""
        # Workers go together: each may need its grace to finish what it is at.
        while self._kept:
            grace = self._kept[-1].grace
            together = [kept for kept in self._kept if kept.grace == grace]
            self._kept = [kept for kept in self._kept if kept.grace != grace]
            _end(together, grace)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self, command: dict[str, Any]) -> None:
        name = command["start"]
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
            _say({"failed": name, "error": str(error)})
            return
        core = command.get("core")
        if core is not None:
            # The threads that it starts from now on stay there with it. It works on any core, only slower.
            with suppress(OSError):
                os.sched_setaffinity(process.pid, {core})
        self._kept.append(Kept(name, process, command.get("grace", 5.0)))
        _say({"started": name, "pid": process.pid})


def _end(together: list[Kept], grace: float) -> None:
    for kept in together:
        with suppress(ProcessLookupError):
            kept.process.terminate()
    ends = time.monotonic() + grace
    for kept in together:
        try:
            kept.process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            kept.process.kill()
            kept.process.wait()


def _say(report: dict[str, Any]) -> None:
    # The owner may be gone already; then nobody needs to know.
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Keep until standard input closes or a signal asks for the end."""
    keeper = Keeper()
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
        if selector.select(_POLL):
            block = os.read(source, 65536)
            if not block:
                break
            *lines, pending = (pending + block).split(b"\n")
            for line in lines:
                keeper.obey(json.loads(line))
        keeper.report_exits()
    keeper.end_all()


if __name__ == "__main__":
    main()
