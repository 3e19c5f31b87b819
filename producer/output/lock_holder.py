"""Describe the process that holds the lock of an output folder, for other processes and for messages."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
from dataclasses import asdict, dataclass
from typing import Any, Self

from tasks.errors import UsageError
from tasks.redaction import redacted

#: The name of the lock in an output folder.
NAME = ".lock"


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds a lock; ``since`` is in seconds since the epoch.

    The value contains no secrets. It has only the name of the command, because the command's options may contain
    secrets.
    """

    host: str
    pid: int
    since: float
    command: str
    #: The redacted URL of the process's broker; None for a local fleet.
    broker: str | None
    #: The URL of the private Redis of the process's local fleet; None before the fleet is ready, and for a broker. Only
    #: the user who runs the fleet can connect to it.
    fleet: str | None = None

    @classmethod
    def current(cls, broker: str | None, command: str) -> Self:
        """Return this process, with the URL of its broker and the name of its command."""
        return cls(socket.gethostname(), os.getpid(), time.time(), command, redacted(broker) if broker else None)

    @classmethod
    def from_json(cls, body: bytes) -> Self | None:
        """Return the holder that a JSON text describes; None if the text is missing or incomplete."""
        try:
            facts = json.loads(body)
            return cls(
                str(facts["host"]),
                int(facts["pid"]),
                float(facts["since"]),
                str(facts["command"]),
                None if facts["broker"] is None else str(facts["broker"]),
                None if facts.get("fleet") is None else str(facts["fleet"]),
            )
        except (ValueError, KeyError, TypeError):
            return None

    def to_json(self, **more: Any) -> bytes:
        """Return a JSON text with the holder and further facts."""
        return (json.dumps({**asdict(self), **more}) + "\n").encode()

    @property
    def text(self) -> str:
        """The process, host and start time, for messages."""
        if not self.pid:
            return "an unknown process"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


#: The holder of a lock that has no description of its holder yet.
UNKNOWN_HOLDER = LockHolder("an unknown host", 0, 0.0, "", None)


def taken_error(location: str, other: LockHolder) -> UsageError:
    """Return the error for a folder that another producer has locked."""
    command = f" (producer {other.command})" if other.command else ""
    return UsageError(
        f"Another producer works on {location}",
        f"it is {other.text}{command}"
        if other.pid
        else "the producer holds the folder's lock, but has not described itself yet",
        f"Wait until it has ended, or run `producer cancel {shlex.quote(location)}`.",
    )
