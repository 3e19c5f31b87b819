"""The producer's side of a supervisor: start processes that are certain to end with the producer.

``producer/local_fleet/supervisor.py`` is the process at the other end of the pipe.
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
#: The folder with the application's packages; the working directory of started processes.
ROOT = Path(supervisor.__file__).parents[2]
#: The longest path of a Unix socket is 104 bytes on some systems.
_SOCKET_PATH_LIMIT = 100


class SupervisorClient:
    """A private folder and supervised processes.

    This context manager ends the processes and removes the folder.
    """

    def __init__(self) -> None:
        self.folder = _private_folder()
        #: The ids of the current processes, by name. A restart changes the id.
        self.pids: dict[str, int] = {}
        #: The number of restarts by process name. Processes that were never restarted are left out.
        self.restarts: dict[str, int] = {}
        self._exits: dict[str, str] = {}
        #: A description of the last exit of each process that exited with a status and was restarted, by process name.
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
        self.begin_stop()
        assert self._process.stdout is not None
        self._process.wait()
        self._listener.join()
        self._process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin_stop(self) -> None:
        """Let the processes end, and do not wait for them. The end of the context waits."""
        # Closing the pipe is enough: the supervisor then ends as if the producer had been killed.
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        grace: float,
        core: int | None = None,
        restart: bool = False,
    ) -> None:
        """Start a process, and write its output to a log file in the folder.

        Args:
            name: a name for the process.
            argv: its command.
            env: variables to add to the producer's environment.
            grace: seconds between SIGTERM and SIGKILL.
            core: the CPU core to pin the process to; None for all cores.
            restart: whether to restart the process if it ends unexpectedly. A process that keeps ending is not
                restarted any more.
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
        """Remove these folders once all processes have ended."""
        self._send({"remove": [str(folder) for folder in folders]})

    def check(self, starting: bool = False) -> None:
        """Check that all processes are running or about to be restarted.

        Args:
            starting: whether the processes are still starting. If so, the first exit with a status is an error,
                because its cause is probably a wrong setting.

        Raises:
            CommandError: a process has ended for good.
        """
        with self._lock:
            ended = next(iter([*self._exits.items(), *(self._failed_exits.items() if starting else ())]), None)
        if ended is not None:
            name, how = ended
            raise CommandError(
                f"A process of this command has ended: {name}",
                f"{how}; its last output: {self.log_tail(name)}",
                "Saved images are kept. See the output above, and check the machine's memory and disk.",
            )

    def log(self, name: str) -> Path:
        """Return the path of a process's log."""
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
            # When a process is killed, the kernel may close its output before its input.
            if "supervisor" in self._exits:
                raise BrokenPipeError
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise CommandError(
                "The supervisor of the local fleet has ended",
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
                    _log.warning("restarted %s: %s", name, how)
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
        folder = Path(tempfile.mkdtemp(prefix="imagefleet-", dir="/tmp"))  # a short path
    return folder


def _describe_exit(code: int) -> str:
    return f"it was ended by signal {-code}" if code < 0 else f"it exited with status {code}"
