"""The producer's end of a supervisor: processes that are started by it, and surely end with it.

See ``producer/local_fleet/supervisor.py`` for the process at the other end of the pipe.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from producer.local_fleet import supervisor
from tasks.errors import CommandError

_log = logging.getLogger(__name__)
#: Where the packages of the application are: the current folder of what is started.
ROOT = Path(supervisor.__file__).parents[2]
#: The longest path of a Unix socket is 104 bytes on some systems.
_SOCKET_PATH_LIMIT = 100


class SupervisorClient:
    """A private folder and the processes that live with it; a context manager that ends them and removes it."""

    def __init__(self) -> None:
        self.folder = _private_folder()
        #: The process ids of what was started, by name; of what was started again, the new ones.
        self.pids: dict[str, int] = {}
        #: How often each was started again, by name; who never was is not in it.
        self.restarts: dict[str, int] = {}
        self._exits: dict[str, str] = {}
        #: How those ended that exited with a status and were started again.
        self._failed_exits: dict[str, str] = {}
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-P", supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
            encoding="utf-8",
        )
        self._listener = threading.Thread(target=self._listen, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._listener.start()
        self.remove_at_end(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing the pipe is the whole of it: the supervisor does the same when we are killed.
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._listener.join()
        self._process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        grace: float,
        core: int | None = None,
        restart: bool = False,
    ) -> None:
        """Start a process; its output goes to a log in the folder.

        Args:
            name: what it is called here.
            argv: its command.
            env: what it has in its environment besides ours.
            grace: the seconds it has to end.
            core: the only core that it may use; None for all.
            restart: whether it is started again when it ends by itself, unless it keeps ending.
        """
        self._send(
            {
                "start": name,
                "argv": list(argv),
                "env": dict(env),
                "cwd": str(ROOT),
                "log": str(self.log(name)),
                "grace": grace,
                "core": core,
                "restart": restart,
            }
        )

    def remove_at_end(self, *folders: Path) -> None:
        """Have folders removed once all processes have ended."""
        self._send({"remove": [str(folder) for folder in folders]})

    def check(self, starting: bool = False) -> None:
        """Make sure that all processes are alive, or about to be started again.

        Args:
            starting: whether they are still coming up: then one that exits with a status, as over a setting that is
                wrong, is not waited for until it has done so again and again.

        Raises:
            CommandError: one of them has ended for good.
        """
        with self._lock:
            ended = next(iter([*self._exits.items(), *(self._failed_exits.items() if starting else ())]), None)
        if ended is not None:
            name, how = ended
            raise CommandError(
                f"A process that this command started has ended: {name}",
                f"{how}; its last words were: {self.log_tail(name)}",
                "What is saved stays. Look at the words above, and at the machine's memory and disk.",
            )

    def log(self, name: str) -> Path:
        """Return where a process's output goes."""
        return self.folder / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """Return the last lines of a process's output."""
        try:
            lines = self.log(name).read_text(errors="replace", encoding="utf-8").strip().splitlines()
        except OSError:
            return "none"
        return " / ".join(line.strip() for line in lines[-3:]) or "none"

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            # The kernel may close the output of a killed process before its input.
            if "supervisor" in self._exits:
                raise BrokenPipeError
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise CommandError(
                "The process that keeps the local fleet has ended",
                "it was killed, or could not start",
                "Run the command again.",
            ) from error

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            report = json.loads(line)
            with self._lock:
                if "started" in report:
                    self.pids[report["started"]] = report["pid"]
                elif "restarted" in report:
                    name, how = report["restarted"], _describe_exit(report["code"])
                    self.pids[name] = report["pid"]
                    self.restarts[name] = self.restarts.get(name, 0) + 1
                    if report["code"] >= 0:
                        self._failed_exits[name] = how
                    _log.warning("%s is started again: %s", name, how)
                elif "exited" in report:
                    self._exits[report["exited"]] = _describe_exit(report["code"])
                elif "failed" in report:
                    self._exits[report["failed"]] = f"it could not be started ({report['error']})"
        with self._lock:
            self._exits["supervisor"] = "its output closed"


def _private_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="imagefleet-"))
    if len(os.fsencode(folder / "redis.sock")) > _SOCKET_PATH_LIMIT:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="imagefleet-", dir="/tmp"))  # short
    return folder


def _describe_exit(code: int) -> str:
    return f"it was ended by signal {-code}" if code < 0 else f"it exited with status {code}"
