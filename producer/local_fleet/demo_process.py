"""The demo image server in a process of its own, so that it takes no time from whoever downloads from it."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from producer.local_fleet.supervisor_client import SupervisorClient
from tasks.errors import CommandError

_STARTUP_SECONDS = 20.0
_SECONDS_PER_IMAGE = 0.1
_GRACE_SECONDS = 2.0


class DemoProcess:
    """A running demo server on a free port of 127.0.0.1; a context manager that starts it and ends it."""

    def __init__(self, latency: float = 0.0, ready: int = 0) -> None:
        """Take the seconds that it waits before each picture, and how many pictures it has drawn when it is there."""
        self._arguments = ["--latency", str(latency), "--ready", str(ready)]
        self._patience = _STARTUP_SECONDS + _SECONDS_PER_IMAGE * ready
        self.url = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            keeping = stack.enter_context(SupervisorClient())
            argv = [sys.executable, "-m", "producer.demo", "--port", "0", *self._arguments]
            keeping.start("demo server", argv, {}, _GRACE_SECONDS)
            ends = time.monotonic() + self._patience
            while not (line := _first_line(keeping)):
                keeping.check()
                if time.monotonic() > ends:
                    raise CommandError("The demo server does not answer", "it did not start in time", "Run it again.")
                time.sleep(0.01)
            self.url = line
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        """Its address and port, as IMAGEFLEET_ALLOW_NETWORKS takes them."""
        return self.url.removeprefix("http://")


def _first_line(supervisor: SupervisorClient) -> str:
    log = supervisor.log("demo server")
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    return text.partition("\n")[0].strip() if "\n" in text else ""
