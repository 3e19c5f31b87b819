"""Sockets that keep a deadline.

requests times each wait on a socket, so a server that sends a byte a second can hold a download for ever. Here every
read looks at the deadline first, also while headers arrive and inside TLS: the sockets are subclasses that shorten
their timeout as the deadline comes near.

Each system call gives the other threads the interpreter, which costs more than most of the calls: a plain socket leaves
its timeout to the kernel instead of asking by ``poll`` first, and takes a small image together with its head.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any

from tasks.deadline import Deadline

#: How much one read takes at most, where that much has come.
_BUFFER_BYTES = 64 * 1024


class CurrentDeadline:
    """The deadline of the download that a thread is at; its sockets look here."""

    __slots__ = ("deadline", "tls_unverified")

    def __init__(self) -> None:
        self.deadline = Deadline(0, 0)
        #: Whether the last request went to a server that could not be verified.
        self.tls_unverified = False


class DeadlineSocket:
    """What both kinds of socket share: each call looks at the deadline first."""

    _current: CurrentDeadline | None = None
    #: Whether a byte has come since this was last set to False.
    has_received = False

    def use_deadline(self, current: CurrentDeadline) -> None:
        """Keep the deadline that stands in the holder from now on."""
        self._current = current

    def recv_into(self, *args: Any) -> int:
        """Receive; bounded by the deadline."""
        self._apply_timeout()
        try:
            size = int(super().recv_into(*args))  # type: ignore[misc]
        except BlockingIOError as error:
            raise TimeoutError("timed out") from error
        if size:
            self.has_received = True
        return size

    def sendall(self, *args: Any) -> None:
        """Send; bounded by the deadline."""
        self._apply_timeout()
        try:
            super().sendall(*args)  # type: ignore[misc]
        except BlockingIOError as error:
            raise TimeoutError("timed out") from error

    def makefile(self, mode: str = "r", buffering: int = _BUFFER_BYTES, **options: Any) -> Any:
        """Return a file of this connection, with a buffer in which a small image has room."""
        return super().makefile(mode, buffering, **options)  # type: ignore[misc]

    def _apply_timeout(self) -> None:
        if self._current is not None:
            self._set_timeout(self._current.deadline.wait())

    def _set_timeout(self, seconds: float) -> None:
        raise NotImplementedError


class PlainSocket(DeadlineSocket, socket.socket):  # type: ignore[misc]  # makefile has five forms
    """A plain connection; once it is paced, the kernel bounds its waits."""

    _timeout = 0.0

    def use_deadline(self, current: CurrentDeadline) -> None:
        """Keep the deadline that stands in the holder from now on."""
        super().use_deadline(current)
        # With a timeout of Python's, each call would be two: poll, and then the call itself.
        self.settimeout(None)

    def _set_timeout(self, seconds: float) -> None:
        if seconds != self._timeout:
            self._timeout = seconds
            # Zero would stand for no bound at all.
            value = struct.pack("@ll", *divmod(max(int(seconds * 1_000_000), 1), 1_000_000))
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


class TlsSocket(DeadlineSocket, ssl.SSLSocket):  # type: ignore[misc]
    """A connection inside TLS, which the context makes from a plain one; Python bounds its waits.

    OpenSSL would take the end of a wait that the kernel bounds for a call to be made again.
    """

    def _set_timeout(self, seconds: float) -> None:
        if self.gettimeout() != seconds:
            self.settimeout(seconds)
