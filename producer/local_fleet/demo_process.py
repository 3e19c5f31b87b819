"""Run the demo image server in a separate process, so that it takes no CPU time from the downloading process."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from producer.local_fleet.supervisor_client import SupervisorClient
from producer.waiting import wait_until
from tasks.errors import CommandError

_STARTUP_SECONDS = 20.0
_SECONDS_PER_IMAGE = 0.1
_GRACE_SECONDS = 2.0


class DemoProcess:
    """A context manager that starts and stops a demo server on a free port of 127.0.0.1."""

    def __init__(self, latency: float = 0.0, ready: int = 0) -> None:
        """Prepare a demo server.

        Args:
            latency: seconds that the server waits before each image.
            ready: the number of images that the server draws before it listens.
        """
        self._arguments = ["--latency", str(latency), "--ready", str(ready)]
        self._startup_seconds = _STARTUP_SECONDS + _SECONDS_PER_IMAGE * ready
        self.url = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            supervisor = stack.enter_context(SupervisorClient())
            argv = [sys.executable, "-m", "producer.demo", "--port", "0", *self._arguments]
            supervisor.start("demo server", argv, {}, _GRACE_SECONDS)
            self.url = wait_until(lambda: _first_line(supervisor), self._startup_seconds, 0.01)
            if not self.url:
                raise CommandError(
                    "The demo server does not answer", "it did not start in time", "Run the command again."
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        """The address and port, in the form of IMAGEFLEET_ALLOW_NETWORKS."""
        return self.url.removeprefix("http://")


def _first_line(supervisor: SupervisorClient) -> str:
    """Return the server's first line of output, or an empty string if there is none yet.

    Raises:
        CommandError: the server has ended before its first line.
    """
    log = supervisor.log("demo server")
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    if "\n" not in text:
        supervisor.check()
        return ""
    return text.partition("\n")[0].strip()
